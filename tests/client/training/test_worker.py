"""A worker's answers to the server, and the versions that it offers to its detector."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.training import personalisation
from client.training.client_rows import ClientRows
from client.training.personalisation import TrainerFactory, TrainingUnavailableError
from client.training.worker import ClientWorker, TrainerCache
from client.versions.version_store import VersionStore
from common.model.histogram import RELATIVE_ERROR
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.scoring import score_windows
from common.model.weights import norm
from common.protocol.messages import Task, TaskOptions
from common.protocol.wire import pack
from common.settings import ScalingSettings, Settings
from tests.client.training.samples import ROWS, SCHEMA, expected_scores, partition, personal_version, version


def worker(
    rows: np.ndarray = ROWS, test: np.ndarray | None = None, folder: Path | None = None
) -> ClientWorker:
    return ClientWorker(partition(rows, test), "instance", folder=folder)


def task(**changes: dict[str, object]) -> Task:
    return Task(version(**changes))


def test_a_description_holds_moments_and_no_row() -> None:
    described = worker().describe()
    assert (described.client, described.instance, described.schema) == ("edge", "instance", SCHEMA)
    np.testing.assert_allclose(described.moments.mean, ROWS.mean(axis=0), rtol=1e-5)
    packed = pack(described)
    assert not any(row.tobytes() in packed or row.astype(float).tobytes() in packed for row in ROWS)


def test_a_version_is_measured_on_the_last_rows_under_the_fleets_scaler() -> None:
    given = task()
    answer = worker().evaluate(given)
    expected = expected_scores(given.manifest, ROWS[90:])
    assert (answer.version, answer.rows, answer.error.count) == (3, 90, 8)
    assert answer.error.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert answer.error.max == pytest.approx(expected.max(), rel=1e-5)


def test_an_update_is_a_difference_and_carries_the_error_before_training() -> None:
    given, one = task(), worker()
    update = one.train(given)
    assert update.error == one.evaluate(given).error
    assert update.version == 3
    assert norm(update.difference) > 0
    assert {n: a.shape for n, a in update.difference.items()} == given.manifest.architecture.shapes


def test_an_update_carries_its_scores_only_if_they_are_asked_for() -> None:
    given = task()
    assert worker().train(given).scores.count == 8
    silent = worker().train(Task(given.manifest, options=TaskOptions(scores=False)))
    assert (silent.scores.count, silent.error.count) == (0, 8)


def test_an_update_carries_the_covariances_of_the_training_rows_only_if_they_are_asked_for() -> None:
    given = task()
    assert worker().train(given).covariances is None
    asked = Task(given.manifest, options=TaskOptions(covariances=True))
    sent = worker().train(asked).covariances
    assert sent is not None
    assert (sent.count, sent.window) == (90 - given.manifest.architecture.window + 1, 3)
    other = ROWS.copy()
    other[90:] = 1000
    again = worker(other).train(asked).covariances
    assert again is not None and again.correlations == sent.correlations


def test_an_update_carries_the_leaf_counts_of_the_training_rows_only_if_they_are_asked_for() -> None:
    given = task()
    assert worker().train(given).leaf_counts is None
    asked = Task(given.manifest, options=TaskOptions(leaf_counts=True))
    sent = worker().train(asked).leaf_counts
    assert sent is not None
    assert (sent.count, sent.seed) == (90 - given.manifest.architecture.window + 1, 0)
    other = ROWS.copy()
    other[90:] = 1000
    again = worker(other).train(asked).leaf_counts
    assert again is not None and again.content == sent.content


def test_neither_held_out_nor_test_rows_change_what_is_learned() -> None:
    given = task()
    other = ROWS.copy()
    other[90:] = 1000
    clean = worker().train(given).difference
    same = worker(other, test=other[:50]).train(given).difference
    assert all(np.array_equal(clean[name], same[name]) for name in clean)


def test_trained_versions_are_offered_to_the_detector_once(tmp_path: Path) -> None:
    given, one, store = task(), worker(folder=tmp_path), VersionStore(tmp_path)
    one.evaluate(Task(replace(given.manifest, version=0)))
    one.offer_version()
    assert store.candidate() is None
    one.evaluate(given)
    one.offer_version()
    offered = store.candidate()
    assert offered is not None and offered.hash == replace(given.manifest, personalised=True).hash
    store.accept(offered)
    one.evaluate(given)
    one.offer_version()
    assert store.candidate() is None


def test_of_versions_that_come_faster_than_they_can_be_personalised_the_newest_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("client.training.worker.time.monotonic", lambda: now[0])
    given, one, store = task(), worker(folder=tmp_path), VersionStore(tmp_path)

    def slowly(manifest: Manifest, rows: ClientRows, get_trainer: TrainerFactory) -> Manifest:
        now[0] += 2.0
        return personalisation.personalise(manifest, rows, get_trainer)

    monkeypatch.setattr("client.training.worker.personalise", slowly)
    for number in (1, 2, 3):
        one.evaluate(Task(replace(given.manifest, version=number)))
        one.offer_version()
        now[0] += 5.0
    first = store.candidate()
    assert first is not None and first.version == 1
    now[0] += 8.0
    one.offer_version()
    last = store.candidate()
    assert last is not None and last.version == 3


def test_a_version_that_cannot_be_personalised_is_dropped_and_the_next_one_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def diverge(manifest: Manifest, rows: ClientRows, get_trainer: TrainerFactory) -> Manifest:
        return replace(manifest, weights={n: a + np.float32(np.nan) for n, a in manifest.weights.items()})

    given, one, store = task(), worker(folder=tmp_path), VersionStore(tmp_path)
    one.evaluate(given)
    monkeypatch.setattr("client.training.worker.personalise", diverge)
    one.offer_version()
    assert "version not usable version=3 reason=ManifestError: weights of version 3" in caplog.text
    monkeypatch.undo()
    one._busy_until = 0.0
    one.offer_version()
    assert store.candidate() is None
    one.evaluate(Task(replace(given.manifest, version=4)))
    one.offer_version()
    offered = store.candidate()
    assert offered is not None and offered.version == 4


def test_a_client_with_its_own_scale_gives_it_to_the_detector(tmp_path: Path) -> None:
    given, one = task(scaling={"by": "client"}), worker(folder=tmp_path)
    one.evaluate(given)
    one.offer_version()
    offered = VersionStore(tmp_path).candidate()
    assert offered is not None
    np.testing.assert_allclose(offered.moments.mean, ROWS.mean(axis=0), rtol=1e-5)


def test_drift_goes_with_the_next_message(tmp_path: Path) -> None:
    one, store = worker(folder=tmp_path), VersionStore(tmp_path)
    assert not one.evaluate(task()).drifted
    store.drifted = True
    assert one.evaluate(task()).drifted
    assert one.train(task()).drifted


def test_scores_of_held_out_rows_are_counted() -> None:
    given = task()
    expected = expected_scores(given.manifest, ROWS[90:])
    for answer in (worker().evaluate(given), worker().train(given)):
        assert answer.scores.count == 8
        assert answer.scores.quantile(1.0) == pytest.approx(expected.max(), rel=RELATIVE_ERROR)


def test_residuals_are_sent_as_sums_over_windows_and_no_row_is_sent() -> None:
    given = Task(personal_version())
    for answer in (worker().evaluate(given), worker().train(given)):
        scaler = Scaler.chosen(ScalingSettings(), given.manifest.moments, Moments.of(ROWS))
        result = score_windows(given.manifest.architecture, given.manifest.weights, scaler.apply(ROWS[90:]))
        assert answer.residuals.count == 8
        np.testing.assert_allclose(answer.residuals.squares, result.residuals.squares, rtol=1e-4)
        packed, scaled = pack(answer), scaler.apply(ROWS)
        for row in [*ROWS, *scaled]:
            assert row.tobytes() not in packed and row.astype(float).tobytes() not in packed
    assert worker().train(Task(given.manifest, options=TaskOptions(scores=False))).residuals.count == 0
    assert worker().evaluate(task()).residuals.count == 0


def test_the_trainer_is_kept_while_the_model_stays_the_same() -> None:
    trainers, shape, settings = TrainerCache(), version().architecture, Settings().training
    assert trainers(shape, settings) is trainers(shape, settings)
    assert trainers(replace(shape, window=2), settings) is not trainers(shape, settings)


def test_without_tensorflow_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "client.training.trainer", None)
    with pytest.raises(TrainingUnavailableError, match="extra 'train'"):
        TrainerCache()(version().architecture, Settings().training)
