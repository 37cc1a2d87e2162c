from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.settings import FederationSettings
from server.coordination.state import State
from server.federation.client_records import ClientRecords
from server.federation.journal import STATUS_INTERVAL_S, WAITING_INTERVAL_S, Journal
from server.storage.history import History
from tests.server.notes import read_notes
from tests.server.replies import admitted, update


class Desk:
    """A journal, all that it writes to, and a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self._file = folder / "history.sqlite"
        self.history = History(self._file)
        self.status = folder / "fleet.json"
        rules = FederationSettings(min_clients=2)
        self.journal = Journal(self.history, rules, lambda: self.now, self.status)

    @property
    def notes(self) -> list[tuple[str, str]]:
        return read_notes(self._file)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.history.close()


def test_a_round_is_recorded_with_its_costs(desk: Desk) -> None:
    desk.journal.tasks_sent(5)
    desk.now = 110.0
    desk.journal.round_opened()
    desk.journal.tasks_sent(300)
    desk.journal.tasks_sent(200)
    with desk.journal.timed_encoding():
        pass
    with desk.journal.timed_decoding():
        pass
    desk.now = 112.5
    used = [admitted(update("a", rows=10), bytes_up=70), admitted(update("b", rows=30), bytes_up=80)]
    desk.journal.round_closed("train", 7, 7, used, {"c": "no answer"}, 0.25)
    row = desk.history.rounds()[0]
    assert (row["number"], row["version"], row["kind"], row["error"]) == (7, 7, "train", 0.25)
    assert (row["wall_s"], row["bytes_down"], row["bytes_up"]) == (2.5, 500, 150)
    assert (row["sampled"], row["answered"], row["failed"]) == (3, 2, {"c": "no answer"})
    assert row["encode_s"] > 0 and row["decode_s"] > 0
    assert [reply["client"] for reply in row["replies"]] == ["a", "b"]


def test_the_costs_of_the_next_round_start_at_zero(desk: Desk) -> None:
    desk.journal.tasks_sent(300)
    with desk.journal.timed_encoding():
        pass
    desk.now = 103.0
    desk.journal.round_closed("train", 1, 1, [], {})
    desk.now = 104.0
    desk.journal.round_closed("train", 2, 2, [], {})
    row = desk.history.rounds()[1]
    assert (row["wall_s"], row["bytes_down"], row["encode_s"], row["decode_s"]) == (1.0, 0, 0.0, 0.0)


def test_the_error_of_a_round_is_by_default_that_of_its_replies(desk: Desk) -> None:
    desk.journal.round_closed("evaluate", 2, 1, [admitted(update("a"))], {})
    desk.journal.round_abandoned(3, 1, {"a": "gone"})
    assert [row["error"] for row in desk.history.rounds()] == [0.5, None]


def test_a_decoding_that_fails_is_not_counted(desk: Desk) -> None:
    with pytest.raises(ValueError, match="broken"), desk.journal.timed_decoding():
        raise ValueError("broken")
    desk.journal.round_closed("train", 1, 1, [], {})
    assert desk.history.rounds()[0]["decode_s"] == 0.0


def test_decisions_are_noted(desk: Desk) -> None:
    desk.journal.reply_rejected("a", 4, "not admitted: NaN")
    desk.journal.update_dropped("b", 5, "it is 9 versions behind")
    desk.journal.client_refused("d", "its features differ")
    desk.journal.aggregation_failed(3, 2, "nothing was left", {"a": "NaN"})
    desk.journal.run_stopped(2, "converged")
    assert desk.notes == [
        ("rejected", "a: not admitted: NaN"), ("dropped", "b: it is 9 versions behind"),
        ("refused", "its features differ"), ("aggregation failed", "nothing was left"),
        ("stopped", "converged"),
    ]  # fmt: skip
    row = desk.history.rounds()[0]
    assert (row["number"], row["version"], row["failed"]) == (3, 2, {"a": "NaN"})


def test_a_failed_description_is_noted_once_for_each_reason(desk: Desk) -> None:
    for reason in ("protocol 3", "protocol 3", "protocol 9"):
        desk.journal.description_failed(7, reason, {7})
    desk.journal.description_failed(8, "protocol 3", {8})  # node 7 has left,
    desk.journal.description_failed(7, "protocol 9", {7, 8})  # and is connected again
    reasons = [text.rpartition(": ")[2] for kind, text in desk.notes if kind == "refused"]
    assert reasons == ["protocol 3", "protocol 9", "protocol 3", "protocol 9"]


def test_status_and_waiting_are_written_at_their_intervals(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[Any] = []
    waits = State(waiting_since=desk.now)
    with caplog.at_level(logging.INFO):
        while desk.now < 100 + 3.5 * WAITING_INTERVAL_S:
            desk.journal.waiting(waits)
            if desk.journal.status_due():
                desk.journal.write_status(waits, ClientRecords())
            if desk.status.exists():
                written.append(json.loads(desk.status.read_text()))
                desk.status.unlink()
            desk.now += STATUS_INTERVAL_S / 4
    assert len(written) == 17
    # The second follows after twice the interval.
    assert [text for kind, text in desk.notes if kind == "waiting"] == [
        f"0 of 2 clients ready after {seconds:.0f} s; waiting for 2 more clients to connect"
        for seconds in (WAITING_INTERVAL_S, 3 * WAITING_INTERVAL_S)
    ]
    assert desk.notes[0][1] in caplog.text


def test_without_a_file_no_status_is_written(tmp_path: Path) -> None:
    with closing(History(tmp_path / "history.sqlite")) as history:
        journal = Journal(history, FederationSettings(), lambda: 1e6, None)
        assert not journal.status_due()
        journal.write_status(State(), ClientRecords())
    assert [path.name for path in tmp_path.glob("*.json")] == []
