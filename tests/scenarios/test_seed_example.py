"""The seed example: the same algorithm in plain Keras, without Flower, must behave the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from common.model.manifest import Manifest
from common.model.scoring import reconstruct
from common.model.weights import Architecture
from common.processes.packages import python_module
from tests.common.federated_averaging import weighted_mean

CONFIG = Path(__file__).parents[2] / "configs" / "seed-example.yaml"
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.RandomState(42).standard_normal((1000, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def averaged(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Two models from the same start, each fitted on 500 rows, then averaged."""
    shape = Architecture(features=10, window=1, hidden=(6,), output_activation="sigmoid")
    parts = []
    for half in (rows[:500], rows[500:]):
        model = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(6, activation="relu"),
                keras.layers.Dense(10, activation="sigmoid"),
            ]
        )
        model.set_weights(list(shape.initial_weights(0).values()))
        model.compile(optimizer=keras.optimizers.Adam(0.001), loss="mse")
        model.fit(half, half, epochs=50, batch_size=32, verbose=0)
        parts.append((dict(zip(shape.shapes, model.get_weights(), strict=True)), 500.0))
    return weighted_mean(parts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    """The output of the command, and the version that it makes."""
    runs = tmp_path_factory.mktemp("runs")
    command = [*python_module("flockwatch"), "local", "--config", str(CONFIG), "--runs", str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=550)
    (version,) = runs.glob("*/server/versions/v000001.safetensors")
    return done.stdout, Manifest.unpack(version.read_bytes())


def test_the_printed_count_is_that_of_the_events_above_the_threshold(run, rows: np.ndarray) -> None:
    printed, manifest = run
    output = reconstruct(manifest.architecture, manifest.weights, rows)
    above = int((np.square(output - rows).mean(axis=1) > THRESHOLD).sum())
    (count,) = re.findall(r"^Anomalies detected: (\d+)$", printed, re.MULTILINE)
    assert int(count) == above
    assert 0 < above < 1000


def test_the_averaged_weights_behave_as_in_plain_keras(run, rows: np.ndarray, averaged) -> None:
    _, manifest = run
    ours = reconstruct(manifest.architecture, manifest.weights, rows)
    theirs = reconstruct(manifest.architecture, averaged, rows)
    our_errors, their_errors = (np.square(output - rows).mean(axis=1) for output in (ours, theirs))
    assert our_errors.mean() == pytest.approx(their_errors.mean(), rel=0.02)
    assert abs(int((our_errors > THRESHOLD).sum()) - int((their_errors > THRESHOLD).sum())) <= 30
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95
