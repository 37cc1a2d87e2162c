"""What happened: rounds, replies, waits and alerts, in a database that others may read while it grows."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from common.model.scoring import ErrorSummary
from common.protocol.traffic import Traffic
from server.storage import database
from server.storage.database import NOTES, NOTICES, REPLIES, ROUNDS

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""From one attempt to write, in vain, to the next."""
MAX_PENDING = 10_000
"""Records that wait in memory while the database cannot be written; beyond it the oldest are lost."""
MAX_NOTICES = 100_000
"""Of alerts, that are kept."""


@dataclass(frozen=True)
class ReplyRow:
    """One client's part in a round."""

    client: str
    version: int
    """The version that was measured."""
    rows: int
    error: ErrorSummary
    bytes_up: int
    """Of the reply's content."""
    codec: str | None = None
    """That the update was encoded with; None: as it is."""
    traffic: Traffic = field(default_factory=Traffic)
    """HTTP on the client's sockets since its reply before: what this one costs comes with the next."""
    loss: float | None = None
    train_s: float | None = None


@dataclass(frozen=True)
class RoundRow:
    """One finished round. `version` is the newest after it; `error` is of the version before it."""

    number: int
    kind: str
    version: int
    wall_s: float
    sampled: int
    error: float | None
    """Reconstruction error weighted by rows, in squared scaled units; None for a round that failed."""
    bytes_up: int
    bytes_down: int
    failed: Mapping[str, str]
    """Why, by client."""
    encode_s: float = 0.0
    """What encoding the next version took the server, and decoding the updates."""
    decode_s: float = 0.0


class History:
    """The database, by file or by URL.

    A database that is away for a while does not end a run: what happened meanwhile is kept in memory, and
    written once it is back.

    Raises:
        DatabaseError: the URL is wrong; later, what cannot be read.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._engine = database.engine(where)
        self._prepared = False
        self._pending: deque[Callable[[sa.Connection], object]] = deque(maxlen=MAX_PENDING)
        self._retry_at = 0.0

    def check(self) -> None:
        """Connect, and make what tables are missing.

        Raises:
            DatabaseError: it cannot be used.
        """
        with self._session():
            pass

    def add_round(self, row: RoundRow, replies: list[ReplyRow]) -> None:
        """Record a finished round and the replies that it used."""
        finished = {
            **vars(row), "failed": json.dumps(dict(row.failed)), "ended_at": time.time(),
            "answered": len(replies),
        }  # fmt: skip
        used = [_columns(reply) for reply in replies]

        def write(connection: sa.Connection) -> None:
            number = _added(connection, ROUNDS.insert().values(finished))
            if used:
                connection.execute(REPLIES.insert(), [{**reply, "round": number} for reply in used])

        self._write(write)

    def note(self, kind: str, text: str) -> None:
        """Record something worth telling: `waiting`, `refused`, `stopped`."""
        values = {"at": time.time(), "kind": kind, "text": text}
        self._write(lambda connection: connection.execute(NOTES.insert().values(values)))

    def add_notice(self, client: str, incident: str, kind: str, content: str) -> bool:
        """Record what an edge told of an incident; False if it is known already.

        Raises:
            DatabaseError: it is not recorded.
        """
        values = {
            "client": client, "incident": incident, "kind": kind, "received_at": time.time(),
            "content": content,
        }  # fmt: skip
        try:
            with self._session() as connection:
                number = _added(connection, NOTICES.insert().values(values))
                connection.execute(NOTICES.delete().where(NOTICES.c.rowid <= number - MAX_NOTICES))
        except IntegrityError:
            return False
        return True

    def last_note(self) -> tuple[str, str] | None:
        """Kind and text of the newest note."""
        with self._session() as connection:
            newest = sa.select(NOTES).order_by(NOTES.c.rowid.desc()).limit(1)
            row = connection.execute(newest).one_or_none()
        return (row.kind, row.text) if row else None

    def newest_round(self) -> dict[str, Any] | None:
        """The round that was recorded last, without its replies."""
        found = self.newest_rounds(1)
        return found[0] if found else None

    def newest_rounds(self, most: int, after: int = 0) -> list[dict[str, Any]]:
        """The rounds that were recorded last, oldest first, without their replies.

        Args:
            most: So many at most.
            after: Only those recorded after this one, by its `rowid`.
        """
        newest = sa.select(ROUNDS).where(ROUNDS.c.rowid > after).order_by(ROUNDS.c.rowid.desc()).limit(most)
        with self._session() as connection:
            found = connection.execute(newest).mappings().all()
        return [{**row, "failed": json.loads(row["failed"])} for row in reversed(found)]

    def rounds(self) -> list[dict[str, Any]]:
        """All rounds, oldest first, each with the replies that it used."""
        with self._session() as connection:
            rounds = connection.execute(sa.select(ROUNDS).order_by(ROUNDS.c.rowid)).mappings().all()
            rows = connection.execute(sa.select(REPLIES).order_by(REPLIES.c.rowid)).mappings().all()
        replies: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            reply = {**row, "error": json.loads(row["error"])}
            del reply["rowid"]
            replies.setdefault(reply.pop("round"), []).append(reply)
        found = []
        for row in rounds:
            values = {**row, "failed": json.loads(row["failed"]), "replies": replies.get(row["rowid"], [])}
            del values["rowid"]
            found.append(values)
        return found

    def newest_id(self, table: sa.Table) -> int:
        """The `rowid` of what was recorded last; 0 if there is nothing."""
        with self._session() as connection:
            return connection.execute(sa.select(sa.func.max(table.c.rowid))).scalar() or 0

    def notices(self, most: int) -> list[dict[str, Any]]:
        """What edges told: of every incident that has not ended, and of the others as much as is newest.

        Args:
            most: Notices, of either kind of incident.

        Returns:
            Rows of the table, newest first.
        """
        end = NOTICES.alias()
        ended = sa.exists().where(
            end.c.client == NOTICES.c.client, end.c.incident == NOTICES.c.incident,
            end.c.kind == "incident_ended",
        )  # fmt: skip
        newest = sa.select(NOTICES).order_by(NOTICES.c.rowid.desc()).limit(most)
        with self._session() as connection:
            found = [*connection.execute(newest.where(~ended)).mappings()]
            found += connection.execute(newest.where(ended)).mappings()
        return [dict(row) for row in sorted(found, key=lambda row: row["rowid"], reverse=True)]

    def close(self) -> None:
        """Write what is still pending, if the database takes it, and let go of it."""
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
            raise database.problem(self._where, error) from error

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """In a transaction, with all tables there."""
        with self._engine.begin() as connection:
            if not self._prepared:
                database.prepare(connection)
            yield connection
        self._prepared = True

    def _write(self, work: Callable[[sa.Connection], object]) -> None:
        self._pending.append(work)
        self._flush()

    def _flush(self) -> None:
        """Write what is pending, oldest first, as far as the database takes it."""
        if time.monotonic() < self._retry_at:
            return
        while self._pending:
            try:
                with self._connection() as connection:
                    self._pending[0](connection)
            except OperationalError as error:
                said = database.problem(self._where, error)
                log.warning("history not written pending=%d reason=%s", len(self._pending), said)
                self._retry_at = time.monotonic() + RETRY_S
                return
            except BaseException:
                self._pending.popleft()
                raise
            self._pending.popleft()


def _added(connection: sa.Connection, row: sa.Insert) -> int:
    """Insert a row; returns its `rowid`."""
    key = connection.execute(row).inserted_primary_key
    assert key is not None  # noqa: S101  every table has one
    return int(key[0])


def _columns(reply: ReplyRow) -> dict[str, Any]:
    """A reply as its row in the table."""
    values = {**vars(reply), "error": json.dumps(asdict(reply.error))}
    traffic: Traffic = values.pop("traffic")
    named = ("sent_bytes", "received_bytes", "replies_bytes", "encode_s", "decode_s")
    return {**values, **{name: getattr(traffic, name) for name in named}}
