"""What each row is fitted to: training rows alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data.partition import Partition
from client.data.tables import DataError
from client.training.worker import ClientWorker
from common.settings import Settings
from flockwatch.quality import protocol
from flockwatch.quality.protocol import FEDERATED, NEW_ROWS, ROWS, Done, Job, Labelled, done, epochs_of
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
def fleet() -> list[Labelled]:
    """Machines with faults that can hardly be missed."""
    rng = np.random.default_rng(0)
    parts, found = telemetry.fleet(3, 400, 700, seed=1), []
    spread = np.concatenate([part.rows for part in parts]).std(axis=0)
    for part in parts:
        test = part.test_rows.copy()
        signs = rng.choice([-6, 6], test.shape)
        faults = (part.rows.mean(axis=0) + signs * spread).astype(np.float32)
        test[part.test_labels == 1] = faults[part.test_labels == 1]
        found.append(Labelled(replace(part, test_rows=test), MINUTE_S))
    return found


def one(row: str, fleet: list[Labelled], **job: int) -> Done:
    return done(Job(row, 0, **{"epochs": ROUNDS, **job}), fleet, SETTINGS)


def unlike(fleet: list[Labelled]) -> list[Labelled]:
    """The same training rows; test rows in another order from event 100 on, and labels turned round."""
    rng = np.random.default_rng(0)
    found = []
    for client in fleet:
        part = client.partition
        order = np.concatenate([np.arange(100), 100 + rng.permutation(len(part.test_rows) - 100)])
        assert part.test_labels is not None
        changed = replace(part, test_rows=part.test_rows[order], test_labels=1 - part.test_labels)
        found.append(replace(client, partition=changed))
    return found


@pytest.mark.parametrize("row", ROWS)
def test_test_rows_and_labels_change_no_scaler_model_or_threshold(row: str, fleet: list[Labelled]) -> None:
    """Scores and thresholds up to event 100 are the same, whatever comes later and whatever labels say."""
    before, after = one(row, fleet).judged[row], one(row, unlike(fleet)).judged[row]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.scores[:100], b.scores[:100])
        np.testing.assert_array_equal(a.thresholds[:100], b.thresholds[:100])
        if row not in ("random", "always"):
            assert (a.scores[100:] != b.scores[100:]).any()


def test_the_test_above_can_fail(fleet: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler that saw test rows would show."""

    def leaking(partition: Partition, settings: Settings) -> object:
        whole = replace(partition, rows=np.concatenate([partition.rows, partition.test_rows[300:]]))
        return protocol.autoencoders.own_scaler(whole, settings)

    monkeypatch.setattr(protocol, "own_scaler", leaking)
    before, after = one("pca", fleet).judged["pca"], one("pca", unlike(fleet)).judged["pca"]
    assert any((a.scores[:100] != b.scores[:100]).any() for a, b in zip(before, after, strict=True))


def test_what_reaches_the_server_does_not_depend_on_test_rows_or_labels(fleet: list[Labelled]) -> None:
    for a, b in zip(fleet, unlike(fleet), strict=True):
        described = [ClientWorker(c.partition, "one").describe().pack() for c in (a, b)]
        assert described[0] == described[1]


@pytest.mark.parametrize("row", ["pca", "local_only", "local_fleet_scaler", FEDERATED])
def test_detectors_find_faults_and_seeds_matter_where_they_should(row: str, fleet: list[Labelled]) -> None:
    first = one(row, fleet)
    assert np.mean([j.figures["auroc"] for j in first.judged[row]]) > 0.9
    again, other = one(row, fleet), done(Job(row, 1, ROUNDS), fleet, SETTINGS)
    for a, b, c in zip(first.judged[row], again.judged[row], other.judged[row], strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
        assert row == "pca" or (a.scores != c.scores).any()


def test_the_two_local_rows_differ_by_their_scaler_and_pooling_is_neither(fleet: list[Labelled]) -> None:
    rows = ("local_only", "local_fleet_scaler", "pooled")
    own, shared, together = (one(row, fleet).judged[row][0].scores for row in rows)
    assert (own != shared).any()
    assert (shared != together).any()


def test_a_random_row_and_one_that_always_alarms_are_worth_nothing(fleet: list[Labelled]) -> None:
    always = one("always", fleet).judged["always"]
    for client, judged in zip(fleet, always, strict=True):
        share = client.anomalies.mean()
        assert judged.figures["auroc"] == 0.5
        assert judged.figures["average_precision"] == pytest.approx(share)
        assert judged.figures["f1"] == pytest.approx(2 * share / (1 + share))
        assert (judged.figures["event_recall"], judged.figures["delay_s"]) == (1.0, 0.0)
    random = [j.figures["auroc"] for j in one("random", fleet).judged["random"]]
    assert np.mean(random) == pytest.approx(0.5, abs=0.1)


def test_rivals_train_as_long_as_the_federation_did(fleet: list[Labelled]) -> None:
    assert one(FEDERATED, fleet).rounds == ROUNDS
    assert epochs_of(3, SETTINGS.with_values(training={"epochs": 2})) == 6
    assert epochs_of(0, SETTINGS) == 1


def test_new_clients_come_with_their_newest_rows_to_a_federation_of_the_others(
    fleet: list[Labelled],
) -> None:
    found = one(FEDERATED, fleet, fold=0)
    assert tuple(found.judged) == NEW_ROWS
    names = [fleet[0].partition.name, fleet[2].partition.name]
    assert all([j.client for j in judged] == names for judged in found.judged.values())
    # Older rows of the new clients teach nobody anything.
    older = [replace(c, partition=replace(c.partition, rows=c.partition.rows.copy())) for c in fleet]
    for i in (0, 2):
        older[i].partition.rows[:-100] *= 5
    again = one(FEDERATED, older, fold=0)
    for row in NEW_ROWS:
        for a, b in zip(found.judged[row], again.judged[row], strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)
    # But the rows of those that were there before do.
    older[1].partition.rows[:] *= 5
    other = one(FEDERATED, older, fold=0)
    assert (other.judged[FEDERATED][0].scores != found.judged[FEDERATED][0].scores).any()
    np.testing.assert_array_equal(other.judged["local_only"][0].scores, found.judged["local_only"][0].scores)


@pytest.mark.parametrize("row", ["pca", "pooled", FEDERATED])
def test_too_few_rows_are_named(row: str, fleet: list[Labelled]) -> None:
    few = [replace(c, partition=replace(c.partition, rows=c.partition.rows[:8])) for c in fleet]
    with pytest.raises((DataError, RuntimeError), match=r"a window needs 3|without a version"):
        one(row, few)
