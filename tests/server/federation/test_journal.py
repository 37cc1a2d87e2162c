from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.flower.stamps import TASK
from common.protocol.messages import Update
from common.settings import FederationSettings
from server.coordination.state import State
from server.federation.client_records import ClientRecords
from server.federation.exchange import Reply, SentMessage
from server.federation.journal import SHOW_EVERY_S, TELL_WAIT_EVERY_S, Journal
from server.federation.ledger import LedgerEntry
from server.storage.history import History
from tests.server.federation.test_client_records import update


class Desk:
    """A journal with all that it writes to, and a clock that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self._file = folder / "history.sqlite"
        self.history = History(self._file)
        self.fleet = ClientRecords()
        self.shown = folder / "fleet.json"
        rules = FederationSettings(min_clients=2)
        self.journal = Journal(self.history, self.fleet, rules, lambda: self.now, self.shown)

    @property
    def notes(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self._file)) as database:
            return database.execute("SELECT kind, text FROM notes ORDER BY rowid").fetchall()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.history.close()


@pytest.fixture(autouse=True)
def a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)


def entry(answer: Update, bytes_up: int = 10) -> LedgerEntry:
    asked = Message(RecordDict(), 1, "train")
    reply = Reply(SentMessage(1, 4, "train"), answer, "", "", Message(Error(0, ""), reply_to=asked), bytes_up)
    return LedgerEntry(4, 1, answer, reply)


def test_a_round_is_recorded_with_what_it_cost(desk: Desk) -> None:
    desk.journal.sent(5)
    desk.now = 110.0
    desk.journal.opened()
    desk.journal.sent(300)
    desk.journal.sent(200)
    with desk.journal.encoding():
        pass
    with desk.journal.decoding():
        pass
    desk.now = 112.5
    used = [entry(update("a", rows=10), 70), entry(update("b", rows=30), 80)]
    desk.journal.closed("train", 7, 7, used, {"c": "no answer"}, 0.25)
    row = desk.history.rounds()[0]
    assert (row["number"], row["version"], row["kind"], row["error"]) == (7, 7, "train", 0.25)
    assert (row["wall_s"], row["bytes_down"], row["bytes_up"]) == (2.5, 500, 150)
    assert (row["sampled"], row["answered"], row["failed"]) == (3, 2, {"c": "no answer"})
    assert row["encode_s"] > 0 and row["decode_s"] > 0
    assert [reply["client"] for reply in row["replies"]] == ["a", "b"]


def test_the_next_round_begins_with_nothing_spent(desk: Desk) -> None:
    desk.journal.sent(300)
    with desk.journal.encoding():
        pass
    desk.now = 103.0
    desk.journal.closed("train", 1, 1, [], {})
    desk.now = 104.0
    desk.journal.closed("train", 2, 2, [], {})
    row = desk.history.rounds()[1]
    assert (row["wall_s"], row["bytes_down"], row["encode_s"], row["decode_s"]) == (1.0, 0, 0.0, 0.0)


def test_the_error_of_a_round_is_that_of_its_answers_unless_said_otherwise(desk: Desk) -> None:
    desk.journal.closed("evaluate", 2, 1, [entry(update("a"))], {})
    desk.journal.abandoned(3, 1, {"a": "gone"})
    assert [row["error"] for row in desk.history.rounds()] == [0.5, None]


def test_a_decoding_that_fails_is_not_counted(desk: Desk) -> None:
    with pytest.raises(ValueError, match="broken"), desk.journal.decoding():
        raise ValueError("broken")
    desk.journal.closed("train", 1, 1, [], {})
    assert desk.history.rounds()[0]["decode_s"] == 0.0


def test_what_is_not_used_is_noted_and_counted(desk: Desk) -> None:
    desk.journal.not_used("a", 4, "not finite", "not admitted: NaN")
    desk.journal.dropped("b", 5, "it is 9 versions behind", admitted=True)
    desk.journal.dropped("c", 6, "nobody asked", admitted=False)
    desk.journal.refused("d", "its features differ")
    desk.journal.not_folded(3, 2, "nothing was left", {"a": "NaN"})
    desk.journal.stopped(2, "converged")
    assert desk.notes == [
        ("not used", "a: not admitted: NaN"), ("dropped", "b: it is 9 versions behind"),
        ("dropped", "c: nobody asked"), ("refused", "its features differ"),
        ("not folded", "nothing was left"), ("stopped", "converged"),
    ]  # fmt: skip
    assert dict(desk.fleet.records["a"].refused) == {"not finite": 1}
    assert desk.fleet.records["b"].dropped == 1
    assert "c" not in desk.fleet.records
    row = desk.history.rounds()[0]
    assert (row["number"], row["version"], row["failed"]) == (3, 2, {"a": "NaN"})


def test_why_a_client_does_not_say_who_it_is_is_told_once(desk: Desk) -> None:
    for reason in ("protocol 3", "protocol 3", "protocol 9"):
        desk.journal.silent(7, reason, {7})
    desk.journal.silent(8, "protocol 3", {8})  # 7 has left,
    desk.journal.silent(7, "protocol 9", {7, 8})  # and is here again
    told = [text.rpartition(": ")[2] for kind, text in desk.notes if kind == "refused"]
    assert told == ["protocol 3", "protocol 9", "protocol 3", "protocol 9"]


def test_the_state_is_shown_and_the_wait_told_each_in_its_rhythm(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[Any] = []
    waits = State(waiting_since=desk.now)
    with caplog.at_level(logging.INFO):
        while desk.now < 100 + 2.5 * TELL_WAIT_EVERY_S:
            desk.journal.meanwhile(waits, set())
            if desk.shown.exists():
                written.append(json.loads(desk.shown.read_text()))
                desk.shown.unlink()
            desk.now += SHOW_EVERY_S / 4
    assert len(written) == 12
    assert [kind for kind, _ in desk.notes] == ["waiting"] * 2
    assert "0 of 2 clients" in desk.notes[0][1]
    assert desk.notes[0][1] in caplog.text


def test_without_a_file_nothing_is_shown(tmp_path: Path) -> None:
    with closing(History(tmp_path / "history.sqlite")) as history:
        Journal(history, ClientRecords(), FederationSettings(), lambda: 0.0, None).show(State(), set())
    assert [path.name for path in tmp_path.glob("*.json")] == []
