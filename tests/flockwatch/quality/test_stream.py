"""Scores and thresholds of a stream are those of the live detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from client.data.partition import Partition
from client.detection.detector import Detector
from client.maintenance.thread import DetectorMaintenance
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from client.versions.trial_process import InlineTrial
from client.versions.version_store import VersionStore
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import Settings
from flockwatch.quality.stream import STEP, StreamScores, replay_rows, replay_scores, score_stream
from flockwatch.simulation import telemetry

MINUTE_S = 60.0


@pytest.fixture(scope="module")
def machine() -> Partition:
    return telemetry.fleet(1, 1200, 800, seed=3)[0]


def version(machine: Partition, by: str = "fleet") -> Manifest:
    """A version that is not trained, but scores; its fleet's moments are not the machine's."""
    settings = Settings().with_values(
        detector={"family": "autoencoder"},
        model={"window": 5, "hidden": (8,)},
        scaling={"by": by, "clip": None},
        scoring={"normalise": False, "decay": 1.0, "personal_epochs": 0},
    )
    architecture = Architecture.from_settings(settings.model, len(machine.schema))
    weights = architecture.initial_weights(1)
    fleet = Moments.of(machine.rows * np.float32(2) + np.float32(1))
    made = Manifest(3, machine.schema, architecture, weights, fleet, VersionSettings.of(settings))
    held = Scaler.of(fleet).apply(machine.rows[-120:])
    return replace(made, scores=ScoreHistogram.of(scores(architecture, weights, held)))


@pytest.mark.parametrize("by", ["fleet", "client"])
def test_a_stream_is_scored_under_the_clients_scaling_from_its_first_window_on(
    by: str, machine: Partition
) -> None:
    manifest = version(machine, by)
    result = score_stream(personalise(manifest, ClientRows(machine), TrainerCache()), machine)
    scaler = Scaler.of(manifest.moments if by == "fleet" else Moments.of(machine.rows))
    rows = scaler.apply(np.concatenate([machine.rows, machine.test_rows]))
    by_hand = scores(manifest.architecture, manifest.weights, rows)
    assert (len(result.training), len(result.test)) == (1200, 800)
    assert np.isnan(result.training[:4]).all()
    np.testing.assert_allclose(np.concatenate([result.training[4:], result.test]), by_hand, rtol=1e-4)


def test_a_replay_of_scores_gives_the_same_alerts_as_the_detector_on_the_rows(
    machine: Partition, tmp_path: Path
) -> None:
    settings = Settings().with_values(
        model={"window": 5}, threshold={"interval_s": MINUTE_S, "budget": "4 per day"}
    )
    manifest = replace(version(machine), personalised=True)
    detector = Detector("live", machine.schema, settings.data, settings.live)
    store = VersionStore(tmp_path)
    store.offer(manifest.pack())
    maintenance = DetectorMaintenance(detector, settings, tmp_path, store, trial=InlineTrial)
    maintenance.tick(save=False)
    rows = np.concatenate([machine.rows, machine.test_rows]).astype(float).tolist()
    lines = [
        msgspec.json.encode({"ts": MINUTE_S * i, **dict(zip(machine.schema.features, row, strict=True))})
        for i, row in enumerate(rows)
    ]
    # The replay skips events without a score: so that both look at the same moments, the first look is early.
    verdicts = detector.step(lines[: STEP + 4], 0.0).verdicts
    maintenance.tick(save=False)
    thresholds = []
    for start in range(STEP + 4, len(lines), STEP):
        assert detector.active is not None
        thresholds += [detector.active.threshold] * len(lines[start : start + STEP])
        verdicts += detector.step(lines[start : start + STEP], 0.0).verdicts
        maintenance.tick(save=False)

    result = replay_scores(score_stream(manifest, machine), settings, MINUTE_S)
    live = np.array([v.anomaly for v in verdicts[1200:]])
    assert live.any()
    np.testing.assert_array_equal(result.alerts, live)
    np.testing.assert_allclose(result.thresholds, thresholds[-800:], rtol=1e-4)
    assert len({round(float(t), 6) for t in result.thresholds}) > 3  # it moved with the stream


def test_incidents_are_numbered_by_test_events() -> None:
    rng = np.random.default_rng(0)
    training, test = rng.random(3000, np.float32), rng.random(500, np.float32) / 2
    test[100:103] = test[300] = 1e4
    result = replay_scores(
        StreamScores(training, test, ScoreHistogram.of(rng.random(500))), Settings(), 300.0
    )
    assert [(span.start, span.stop) for span in result.incidents] == [(100, 103), (300, 301)]
    assert np.flatnonzero(result.alerts).tolist() == [100, 101, 102, 300]


def test_scores_are_divided_by_distances_so_that_each_feature_is_a_cause_of_its_own() -> None:
    rng = np.random.default_rng(0)
    training, test = rng.random(3000, np.float32), rng.random(500, np.float32) / 2
    distances = rng.random((3500, 8), np.float32)
    faults = range(20, 500, 60)
    for feature, first in enumerate(faults):
        test[first : first + 3] = 12.0
        distances[3000 + first : 3000 + first + 3, feature] = 10.0
    stream = StreamScores(training, test, ScoreHistogram.of(rng.random(500)))
    one_cause = replay_scores(stream, Settings(), 300.0)
    result = replay_scores(replace(stream, distances=distances), Settings(), 300.0)
    assert [span.start for span in result.incidents] == list(faults)
    assert len(one_cause.incidents) < len(faults)


def test_a_score_is_the_same_whatever_its_causes_and_missing_values_are() -> None:
    rng = np.random.default_rng(0)
    stream = StreamScores(
        rng.random(500, np.float32), rng.random(200, np.float32), ScoreHistogram.of(rng.random(100))
    )
    distances = rng.standard_normal((700, 3)).astype(np.float32)
    distances[::5, 1], distances[::7] = np.nan, 0.0
    settings = Settings().with_values(threshold={"value": 0.75})
    result = replay_scores(replace(stream, distances=distances), settings, 60.0)
    np.testing.assert_array_equal(result.alerts, stream.test > 0.75)


def test_incidents_that_are_open_before_the_first_and_after_the_last_event() -> None:
    rng = np.random.default_rng(0)
    training, test = rng.random(3000, np.float32), rng.random(500, np.float32) / 2
    training[-2:] = test[:5] = test[400:450] = test[498] = 1e4
    result = replay_scores(
        StreamScores(training, test, ScoreHistogram.of(rng.random(500))), Settings(), 300.0
    )
    assert (result.incidents[0], result.incidents[-1]) == (range(-2, 5), range(498, 500))


def test_a_fixed_threshold_is_used_as_it_is() -> None:
    rng = np.random.default_rng(0)
    stream = StreamScores(
        rng.random(500, np.float32), rng.random(200, np.float32), ScoreHistogram.of(rng.random(100))
    )
    result = replay_scores(stream, Settings().with_values(threshold={"value": 0.75}), 60.0)
    np.testing.assert_allclose(result.thresholds, 0.75)
    np.testing.assert_array_equal(result.alerts, stream.test > 0.75)


def test_rows_are_replayed_as_the_live_detector_scores_them(machine: Partition) -> None:
    settings = Settings().with_values(threshold={"budget": "4 per day"})
    manifest = personalise(version(machine), ClientRows(machine), TrainerCache())
    result = replay_rows(manifest, machine, settings, MINUTE_S)
    stream = score_stream(manifest, machine)
    # A score is above the threshold of its moment, which is known at the start of each block.
    first_of_block = (np.arange(800) + 1200) % STEP == 0
    above = stream.test > result.thresholds
    np.testing.assert_array_equal(result.alerts[first_of_block], above[first_of_block])
    assert result.alerts.any()
    assert all(result.alerts[max(span.start, 0) : span.stop].any() for span in result.incidents)


def test_rows_without_any_value_are_no_events(machine: Partition) -> None:
    manifest = personalise(version(machine), ClientRows(machine), TrainerCache())
    test = machine.test_rows.copy()
    test[200:220] = np.nan
    result = replay_rows(manifest, replace(machine, test_rows=test), Settings(), MINUTE_S)
    assert not result.alerts[200:220].any()
    assert np.isnan(result.thresholds[200:220]).all()
    assert len(result.alerts) == 800


def test_the_time_column_of_the_settings_is_used(machine: Partition) -> None:
    manifest = personalise(version(machine), ClientRows(machine), TrainerCache())
    names = [Settings(), Settings().with_values(data={"timestamp": "when"})]
    result = [replay_rows(manifest, machine, settings, MINUTE_S).incidents for settings in names]
    assert result[0] == result[1] != []
