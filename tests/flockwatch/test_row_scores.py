"""`flockwatch score`: the rows of a file get the verdicts of a stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.files.partitions import write_partition
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import DataSettings, Settings
from flockwatch.cli import main
from flockwatch.quality.stream import score_stream
from flockwatch.row_scores import score_rows
from flockwatch.simulation import telemetry

WINDOW, JUMP = 5, 150


@pytest.fixture(scope="module")
def machine() -> Partition:
    """A machine of which one feature jumps in the test rows."""
    result = telemetry.fleet(1, 200, 0, seed=3)[0]
    rows = result.rows.copy()
    rows[JUMP] += np.eye(rows.shape[1], dtype=np.float32)[2] * 40 * rows.std(axis=0)
    return replace(result, rows=rows)


@pytest.fixture(scope="module")
def own_version(machine: Partition) -> Manifest:
    """A version that is not trained, but scores, as the machine has personalised it."""
    settings = Settings().with_values(
        model={"window": WINDOW, "hidden": (8,)}, scoring={"personal_epochs": 0}, scaling={"clip": None}
    )
    architecture = Architecture.from_settings(settings.model, len(machine.schema))
    weights, moments = architecture.initial_weights(1), Moments.of(machine.rows[:JUMP])
    made = Manifest(3, machine.schema, architecture, weights, moments, VersionSettings.of(settings))
    held = scores(architecture, weights, Scaler.of(moments).apply(machine.rows[:JUMP]))
    version = replace(made, scores=ScoreHistogram.of(held))
    normal = replace(machine, rows=machine.rows[:JUMP])
    return personalise(version, ClientRows(normal), TrainerCache())


@pytest.fixture
def files(machine: Partition, own_version: Manifest, tmp_path: Path) -> list[str]:
    version = tmp_path / "version.safetensors"
    version.write_bytes(own_version.pack())
    data = write_partition(machine, tmp_path / "rows.parquet", DataSettings())
    return ["--data", str(data), "--manifest", str(version), "--set", "threshold.interval_s=60"]


def test_a_row_has_the_live_score_the_threshold_and_its_causes(
    machine: Partition, own_version: Manifest
) -> None:
    result = list(score_rows(own_version, machine, Settings(), 60.0))
    expected = score_stream(own_version, machine).training
    assert [r.row for r in result] == list(range(1, 201))
    assert all(r.score is None and not r.anomaly and not r.causes for r in result[: WINDOW - 1])
    np.testing.assert_allclose([r.score for r in result[WINDOW - 1 :]], expected[WINDOW - 1 :], rtol=1e-4)
    assert all(r.anomaly == (r.score > r.threshold) for r in result[WINDOW - 1 :])
    jump = result[JUMP]
    assert jump.anomaly
    assert jump.causes[0].feature == machine.schema.features[2]
    assert jump.causes[0].value == pytest.approx(float(machine.rows[JUMP, 2]))
    assert jump.causes[0].share == max(cause.share for cause in jump.causes)
    assert len(jump.causes) == Settings().live.explain


def test_json_lines_are_the_rows_and_text_ends_with_their_number(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *files, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 201))
    assert rows[0] == {"row": 1, "score": None, "threshold": None, "anomaly": False, "causes": []}
    assert set(rows[JUMP]["causes"][0]) == {"feature", "share", "value", "expected"}
    above = sum(row["anomaly"] for row in rows)

    assert main(["score", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["row", "score", "threshold", "verdict", "causes"]
    assert lines[1].split() == ["1", "-", "-", "none"]
    assert lines[JUMP + 1].split()[3] == "anomaly"
    assert lines[-1] == f"{above} of 196 scored rows above the threshold; 4 not scored"


def test_a_fixed_threshold_is_used_and_test_rows_are_scored_in_their_place(
    files: list[str], capsys: pytest.CaptureFixture[str], machine: Partition, tmp_path: Path
) -> None:
    labels = np.zeros(100, np.int8)
    divided = replace(machine, rows=machine.rows[:100], test_rows=machine.rows[100:], test_labels=labels)
    data = write_partition(divided, tmp_path / "divided.parquet", DataSettings())
    outputs = []
    for file in (files[1], str(data)):
        flags = ["--data", file, *files[2:], "--set", "threshold.value=2.5", "--json"]
        assert main(["score", *flags]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert {json.loads(line)["threshold"] for line in outputs[0].splitlines()[WINDOW:]} == {2.5}


def test_files_that_cannot_be_used_are_named(
    files: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    assert main(["score", "--data", str(wrong), *files[2:]]) == 2
    assert "client 'wrong'" in capsys.readouterr().err
    assert main(["score", *files[:2], "--manifest", str(wrong)]) == 2
    assert f"{wrong}: " in capsys.readouterr().err
    assert main(["score", "--data", str(tmp_path / "none.csv"), *files[2:]]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_without_a_time_between_rows_the_assumption_is_logged(
    files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["score", *files[:4]]) == 0
    assert "set 'threshold.interval_s'" in caplog.text
