from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from common.model.scoring import ErrorSummary
from server.storage.database import NOTICES, ROUNDS, ReplyRow, RoundRow
from server.storage.history import History
from server.storage.steady_clock import SteadyClock
from tests.contracts.postgres import Postgres


def reply(client: str, mean: float = 0.5, **changes: Any) -> ReplyRow:
    error = ErrorSummary(count=5, mean=mean, p50=0.25, p95=0.75, p99=0.875, max=1.0)
    values = {"version": 0, "rows": 100, "bytes_up": 2000, "loss": 0.125, "train_s": 1.5}
    return ReplyRow(**{"client": client, "error": error, **values, **changes})


def finished(number: int, **changes: Any) -> RoundRow:
    values = {
        "kind": "train",
        "version": number,
        "wall_s": 1.25,
        "sampled": 2,
        "error": 0.5,
        "bytes_up": 4000,
        "bytes_down": 6000,
        "failed": {},
    }
    return RoundRow(**{"number": number, **values, **changes})


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Return an empty database: a file, or the URL of one in a real PostgreSQL server."""
    if request.param == "sqlite":
        return tmp_path / "history.sqlite"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def history(where: Path | str) -> Iterator[History]:
    opened = History(where)
    yield opened
    opened.close()


def test_a_new_history_is_empty(history: History) -> None:
    assert history.rounds() == []
    assert history.newest_round() is None
    assert history.last_note() is None


def test_a_round_is_read_with_its_replies(history: History) -> None:
    started = time.time()
    replies = [reply("a", 0.25), reply("b", 0.75, rows=300)]
    history.add_round(finished(1, failed={"c": "out of memory"}, sampled=3), replies)
    (row,) = history.rounds()
    assert started - 1 <= row.pop("ended_at") <= time.time() + 1
    expected = [asdict(each) for each in replies]
    for each in expected:
        traffic = each.pop("traffic")
        names = ("sent_bytes", "received_bytes", "replies_bytes", "encode_s", "decode_s")
        each.update({name: getattr(traffic, name) for name in names})
        each["error"] = structs.asdict(each["error"])
    assert row.pop("replies") == expected
    assert row == {**asdict(finished(1, failed={"c": "out of memory"}, sampled=3)), "answered": 2}


def test_rounds_are_ordered_oldest_first_with_their_replies(history: History) -> None:
    for number in (1, 2, 3):
        history.add_round(finished(number), [reply(f"edge-{number}", version=number - 1)])
    rounds = history.rounds()
    assert [row["number"] for row in rounds] == [1, 2, 3]
    assert [[r["client"] for r in row["replies"]] for row in rounds] == [["edge-1"], ["edge-2"], ["edge-3"]]


def test_evaluate_and_train_rounds_of_one_number_are_separate(history: History) -> None:
    history.add_round(finished(2), [reply("trained")])
    history.add_round(finished(2, kind="evaluate"), [reply("measured", loss=None, train_s=None)])
    trained, measured = history.rounds()
    assert [r["client"] for r in trained["replies"]] == ["trained"]
    assert [(r["client"], r["loss"], r["train_s"]) for r in measured["replies"]] == [("measured", None, None)]


def test_a_round_that_failed_has_no_replies_and_no_error(history: History) -> None:
    history.add_round(finished(1, error=None, failed={"a": "NaN", "b": "left"}), [])
    history.add_round(finished(1), [reply("a"), reply("b")])
    failed, repeated = history.rounds()
    assert (failed["replies"], failed["error"], failed["answered"]) == ([], None, 0)
    assert failed["failed"] == {"a": "NaN", "b": "left"}
    assert [r["client"] for r in repeated["replies"]] == ["a", "b"]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_round_repeated_after_a_restart_has_its_own_replies(where: Path | str, kind: str) -> None:
    for client in ("before", "after"):
        with closing(History(where)) as history:
            history.add_round(finished(5, kind=kind), [reply(client)])
    with closing(History(where)) as history:
        rounds = [[r["client"] for r in row["replies"]] for row in history.rounds()]
    assert rounds == [["before"], ["after"]]


def test_the_newest_round_is_the_one_recorded_last(history: History) -> None:
    history.add_round(finished(9), [reply("a")])
    history.add_round(finished(4, kind="evaluate"), [reply("a"), reply("b")])
    newest = history.newest_round()
    assert newest is not None
    assert (newest["number"], newest["kind"], newest["answered"]) == (4, "evaluate", 2)
    assert "replies" not in newest


def test_the_last_note_is_the_newest(history: History) -> None:
    history.note("waiting", "0 of 2 clients ready")
    history.note("stopped", "60 rounds done")
    assert history.last_note() == ("stopped", "60 rounds done")


def test_any_text_can_be_noted(history: History) -> None:
    text = '\'); DROP TABLE rounds; -- \N{SNOWMAN} \n "quoted" :name %s %(name)s'
    history.note(text, text)
    history.add_round(finished(1, failed={text: text}), [reply(text)])
    assert history.last_note() == (text, text)
    assert history.rounds()[0]["failed"] == {text: text}
    assert history.rounds()[0]["replies"][0]["client"] == text


def test_characters_that_a_database_refuses_are_replaced(history: History) -> None:
    history.note("not used", "a\0b\ud800c")
    history.add_round(finished(1, failed={"x\0": "\ud800"}), [reply("n\0")])
    assert history.last_note() == ("not used", "a\N{REPLACEMENT CHARACTER}b?c")
    (row,) = history.rounds()
    assert row["failed"] == {"x\0": "\ud800"}
    assert row["replies"][0]["client"] == "n\N{REPLACEMENT CHARACTER}"


def test_numbers_of_any_size_are_kept(history: History) -> None:
    history.add_round(finished(2**40, error=1e-300, bytes_up=2**50), [reply("a", rows=2**40)])
    (row,) = history.rounds()
    assert (row["number"], row["error"], row["bytes_up"]) == (2**40, 1e-300, 2**50)
    assert row["replies"][0]["rows"] == 2**40


def test_newest_rounds_can_start_after_a_known_one(history: History) -> None:
    for number in range(1, 6):
        history.add_round(finished(number), [reply("a")])
    everything = history.newest_rounds(100)
    assert [row["number"] for row in everything] == [1, 2, 3, 4, 5]
    assert [row["number"] for row in history.newest_rounds(2)] == [4, 5]
    assert [row["number"] for row in history.newest_rounds(100, everything[3]["rowid"])] == [5]
    assert history.newest_rounds(100, history.newest_id(ROUNDS)) == []


def test_a_notice_is_stored_once(history: History) -> None:
    assert history.newest_id(NOTICES) == 0
    assert history.add_notice("a", "1", "incident_started", "{}")
    assert not history.add_notice("a", "1", "incident_started", "{}")
    assert history.add_notice("a", "1", "incident_ended", "{}")
    assert history.add_notice("b", "1", "incident_started", "{}")
    assert [(n["client"], n["kind"]) for n in history.notices(10)] == [
        ("b", "incident_started"), ("a", "incident_ended"), ("a", "incident_started"),
    ]  # fmt: skip


def test_an_open_incident_is_listed_however_many_have_ended(history: History) -> None:
    history.add_notice("a", "open", "incident_started", "{}")
    for number in range(5):
        history.add_notice("b", str(number), "incident_started", "{}")
        history.add_notice("b", str(number), "incident_ended", "{}")
    assert [n["incident"] for n in history.notices(3)] == ["4", "4", "3", "open"]


def test_the_oldest_notices_are_deleted(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.history.MAX_ROWS", 3)
    for number in range(6):
        history.add_notice("a", str(number), "incident_started", "{}")
    assert [n["incident"] for n in history.notices(10)] == ["5", "4", "3"]


def test_a_round_is_recorded_whole_or_not_at_all(history: History) -> None:
    history.add_round(finished(1), [reply("a")])
    history.add_round(finished(2), [reply("b"), reply("c", rows=object())])
    assert [row["number"] for row in history.rounds()] == [1]
    history.add_round(finished(2), [reply("b")])
    assert [r["client"] for r in history.rounds()[1]["replies"]] == ["b"]


def test_a_restart_continues_the_history(where: Path | str) -> None:
    for number in (1, 2):
        with closing(History(where)) as history:
            history.add_round(finished(number), [reply("a")])
            history.note("stopped", str(number))
    with closing(History(where)) as history:
        assert [row["number"] for row in history.rounds()] == [1, 2]
        assert history.last_note() == ("stopped", "2")


def test_other_processes_can_read_while_it_is_written(history: History, where: Path | str) -> None:
    with closing(History(where)) as reader:
        for number in range(1, 6):
            history.add_round(finished(number), [reply("a")])
            assert len(reader.rounds()) == number


def test_an_open_reader_does_not_block_the_writer(path: Path) -> None:
    with closing(History(path)) as history:
        history.add_round(finished(5), [reply("a")])
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as plain:
            plain.execute("BEGIN")
            assert plain.execute("SELECT count(*) FROM rounds").fetchone() == (1,)
            history.add_round(finished(6), [reply("a")])
            assert plain.execute("SELECT count(*) FROM rounds").fetchone() == (1,)
            plain.rollback()
            assert plain.execute("SELECT count(*) FROM rounds").fetchone() == (2,)


def test_rounds_survive_a_killed_process(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from server.storage.database import RoundRow; from server.storage.history import History\n"
        "history = History(Path(sys.argv[1]))\n"
        "for n in range(1, 4): history.add_round(RoundRow(n, 'train', n, 1.0, 2, 0.5, 1, 1, {}), [])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[3])
    assert killed.returncode == -9
    with closing(History(path)) as history:
        assert [row["number"] for row in history.rounds()] == [1, 2, 3]


def test_a_database_of_an_earlier_version_can_be_used(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.sqlite")) as old, old:
        old.execute(
            "CREATE TABLE rounds (number INTEGER, kind TEXT, version INTEGER, ended_at REAL, wall_s REAL, "
            "sampled INTEGER, answered INTEGER, error REAL, bytes_up INTEGER, bytes_down INTEGER, "
            "failed TEXT)"
        )
        old.execute(
            "CREATE TABLE replies (round INTEGER REFERENCES rounds (rowid), version INTEGER, client TEXT, "
            "rows INTEGER, error TEXT, loss REAL, train_s REAL, bytes_up INTEGER)"
        )
        old.execute("INSERT INTO rounds VALUES (1, 'train', 1, 0.0, 1.0, 2, 0, 0.5, 10, 20, '{}')")
    history = History(tmp_path / "old.sqlite")
    history.add_round(finished(2), [reply("a", 0.25)])
    first, second = history.rounds()
    assert (first["number"], first["encode_s"]) == (1, None)
    assert second["replies"][0]["sent_bytes"] == 0
    history.close()


def test_a_number_that_no_database_holds_costs_its_record_and_nothing_else(history: History) -> None:
    history.add_round(finished(1, bytes_up=2**80), [reply("a")])
    history.add_round(finished(2), [reply("a")])
    assert [row["number"] for row in history.rounds()] == [2]
    assert history.trouble == ""


def test_a_damaged_file_is_written_again_when_it_can_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.history.RETRY_S", 0.0)
    path.write_bytes(b"no database" * 1000)
    with closing(History(path)) as history:
        history.add_round(finished(1), [reply("a")])
        history.note("waiting", "for a")
        assert "2 records are not written" in history.trouble
        path.unlink()
        history.add_round(finished(2), [reply("a")])
        assert history.trouble == ""
        assert [row["number"] for row in history.rounds()] == [1, 2]


def test_a_sound_file_stays(path: Path) -> None:
    with closing(History(path)) as history:
        assert history.prepare() is None
        history.add_round(finished(1), [reply("a")])
    with closing(History(path)) as history:
        assert history.prepare() is None
        assert len(history.rounds()) == 1


@pytest.mark.parametrize("page", [0, 1, 2, 5])
def test_a_file_with_a_damaged_page_is_set_aside_and_a_new_one_begun(path: Path, page: int) -> None:
    with closing(History(path)) as history:
        for number in range(200):
            history.add_round(finished(number), [reply("a")])
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(bytes(range(256)) * 16)
    with closing(History(path)) as history:
        problem = history.prepare()
        assert problem is not None and "history.sqlite.damaged" in problem
        assert history.last_note() == ("trouble", problem)
        history.add_round(finished(201), [reply("a")])
        assert [row["number"] for row in history.rounds()] == [201]
        assert history.trouble == ""
    assert path.with_name("history.sqlite.damaged").exists()


def test_a_database_that_cannot_be_reached_is_tried_again_with_each_record() -> None:
    with closing(History("postgresql://nobody@127.0.0.1:9/none")) as history:
        problem = history.prepare()
        assert problem is not None and "127.0.0.1" in problem
        history.note("waiting", "for a")
        assert "1 records are not written" in history.trouble


def test_what_is_too_old_is_deleted(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.history.PRUNE_S", 0.0)
    monkeypatch.setattr("server.storage.steady_clock.STEADY_S", 0.0)
    now = time.time()
    monkeypatch.setattr("server.storage.history.time.time", lambda: now - 366 * 86400)
    history.add_round(finished(1), [reply("a")])
    history.note("waiting", "for a")
    history.add_notice("a", "1", "incident_started", "{}")
    monkeypatch.setattr("server.storage.history.time.time", lambda: now)
    history.add_round(finished(2), [reply("b")])
    assert [(row["number"], row["replies"][0]["client"]) for row in history.rounds()] == [(2, "b")]
    assert history.last_note() is None
    assert history.notices(10) == []


@pytest.mark.parametrize("years", [2, 30, -2, -30])
def test_a_clock_that_jumps_deletes_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    monkeypatch.setattr("server.storage.history.PRUNE_S", 0.0)
    history.add_round(finished(1), [reply("a")])
    wall, monotonic, jump_s = time.time(), time.monotonic(), years * 366 * 86400
    for minutes in range(0, 60, 10):
        monkeypatch.setattr("time.time", lambda m=minutes: wall + jump_s + 60 * m)
        monkeypatch.setattr("time.monotonic", lambda m=minutes: monotonic + 60 * m)
        history.add_round(finished(2 + minutes), [reply("b")])
    monkeypatch.setattr("time.time", lambda: wall + 3600)
    history.add_round(finished(100), [reply("b")])
    assert history.rounds()[0]["number"] == 1
    assert len(history.rounds()) == 8


def test_the_clock_is_trusted_a_day_after_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wall, monotonic = SteadyClock(), time.time() + 1e9, time.monotonic()
    answers = []
    for hours in (0, 1, 23, 24.1):
        monkeypatch.setattr("time.time", lambda h=hours: wall + 3600 * h)
        monkeypatch.setattr("time.monotonic", lambda h=hours: monotonic + 3600 * h)
        answers.append(clock.is_steady)
    assert answers == [False, False, False, True]


def test_the_oldest_of_too_many_rounds_are_deleted(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.history.PRUNE_S", 0.0)
    monkeypatch.setattr("server.storage.history.MAX_ROWS", 3)
    for number in range(1, 7):
        history.add_round(finished(number), [reply("a")])
    assert [row["number"] for row in history.rounds()] == [4, 5, 6]
