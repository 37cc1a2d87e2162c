"""`detect`, `inspect` and `client rollback` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.own_detectors import with_own_detectors
from client.versions.version_store import VersionStore
from common.formats.bundle import pack, unpack
from common.processes.packages import python_module
from flockwatch.cli import main
from server.flower.superlink_process import free_port
from tests.client.sample_versions import SCHEMA, lines, rows, version

COMMAND = python_module("flockwatch")
QUIET = "threshold.value=50"
"""Normal scores are below 10, those of the fault above 10,000; a budget would allow a false alert a day."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v7.safetensors").write_bytes(version(7).pack())


def events(count: int = 2000, fault_at: int | None = 1500) -> bytes:
    given = rows(count)
    if fault_at is not None:
        given[fault_at : fault_at + 10, 1] += 5000
    return b"\n".join(lines(given)) + b"\n"


def detect(*arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "detect", "--manifest", "v7.safetensors", "--set", QUIET, *arguments],
        input=content, capture_output=True, timeout=120,
    )  # fmt: skip


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text.startswith("flockwatch: "))
    return line


@pytest.mark.parametrize("source", ["stdin:", "file:events.jsonl", "file:events.csv", "file:events.parquet"])
def test_a_fault_in_a_stream_is_reported_with_its_cause(source: str) -> None:
    content = b""
    if source == "stdin:":
        content = events()
    elif source.endswith("jsonl"):
        Path("events.jsonl").write_bytes(events())
    else:
        named = [json.loads(line) for line in events().splitlines()]
        if source.endswith("csv"):
            table = [list(named[0]), *(event.values() for event in named)]
            Path("events.csv").write_text("\n".join(",".join(map(str, row)) for row in table))
        else:
            import pyarrow as pa
            import pyarrow.parquet

            pyarrow.parquet.write_table(pa.Table.from_pylist(named), "events.parquet")
    done = detect("--source", source, content=content)
    assert done.returncode == 0, done.stderr.decode()
    started, ended = map(json.loads, done.stdout.splitlines())
    assert (started["kind"], ended["kind"]) == ("incident_started", "incident_ended")
    assert started["alert"]["causes"][0]["feature"] == "b"
    assert started["started"] == 1e9 + 60 * 1500
    assert started["alert"]["version"] == 7
    assert ended["events"] == 10
    assert started["client"] == "v7"


def test_a_stream_continues_where_the_last_process_stopped() -> None:
    Path("events.jsonl").write_bytes(events(1000, fault_at=None))
    first = detect("--source", "file:events.jsonl", "--name", "edge")
    assert first.stdout == b""
    with Path("events.jsonl").open("ab") as file:
        file.write(events(2000, fault_at=1500))
    second = detect("--source", "file:events.jsonl", "--name", "edge", "--sink", "file:alerts.jsonl")
    assert second.returncode == 0, second.stderr.decode()
    assert second.stdout == b""
    assert len(Path("alerts.jsonl").read_bytes().splitlines()) == 2
    saved = json.loads(Path("runs/clients/edge/source.json").read_text())
    assert saved["position"]["offset"] == Path("events.jsonl").stat().st_size
    third = detect("--source", "file:events.jsonl", "--name", "edge")
    assert (third.returncode, third.stdout) == (0, b"")


@pytest.mark.parametrize(
    "content", ["", "{", '{"source": 1}', "[]", '{"source": "file:events.jsonl", "position": 5}']
)
def test_a_truncated_state_file_costs_the_position_only(content: str) -> None:
    Path("events.jsonl").write_bytes(events())
    state = Path("runs/clients/v7")
    state.mkdir(parents=True)
    (state / "source.json").write_text(content)
    (state / "buffer.ring").write_bytes(b"flk")
    done = detect("--source", "file:events.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.splitlines()) == 2


def test_detect_needs_no_tensorflow_and_little_memory() -> None:
    program = (
        "import re, sys\n"
        "from flockwatch.cli import main\n"
        "code = main(['detect', '--manifest', 'v7.safetensors', '--source', 'stdin:',\n"
        "             '--status', sys.argv[1], '--set', sys.argv[2]])\n"
        "heavy = {'tensorflow', 'keras', 'flwr', 'pyarrow', 'sklearn', 'paho'} & set(sys.modules)\n"
        "peak_kb = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(code, len(heavy), peak_kb)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"127.0.0.1:{free_port()}", QUIET],
        input=events(fault_at=None), capture_output=True, timeout=120,
    )  # fmt: skip
    code, heavy, peak_kb = map(int, done.stdout.split())
    assert (code, heavy) == (0, 0), done.stderr.decode()
    assert peak_kb < 80_000


def test_an_incident_that_is_open_at_the_end_ends_with_the_stream() -> None:
    done = detect("--source", "stdin:", content=events(1600, fault_at=1595))
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == [
        "incident_started",
        "incident_ended",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "ftp:x"], "unknown scheme 'ftp'"),
        (["--source", "file:nowhere.csv"], "nowhere.csv: No such file"),
        (["--source", "stdin:", "--sink", "pager:x"], "unknown scheme 'pager'"),
        ([], "'live.source' is not set"),
        (["--source", "stdin:", "--set", "threshold.budget=few"], "'few' is not a budget"),
    ],
)
def test_wrong_input_ends_with_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, "detect", "--manifest", "v7.safetensors", *arguments)


