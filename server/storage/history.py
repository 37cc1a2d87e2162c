"""The history of a federation: rounds, replies, notes and notices of incidents, in a database."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from msgspec.structs import asdict
from sqlalchemy.exc import DatabaseError as DriverDatabaseError
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError

from common.protocol.alerts import END_KINDS, OPEN_KINDS
from common.protocol.messages import Traffic
from server.storage import database
from server.storage.database import NOTES, NOTICES, REPLIES, ROUNDS, DatabaseError, ReplyRow, RoundRow
from server.storage.steady_clock import SteadyClock

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Delay before the next attempt to write, after a failed one."""
MAX_PENDING = 10_000
"""Records kept in memory while the database cannot be written; if there are more, the oldest are lost."""
MAX_ROWS = 100_000
"""Rows that are kept of each table: rounds, replies, notes and notices; older ones are deleted."""
PRUNE_S = 600.0
"""Time between two deletions of old rows."""
DAY_S = 86400.0


class History:
    """Writes and reads the history.

    If the database is unavailable, full or damaged, rounds and notes are kept in memory and written later,
    and `trouble` says so. Reading then raises `DatabaseError`. A record that the database refuses is lost.

    Args:
        where: SQLite file, or database URL.
        days: Days for which rows are kept.

    Raises:
        DatabaseError: the URL is invalid.
    """

    def __init__(self, where: Path | str, days: float = 365.0) -> None:
        self._keep_s = days * DAY_S
        self._pruned_at = time.monotonic()
        self._clock = SteadyClock()
        self._where = where
        self._engine = database.create_engine(where)
        self._tables_exist = False
        self._pending: deque[Callable[[sa.Connection], object]] = deque(maxlen=MAX_PENDING)
        self._retry_at = 0.0
        self.trouble = ""
        """The reason why records wait in memory; empty while they are written."""

    def check(self) -> None:
        """Connect to the database and create missing tables.

        Raises:
            DatabaseError: the database cannot be used.
        """
        with self._session():
            pass

    def prepare(self) -> str | None:
        """Make the database ready if that is possible; return the problem with it, None if there is none.

        A damaged SQLite file, which cannot be written any more, is set aside, and a new one is created. A
        database that cannot be reached is tried again with each record.
        """
        try:
            self.check()
            problem = database.damage(self._engine)
        except DatabaseError as error:
            problem = str(error)
        if problem is None:
            return None
        if not isinstance(self._where, Path) or not database.is_damage(problem):
            log.error("history cannot be used now reason=%s", problem)
            return problem
        self._engine.dispose()
        aside = database.set_aside(self._where)
        problem = f"the file was damaged and is now {aside.name}: {problem}"
        log.error("history replaced by an empty one reason=%s", problem)
        self._tables_exist = False
        self.note("trouble", problem)
        return problem

    def add_round(self, row: RoundRow, replies: list[ReplyRow]) -> None:
        """Record a finished round and the replies used in it."""
        round_values = {
            **vars(row), "failed": json.dumps(dict(row.failed)), "ended_at": time.time(),
            "answered": len(replies),
        }  # fmt: skip
        reply_values = [_storable(_columns(reply)) for reply in replies]

        def write(connection: sa.Connection) -> None:
            rowid = _insert(connection, ROUNDS.insert().values(_storable(round_values)))
            if reply_values:
                connection.execute(REPLIES.insert(), [{**reply, "round": rowid} for reply in reply_values])

        self._write(write)
        if not self._pending and time.monotonic() >= self._pruned_at + PRUNE_S:
            self._pruned_at = time.monotonic()
            self._write(self._prune)

    def _prune(self, connection: sa.Connection) -> None:
        """Delete what is too old, if the clock can be trusted, and the oldest of what is too much."""
        oldest = time.time() - self._keep_s if self._clock.is_steady else 0.0
        for table, at in ((ROUNDS, ROUNDS.c.ended_at), (NOTES, NOTES.c.at), (NOTICES, NOTICES.c.received_at)):
            newest = connection.execute(sa.select(sa.func.max(table.c.rowid))).scalar() or 0
            old = sa.or_(at < oldest, table.c.rowid <= newest - MAX_ROWS)
            if table is ROUNDS:
                rounds = sa.select(ROUNDS.c.rowid).where(old)
                connection.execute(REPLIES.delete().where(REPLIES.c.round.in_(rounds)))
            connection.execute(table.delete().where(old))
        newest = connection.execute(sa.select(sa.func.max(REPLIES.c.rowid))).scalar() or 0
        connection.execute(REPLIES.delete().where(REPLIES.c.rowid <= newest - MAX_ROWS))

    def note(self, kind: str, text: str) -> None:
        """Record a remark about the run, such as of kind `waiting`, `refused` or `stopped`."""
        values = {"at": time.time(), "kind": kind, "text": text}
        self._write(lambda connection: connection.execute(NOTES.insert().values(_storable(values))))

    def add_notice(self, client: str, incident: str, kind: str, content: str) -> bool:
        """Record a notice of an incident.

        Args:
            client: The client that sent it.
            incident: The incident's id, unique for the client.
            kind: The notice's kind.
            content: The notice in JSON.

        Returns:
            False if the same notice was recorded before.

        Raises:
            DatabaseError: the notice was not recorded.
        """
        values = {
            "client": client, "incident": incident, "kind": kind, "received_at": time.time(),
            "content": content,
        }  # fmt: skip
        try:
            with self._session() as connection:
                rowid = _insert(connection, NOTICES.insert().values(_storable(values)))
                connection.execute(NOTICES.delete().where(NOTICES.c.rowid <= rowid - MAX_ROWS))
        except IntegrityError:
            return False
        return True

    def last_note(self) -> tuple[str, str] | None:
        """Return kind and text of the newest note; None if there is none."""
        with self._session() as connection:
            newest = sa.select(NOTES).order_by(NOTES.c.rowid.desc()).limit(1)
            row = connection.execute(newest).one_or_none()
        return (row.kind, row.text) if row else None

    def newest_round(self) -> dict[str, Any] | None:
        """Return the newest round, without its replies; None if there is none."""
        rounds = self.newest_rounds(1)
        return rounds[0] if rounds else None

    def newest_rounds(self, limit: int, after: int = 0) -> list[dict[str, Any]]:
        """Return the newest rounds, oldest first, without their replies.

        Args:
            limit: Maximum number of rounds.
            after: Return only rounds recorded after the one with this `rowid`.
        """
        newest = sa.select(ROUNDS).where(ROUNDS.c.rowid > after).order_by(ROUNDS.c.rowid.desc()).limit(limit)
        with self._session() as connection:
            rows = connection.execute(newest).mappings().all()
        return [{**row, "failed": json.loads(row["failed"])} for row in reversed(rows)]

    def rounds(self) -> list[dict[str, Any]]:
        """Return all rounds, oldest first, each with the replies used in it."""
        with self._session() as connection:
            round_rows = connection.execute(sa.select(ROUNDS).order_by(ROUNDS.c.rowid)).mappings().all()
            reply_rows = connection.execute(sa.select(REPLIES).order_by(REPLIES.c.rowid)).mappings().all()
        replies: dict[int, list[dict[str, Any]]] = {}
        for row in reply_rows:
            reply = {**row, "error": json.loads(row["error"])}
            del reply["rowid"]
            replies.setdefault(reply.pop("round"), []).append(reply)
        rounds = []
        for row in round_rows:
            values = {**row, "failed": json.loads(row["failed"]), "replies": replies.get(row["rowid"], [])}
            del values["rowid"]
            rounds.append(values)
        return rounds

    def newest_id(self, table: sa.Table) -> int:
        """Return the largest `rowid` of a table; 0 if it is empty."""
        with self._session() as connection:
            return connection.execute(sa.select(sa.func.max(table.c.rowid))).scalar() or 0

    def notices(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest notices of open incidents, and the newest of all others.

        Args:
            limit: Maximum number of notices, of open incidents and of all others each.

        Returns:
            Rows of the table, newest first.
        """
        end = NOTICES.alias()
        ended = sa.exists().where(
            end.c.client == NOTICES.c.client, end.c.incident == NOTICES.c.incident,
            end.c.kind.in_(END_KINDS),
        )  # fmt: skip
        is_open = sa.and_(NOTICES.c.kind.in_(OPEN_KINDS), ~ended)
        newest = sa.select(NOTICES).order_by(NOTICES.c.rowid.desc()).limit(limit)
        with self._session() as connection:
            rows = [*connection.execute(newest.where(is_open)).mappings()]
            rows += connection.execute(newest.where(~is_open)).mappings()
        return [dict(row) for row in sorted(rows, key=lambda row: row["rowid"], reverse=True)]

    def close(self) -> None:
        """Try once more to write pending records, and close all connections."""
        self._retry_at = 0.0
        self._flush()
        if self._pending:
            log.error("history lost records=%d", len(self._pending))
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[sa.Connection]:
        try:
            with self._connection() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise database.database_error(self._where, error) from error

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """Yield a connection with an open transaction; create the tables at first."""
        with self._engine.begin() as connection:
            if not self._tables_exist:
                database.create_tables(connection)
            yield connection
        self._tables_exist = True

    def _write(self, write: Callable[[sa.Connection], object]) -> None:
        self._pending.append(write)
        self._flush()

    def _flush(self) -> None:
        """Write pending records, oldest first, until the database fails; one that it refuses is lost."""
        if time.monotonic() < self._retry_at:
            return
        while self._pending:
            try:
                with self._connection() as connection:
                    self._pending[0](connection)
            except DBAPIError as error:
                # A driver's `DatabaseError` itself: the file is damaged, or no database.
                if isinstance(error, OperationalError | InternalError) or type(error) is DriverDatabaseError:
                    return self._unavailable(str(database.database_error(self._where, error)))
                log.error("record lost reason=%s", database.database_error(self._where, error))
            except Exception as error:  # such as a number that the database cannot hold
                log.error("record lost reason=%s: %s", type(error).__name__, error)
            self._pending.popleft()
        self.trouble = ""

    def _unavailable(self, reason: str) -> None:
        """Wait before the next attempt to write."""
        self.trouble = f"{len(self._pending)} records are not written: {reason}"
        self._retry_at = time.monotonic() + RETRY_S
        log.warning("history not written pending=%d reason=%s", len(self._pending), reason)


def _insert(connection: sa.Connection, row: sa.Insert) -> int:
    """Insert a row and return its `rowid`."""
    key = connection.execute(row).inserted_primary_key
    assert key is not None  # noqa: S101  every table has one
    return int(key[0])


def _columns(reply: ReplyRow) -> dict[str, Any]:
    """Return a reply as the values of its row."""
    values = {**vars(reply), "error": json.dumps(asdict(reply.error))}
    traffic: Traffic = values.pop("traffic")
    names = ("sent_bytes", "received_bytes", "replies_bytes", "encode_s", "decode_s")
    return {**values, **{name: getattr(traffic, name) for name in names}}


def _storable(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a row with the characters replaced that a database refuses.

    These are NUL and unpaired surrogates.
    """
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }
