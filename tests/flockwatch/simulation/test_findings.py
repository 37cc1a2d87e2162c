"""Findings of a local run in the rows of its clients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data.partition import Partition
from client.training.worker import TrainerCache
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import Settings
from flockwatch.simulation import telemetry
from flockwatch.simulation.findings import Findings, summary

SETTINGS = Settings().with_values(
    detector={"family": "autoencoder"},
    model={"window": 5, "hidden": (8,)},
    scoring={"personal_epochs": 0},
    scaling={"clip": None},
)


@pytest.fixture(scope="module")
def machine() -> Partition:
    """A machine without faults but two in its test rows, which cannot be missed."""
    normal = telemetry.fleet(1, 1200, 0, seed=3)[0]
    training, test = normal.rows[:800], normal.rows[800:].copy()
    labels = np.zeros(400, np.int8)
    for start in (100, 300):
        labels[start : start + 6] = 1
        test[start : start + 6] += 40 * training.std(axis=0)
    return replace(normal, rows=training, test_rows=test, test_labels=labels)


@pytest.fixture(scope="module")
def version(machine: Partition) -> Manifest:
    architecture = Architecture.from_settings(SETTINGS.model, len(machine.schema))
    weights, moments = architecture.initial_weights(1), Moments.of(machine.rows)
    made = Manifest(3, machine.schema, architecture, weights, moments, VersionSettings.of(SETTINGS))
    held = scores(architecture, weights, Scaler.of(moments).apply(machine.rows[-200:]))
    return replace(made, scores=ScoreHistogram.of(held))


def test_test_rows_are_counted_at_the_live_threshold_and_training_rows_are_not(
    machine: Partition, version: Manifest
) -> None:
    result = Findings.of(version, machine, SETTINGS, 300.0, TrainerCache())
    assert (result.training, result.tested, result.events) == (720, True, 400)
    assert (result.faults, result.faults_found) == (2, 2)
    assert 12 <= result.above < 60
    # Training rows that look like faults are not counted.
    rows = machine.rows.copy()
    rows[400:406] += 40 * rows.std(axis=0)
    again = Findings.of(version, replace(machine, rows=rows), SETTINGS, 300.0, TrainerCache())
    assert again.above <= result.above
    assert summary([result]) == [
        f"{result.above} of 400 test rows above the live threshold, 2 of 2 labelled faults found"
    ]


def test_without_test_rows_nothing_is_counted(machine: Partition, version: Manifest) -> None:
    result = Findings.of(version, _without_test_rows(machine), SETTINGS, 300.0, TrainerCache())
    assert (result.threshold, result.events, result.above) == (None, 0, 0)
    assert summary([result]) == []


def test_with_a_fixed_threshold_and_no_test_rows_all_rows_are_counted(
    machine: Partition, version: Manifest
) -> None:
    fixed = SETTINGS.with_values(threshold={"value": 1.0})
    result = Findings.of(version, _without_test_rows(machine), fixed, None, TrainerCache())
    assert (result.threshold, result.events) == (1.0, 796)
    assert 0 < result.above < 796
    assert summary([result, result]) == [
        f"Anomalies detected: {2 * result.above}", "Scored: 1592 events. Threshold: 1.",
    ]  # fmt: skip


def test_test_rows_without_labels_have_no_faults(machine: Partition, version: Manifest) -> None:
    result = Findings.of(version, replace(machine, test_labels=None), SETTINGS, 300.0, TrainerCache())
    assert (result.faults, result.faults_found) == (None, None)
    assert summary([result]) == [f"{result.above} of 400 test rows above the live threshold"]


def _without_test_rows(machine: Partition) -> Partition:
    return replace(machine, test_rows=machine.test_rows[:0], test_labels=None)
