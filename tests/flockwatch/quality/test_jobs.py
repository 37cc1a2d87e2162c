"""Every method is fitted to training rows only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from client.data.files.csv_text import DataError
from client.data.partition import Partition
from client.training.worker import ClientWorker
from common.detectors.choice import FLEET_FOREST, OF_COVARIANCES
from common.protocol.wire import pack
from common.settings import Settings
from flockwatch.quality import autoencoders, jobs
from flockwatch.quality.jobs import (
    ALONE,
    FEDERATED,
    METHODS,
    NEW_CLIENT_METHODS,
    OF_VERSION,
    ClientResult,
    Job,
    JobResult,
    LabelledClient,
    epochs_of,
    run_job,
)
from flockwatch.quality.vus import runs
from flockwatch.simulation import telemetry

ROUNDS = 5
SETTINGS = Settings().with_values(
    model={"window": 3, "hidden": (8, 4, 8)},
    training={"batch_size": 64},
    federation={"max_rounds": ROUNDS, "patience": 0},
    threshold={"budget": "10 per day"},
    evaluate={"new_client_rows": 100, "folds": 2},
)
MINUTE_S = 60.0


@pytest.fixture(scope="module")
def fleet() -> list[LabelledClient]:
    """Machines with faults that can hardly be missed."""
    rng = np.random.default_rng(0)
    parts, outcome = telemetry.fleet(3, 400, 700, seed=1), []
    spread = np.concatenate([part.rows for part in parts]).std(axis=0)
    for part in parts:
        test = part.test_rows.copy()
        signs = rng.choice([-6, 6], test.shape)
        faults = (part.rows.mean(axis=0) + signs * spread).astype(np.float32)
        test[part.test_labels == 1] = faults[part.test_labels == 1]
        outcome.append(LabelledClient(replace(part, test_rows=test), MINUTE_S))
    return outcome


def run_one(method: str, fleet: list[LabelledClient], **job: int) -> JobResult:
    return run_job(Job(method, 0, **{"epochs": ROUNDS, **job}), fleet, SETTINGS)


def with_other_test_rows(fleet: list[LabelledClient]) -> list[LabelledClient]:
    """The same training rows; test rows in another order from event 100 on, and inverted labels."""
    rng = np.random.default_rng(0)
    outcome = []
    for client in fleet:
        part = client.partition
        order = np.concatenate([np.arange(100), 100 + rng.permutation(len(part.test_rows) - 100)])
        assert part.test_labels is not None
        changed = replace(part, test_rows=part.test_rows[order], test_labels=1 - part.test_labels)
        outcome.append(replace(client, partition=changed))
    return outcome


Results = Callable[..., list[ClientResult]]
"""Returns the results of a method for the fleet: `results(method, seed=0, other_rows=False, again=False)`."""


@pytest.fixture(scope="module")
def results(fleet: list[LabelledClient]) -> Results:
    """Each job is run once, and serves all methods that it measures; with `again`, it is run once more."""

    @cache
    def of_job(method: str, seed: int, other_rows: bool, again: bool) -> JobResult:
        clients = with_other_test_rows(fleet) if other_rows else fleet
        return run_job(Job(method, seed, ROUNDS), clients, SETTINGS)

    def of_method(
        method: str, seed: int = 0, other_rows: bool = False, again: bool = False
    ) -> list[ClientResult]:
        job = of_job(FEDERATED if method in OF_VERSION else method, seed, other_rows, again)
        return list(job.clients[method])

    return of_method


@pytest.mark.parametrize("method", METHODS)
def test_test_rows_and_labels_change_no_scaler_model_or_threshold(method: str, results: Results) -> None:
    """Scores and thresholds up to event 100 depend neither on later events nor on labels."""
    for a, b in zip(results(method), results(method, other_rows=True), strict=True):
        np.testing.assert_array_equal(a.scores[:100], b.scores[:100])
        np.testing.assert_array_equal(a.thresholds[:100], b.thresholds[:100])
        if method not in ("random", "always"):
            assert (a.scores[100:] != b.scores[100:]).any()


def test_a_scaler_that_uses_test_rows_is_detected_by_this_comparison(
    fleet: list[LabelledClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(partition: Partition, settings: Settings) -> object:
        whole = replace(partition, rows=np.concatenate([partition.rows, partition.test_rows[300:]]))
        return autoencoders.own_scaler(whole, settings)

    monkeypatch.setattr(jobs, "own_scaler", leaking)
    before, after = (
        run_one("pca", fleet).clients["pca"],
        run_one("pca", with_other_test_rows(fleet)).clients["pca"],
    )
    assert any((a.scores[:100] != b.scores[:100]).any() for a, b in zip(before, after, strict=True))


def test_what_reaches_the_server_does_not_depend_on_test_rows_or_labels(fleet: list[LabelledClient]) -> None:
    for a, b in zip(fleet, with_other_test_rows(fleet), strict=True):
        described = [pack(ClientWorker(c.partition, "one").describe()) for c in (a, b)]
        assert described[0] == described[1]


WITHOUT_CHANCE = (
    "pca", "own_pca", "own_gaussian", "own_isolation_forest", "own_kmeans", "own_one_class_svm",
    *OF_COVARIANCES,
)  # fmt: skip
WITH_CHANCE = ("local_only", "local_fleet_scaler", FEDERATED, ALONE, FLEET_FOREST)


@pytest.mark.parametrize("method", [*WITHOUT_CHANCE, *WITH_CHANCE])
def test_detectors_find_faults_and_seeds_matter_where_they_should(method: str, results: Results) -> None:
    first, again, other = results(method), results(method, again=True), results(method, seed=1)
    assert np.mean([client.metrics["auroc"] for client in first]) > 0.9
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
        assert method in WITHOUT_CHANCE or (a.scores != c.scores).any()


def test_the_local_methods_and_pooled_training_give_different_scores(results: Results) -> None:
    methods = ("local_only", "local_fleet_scaler", "pooled")
    own, shared, together = (results(method)[0].scores for method in methods)
    assert (own != shared).any()
    assert (shared != together).any()


def test_random_scores_and_alerts_for_every_event_rank_nothing(
    fleet: list[LabelledClient], results: Results
) -> None:
    for client, result in zip(fleet, results("always"), strict=True):
        share = client.anomalies.mean()
        assert result.metrics["auroc"] == 0.5
        assert result.metrics["average_precision"] == pytest.approx(share)
        assert result.metrics["f1"] == pytest.approx(2 * share / (1 + share))
        faults = runs(client.anomalies)
        first = float(faults[0].start == 0)
        assert result.metrics["faults_found"] == first / len(faults)
        assert result.metrics["faults_in_open_incident"] == 1 - first / len(faults)
        assert result.metrics["alarm_hours_per_day"] == pytest.approx(24)
    random = [client.metrics["auroc"] for client in results("random")]
    assert np.mean(random) == pytest.approx(0.5, abs=0.1)


def test_other_methods_train_for_as_many_epochs_as_the_federation(fleet: list[LabelledClient]) -> None:
    assert run_one(FEDERATED, fleet).rounds == ROUNDS
    assert epochs_of(3, SETTINGS.with_values(training={"epochs": 2})) == 6
    assert epochs_of(0, SETTINGS) == 1


def test_new_clients_are_measured_with_their_newest_rows_and_a_federation_of_the_others(
    fleet: list[LabelledClient],
) -> None:
    result = run_one(FEDERATED, fleet, fold=0)
    assert tuple(result.clients) == NEW_CLIENT_METHODS
    names = [fleet[0].partition.name, fleet[2].partition.name]
    assert all([r.client for r in results] == names for results in result.clients.values())
    # Older rows of the new clients are not used.
    older = [replace(c, partition=replace(c.partition, rows=c.partition.rows.copy())) for c in fleet]
    for i in (0, 2):
        older[i].partition.rows[:-100] *= 5
    again = run_one(FEDERATED, older, fold=0)
    for method in NEW_CLIENT_METHODS:
        for a, b in zip(result.clients[method], again.clients[method], strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)
    # The rows of the clients in the federation are.
    older[1].partition.rows[:] *= 5
    other = run_one(FEDERATED, older, fold=0)
    assert (other.clients[FEDERATED][0].scores != result.clients[FEDERATED][0].scores).any()
    np.testing.assert_array_equal(
        other.clients["local_only"][0].scores, result.clients["local_only"][0].scores
    )


@pytest.mark.parametrize("method", ["pca", "pooled", FEDERATED])
def test_too_few_rows_are_named(method: str, fleet: list[LabelledClient]) -> None:
    few = [replace(c, partition=replace(c.partition, rows=c.partition.rows[:8])) for c in fleet]
    with pytest.raises((DataError, RuntimeError), match=r"a window needs 3|without a version"):
        run_one(method, few)
