"""The programs of `examples/` do what they say, one after the other on one fleet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FAULT = range(500, 520)
"""Rows in which the temperature is far too high for the load."""


def run(*command: str | Path, standard_input: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        input=standard_input, capture_output=True, text=True, timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `own_data.py` leaves behind, and a file with a fault."""
    folder = tmp_path_factory.mktemp("examples")
    output = run(EXAMPLES / "own_data.py", folder)
    (folder / "version").write_text(output.splitlines()[-1].removeprefix("newest version: "))
    lines = (folder / "data" / "machine-1.csv").read_text().splitlines()
    for index in FAULT:
        ts, load, _, power = lines[index + 1].split(",")
        lines[index + 1] = f"{ts},{load},95.0,{power}"
    (folder / "fault.csv").write_text("\n".join(lines) + "\n")
    return folder


def version(folder: Path) -> str:
    return (folder / "version").read_text()


def test_a_fleet_learns_from_a_folder_of_files(folder: Path) -> None:
    assert Path(version(folder)).name == "v000020.safetensors"


def test_the_rows_of_a_fault_have_the_highest_scores(folder: Path) -> None:
    output = run(EXAMPLES / "score_rows.py", version(folder), folder / "fault.csv")
    rows = [int(line.split()[1].rstrip(":")) for line in output.splitlines()]
    assert len(rows) == 5
    window = 10
    assert all(FAULT.start <= row < FAULT.stop + window for row in rows)


def test_a_fault_in_a_stream_becomes_a_readable_line(folder: Path) -> None:
    source, state = f"file:{folder / 'fault.csv'}", str(folder / "state")
    notices = run(
        "-P",
        "-m",
        "flockwatch",
        "detect",
        "--manifest",
        version(folder),
        "--source",
        source,
        "--state",
        state,
    )
    started, ended = run(EXAMPLES / "read_alerts.py", standard_input=notices).splitlines()
    assert "temperature is 95, expected" in started
    assert "ended after" in ended