def test_a_damaged_manifest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.safetensors").write_bytes(Path("v7.safetensors").read_bytes()[:-1])
    for command in (["inspect"], ["detect", "--source", "stdin:", "--manifest"]):
        assert "bad.safetensors: " in fails(capsys, *command, "bad.safetensors")


def test_inspect_prints_the_contents_of_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "v7.safetensors"]) == 0
    output = capsys.readouterr().out
    assert "version       7\n" in output
    assert "widths 3 4 2 3" in output
    assert "4000, of held-out events" in output
    for feature in ("a", "b", "c"):
        assert f"\n  {feature} " in output


@pytest.mark.parametrize(("personalised", "owner"), [(False, "the fleet"), (True, "one client")])
def test_inspect_says_whose_a_version_is(
    capsys: pytest.CaptureFixture[str], personalised: bool, owner: str
) -> None:
    Path("v7.safetensors").write_bytes(replace(version(7), personalised=personalised).pack())
    assert main(["inspect", "v7.safetensors"]) == 0
    assert f"\nof            {owner}" in capsys.readouterr().out


def test_inspect_names_the_detectors_of_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    Path("v7.safetensors").write_bytes(version(7, detector={"family": "autoencoder"}).pack())
    assert main(["inspect", "v7.safetensors"]) == 0
    assert "\ndetectors     the autoencoder\n" in capsys.readouterr().out
    fleet = version(7, detector={"family": "ensemble"})
    Path("v7.safetensors").write_bytes(fleet.pack())
    assert main(["inspect", "v7.safetensors"]) == 0
    assert "on a client that trains: autoencoder, fleet_pca, fleet_forest, kmeans" in capsys.readouterr().out
    normal = rows(500)
    own = with_own_detectors(
        fleet, ClientRows(Partition("edge", SCHEMA, normal, normal[:0], None)).prepare(fleet)
    )
    Path("v7.safetensors").write_bytes(own.pack())
    assert main(["inspect", "v7.safetensors"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("detectors"))
    names = line.removeprefix("detectors     the votes of ").split(", ")
    assert [name.split()[0] for name in names] == ["autoencoder", "isolation_forest", "kmeans", "pca"]
    assert sum(float(name.split()[1]) for name in names) == pytest.approx(1, abs=0.03)


def test_a_file_of_an_earlier_release_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    fields, arrays = unpack(version(7).pack())
    Path("v7.safetensors").write_bytes(pack({**fields, "format": 4}, arrays))
    assert "v7.safetensors: the file has format 4;" in fails(capsys, "inspect", "v7.safetensors")


def test_rollback_prints_the_version_that_is_used_from_now_on(capsys: pytest.CaptureFixture[str]) -> None:
    store = VersionStore(Path("runs/clients/edge"))
    for number in (1, 2):
        store.offer(version(number).pack())
        candidate = store.candidate()
        assert candidate is not None
        store.accept(candidate)
    assert main(["client", "rollback", "--name", "edge"]) == 0
    assert "v000001" in capsys.readouterr().out
    assert store.pinned is not None
    assert "no version 5" in fails(capsys, "client", "rollback", "--name", "edge", "--to", "5")
    assert "expected the number of a model version" in fails(
        capsys, "client", "rollback", "--name", "edge", "--to", "old"
    )
    assert main(["client", "rollback", "--name", "edge", "--to", "newest"]) == 0
    assert store.pinned is None


def test_every_number_of_a_fault_is_finite() -> None:
    given = rows(300)
    given[200] = np.float32(3e38)
    done = detect("--source", "stdin:", content=b"\n".join(lines(given)) + b"\n")
    assert done.returncode == 0, done.stderr.decode()
    started = done.stdout.splitlines()[0]
    assert b"null" not in started.replace(b'"ended":null', b"").replace(b'"text":null', b"")
