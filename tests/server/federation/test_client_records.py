from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from common.model.residuals import Residuals
from common.model.scoring import ErrorSummary
from common.model.sketch import ScoreSketch
from common.protocol.messages import Update
from common.settings import GateSettings
from server.coordination.state import UpdateShare
from server.federation.client_records import MAX_CLIENTS, ClientRecords
from server.federation.exchange import Reply, SentMessage
from server.federation.ledger import Ledger


def update(client: str, difference: Any = (1.0, 0.0), scores: Any = (), **changes: Any) -> Update:
    values = {
        "version": 3, "rows": 10, "error": ErrorSummary(1, 0.5, 0.5, 0.5, 0.5, 0.5), "drifted": False,
        "loss": 0.1, "train_s": 1.0, "difference": {"w": np.array(difference, np.float32)},
        "scores": ScoreSketch.of(np.array(scores, np.float64)),
    }  # fmt: skip
    return Update(**{"client": client, **values, **changes})


def folded(fleet: ClientRecords, *updates: Update) -> None:
    for one in updates:
        fleet.heard(one)
    fleet.folded((one, 1, False) for one in updates)


def test_a_sign_flipper_points_away_from_the_fleet() -> None:
    fleet, rng = ClientRecords(), np.random.default_rng(0)
    for _ in range(10):
        honest = [update(name, rng.normal([3.0, 1.0], 0.5)) for name in "abcdef"]
        folded(fleet, *honest, update("liar", rng.normal([-3.0, -1.0], 0.5)))
    cosines = {name: record.cosine for name, record in fleet.records.items()}
    assert cosines["liar"] < -0.8
    assert all(cosines[name] > 0.8 for name in "abcdef")


def test_a_broken_sensor_lies_far_from_the_fleets_scores() -> None:
    fleet, rng = ClientRecords(), np.random.default_rng(0)
    for name in "abcdef":
        fleet.heard(update(name, scores=rng.exponential(1.0, 500)))
    fleet.heard(update("broken", scores=rng.exponential(1.0, 500) + 30))
    fleet.measure([*"abcdef", "broken"])
    distances = {name: record.distance for name, record in fleet.records.items()}
    assert distances["broken"] > 0.8
    assert all(distances[name] < 0.3 for name in "abcdef")


def test_records_outlive_a_restart() -> None:
    fleet = ClientRecords()
    folded(fleet, update("a"))
    fleet.refused("a", "not finite")
    fleet.dropped("a")
    again = ClientRecords(json.loads(json.dumps(fleet.saved())) | {"b": {"admitted": 2, "state": "gone"}})
    assert again.saved() | {"b": None} == fleet.saved() | {"b": None}
    assert again.records["b"].admitted == 2
    assert again.norms() == {"a": 1.0}


def test_after_a_restart_the_last_versions_scores_stand_in_for_clients_not_heard_yet() -> None:
    before = ScoreSketch.of(np.arange(50.0))
    fleet = ClientRecords({"a": {"admitted": 1}, "b": {"admitted": 1}})
    fleet.heard(update("a", scores=np.arange(10.0)))
    assert fleet.scores({"a", "b"}, before).count == 60
    fleet.heard(update("b", scores=np.arange(10.0)))
    assert fleet.scores({"a", "b"}, before).count == 20


def test_the_fleets_error_is_what_each_said_last_weighted_by_rows() -> None:
    fleet = ClientRecords()
    assert fleet.error({"a"}) is None
    fleet.heard(update("a", error=ErrorSummary(1, 9.0, 1, 1, 1, 1)))
    fleet.heard(update("a", error=ErrorSummary(1, 1.0, 1, 1, 1, 1)))
    fleet.heard(update("b", rows=30, error=ErrorSummary(1, 2.0, 1, 1, 1, 1)))
    fleet.heard(update("gone", error=ErrorSummary(1, 99.0, 1, 1, 1, 1)))
    assert fleet.error({"a", "b", "never heard"}) == pytest.approx((1 * 10 + 2 * 30) / 40)


def test_names_that_come_and_go_for_ever_are_forgotten() -> None:
    fleet = ClientRecords()
    for i in range(MAX_CLIENTS + 20):
        fleet.refused(f"client-{i}", "failed")
    assert len(fleet.records) == MAX_CLIENTS


def taken(gate: GateSettings, *norms: float) -> tuple[list[float], list[str]]:
    """What is left of updates of these norms, one of each client, and why others are refused."""
    ledger = Ledger(ClientRecords(), gate)
    shares = []
    for i, size in enumerate(norms):
        ledger.enter(
            SentMessage(i, i, "train", 3), update(f"c{i}", (size, 0.0)), Reply(None, None, "", "", None, 0)
        )  # type: ignore[arg-type]
        shares.append(UpdateShare(i, i, 0, 1.0))
    entries, refused = ledger.taken(shares)
    return [entry.factor * norms[entry.number] for entry in entries], [why for _, why in refused]


def test_a_norm_out_of_line_is_clipped_or_refused() -> None:
    norms = (1.0, 1.1, 0.9, 1.0, 1.05, 100.0)
    left, refused = taken(GateSettings(norm_action="clip"), *norms)
    assert left[:5] == pytest.approx(norms[:5])
    assert 1.1 < left[5] < 5
    assert not refused
    left, refused = taken(GateSettings(norm_action="refuse"), *norms)
    assert len(left) == 5
    assert "its norm is 100" in refused[0]


@pytest.mark.parametrize("norms", [(1.0, 1.0, 100.0), (1.0, 2.0, 4.0, 8.0, 16.0), (0.0, 0.0, 0.0, 0.0, 5.0)])
def test_norms_that_differ_as_the_fleets_do_pass(norms: tuple[float, ...]) -> None:
    left, refused = taken(GateSettings(norm_action="refuse"), *norms)
    assert left == pytest.approx(norms)
    assert not refused


def test_without_a_limit_any_norm_passes() -> None:
    assert len(taken(GateSettings(norm_limit=None), 1, 1, 1, 1, 1e6)[0]) == 5


def test_one_client_that_sends_often_does_not_move_what_is_usual() -> None:
    fleet = ClientRecords()
    for name in "abcde":
        fleet.heard(update(name, (1.0, 0.0)))
    for _ in range(100):
        fleet.heard(update("liar", (1000.0, 0.0)))
    assert sorted(fleet.norms().values())[2] == 1.0


def residuals(*squares: float) -> Residuals:
    return Residuals.of(np.array([squares]))


def test_the_fleets_residuals_are_those_that_its_clients_sent_last() -> None:
    fleet = ClientRecords()
    fleet.heard(update("a", scores=[1.0], residuals=residuals(1.0, 2.0)))
    fleet.heard(update("b", scores=[1.0], residuals=residuals(10.0, 20.0)))
    fleet.heard(update("gone", scores=[1.0], residuals=residuals(9.0, 9.0)))
    fleet.heard(update("a", scores=[1.0], residuals=residuals(3.0, 4.0)))
    fleet.heard(update("a"))  # was not asked for them
    found = fleet.residuals(["a", "b"], Residuals())
    assert (found.count, found.squares.tolist()) == (2, [13.0, 24.0])


def test_after_a_restart_the_last_versions_residuals_stand_in_for_those_that_are_missing() -> None:
    fleet, before = ClientRecords({"a": {"admitted": 1}}), residuals(5.0, 5.0)
    assert fleet.residuals(["a"], before).squares.tolist() == [5.0, 5.0]
    fleet.heard(update("a", scores=[1.0], residuals=residuals(1.0, 1.0)))
    assert fleet.residuals(["a"], before).squares.tolist() == [1.0, 1.0]
