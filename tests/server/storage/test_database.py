from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from server.storage import database, history
from server.storage.database import DatabaseError
from server.storage.history import History
from tests.contracts.postgres import PASSWORD, Postgres
from tests.server.storage.test_history import finished, reply


@pytest.fixture
def own() -> Iterator[Postgres]:
    """Yield a PostgreSQL server that the test may stop."""
    running = Postgres()
    yield running
    running.remove()


@pytest.mark.parametrize(
    "url",
    ["postgresql://", "postgresql://u:hidden@h:port/d", "postgresql://u:hid/den@h/d", "oracle9://u:hidden@h/d"],
)  # fmt: skip
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseError) as refused, closing(History(url)) as opened:
        opened.check()
    assert "hid" not in str(refused.value)


def test_a_wrong_password_is_reported_without_the_password(postgres: Postgres) -> None:
    opened = History(postgres.url(password="guessed"))
    with pytest.raises(DatabaseError, match="password authentication failed") as refused:
        opened.check()
    opened.close()
    assert str(refused.value).startswith("postgresql://flock:***@127.0.0.1:")
    assert "guessed" not in str(refused.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseError, match="extra 'postgres'"):
        History("postgresql://user@host/name")


def test_a_server_that_accepts_and_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CONNECT_WITHIN_S", 2)  # the shortest that PostgreSQL's library knows
    with socket.create_server(("127.0.0.1", 0)) as silent:
        opened = History(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")
        with pytest.raises(DatabaseError, match="timeout"):
            opened.check()
        opened.close()


def test_missing_columns_are_added_to_tables_of_an_earlier_version(postgres: Postgres) -> None:
    url = postgres.new_database()
    with closing(History(url)) as opened:
        opened.add_round(finished(1), [reply("a")])
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE rounds DROP COLUMN encode_s")
        connection.execute("DROP TABLE notices")
    with closing(History(url)) as opened:
        opened.add_round(finished(2, encode_s=0.5), [reply("a")])
        assert [row["encode_s"] for row in opened.rounds()] == [None, 0.5]
        assert opened.notices(1) == []


def test_several_processes_may_create_the_tables_at_once(postgres: Postgres) -> None:
    url = postgres.new_database()
    code = (
        "import sys; from server.storage.history import History\n"
        "history = History(sys.argv[1]); history.note('began', 'x'); history.close()"
    )
    root = Path(__file__).parents[3]
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, url], cwd=root) for _ in range(4)]
    assert [process.wait(240) for process in started] == [0] * 4
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (4,)


def test_records_are_written_after_an_outage_of_the_database(
    own: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history, "RETRY_S", 0.0)
    with closing(History(own.url())) as opened:
        opened.add_round(finished(1), [reply("a")])
        own.stop()
        with caplog.at_level(logging.WARNING):
            opened.add_round(finished(2), [reply("a"), reply("b")])
            opened.note("waiting", "for b")
        with pytest.raises(DatabaseError):
            opened.rounds()
        with pytest.raises(DatabaseError):
            opened.add_notice("a", "1", "incident_started", "{}")
        own.start()
        opened.add_round(finished(3), [reply("b")])
        rounds = [(row["number"], [r["client"] for r in row["replies"]]) for row in opened.rounds()]
        assert rounds == [(1, ["a"]), (2, ["a", "b"]), (3, ["b"])]
        assert opened.last_note() == ("waiting", "for b")
    assert "history not written pending=2" in caplog.text
    assert PASSWORD not in caplog.text


def test_an_unavailable_database_is_retried_after_a_delay(
    own: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RETRY_S", 3600.0)  # longer than PostgreSQL takes to start
    with closing(History(own.url())) as opened:
        own.stop()
        opened.note("waiting", "first")
        own.start()
        opened.note("waiting", "second")
        assert opened.last_note() is None  # so that a run is not held up by each record
    with closing(History(own.url())) as opened:
        assert opened.last_note() == ("waiting", "second")


def test_lost_records_are_counted_in_the_log(own: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    opened = History(own.url())
    own.stop()
    opened.note("waiting", "x")
    opened.close()
    assert "history lost records=1" in caplog.text
