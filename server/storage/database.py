"""The database of a federation, SQLite or PostgreSQL: its tables and their rows, and how to connect.

Each federation has a database of its own, which several processes may use at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.schema import CreateColumn, CreateTable

from common.model.scoring import ErrorSummary
from common.protocol.messages import Traffic

CONNECT_WITHIN_S = 5
ANSWER_WITHIN_S = 10
SCHEMA_LOCK = 0x666C6F636B
"""Key of the PostgreSQL advisory lock under which tables are created."""


MALFORMED = "database disk image is malformed"
"""SQLite's words for a damaged file."""


class DatabaseError(RuntimeError):
    """The database cannot be used; the message names it, without its password, and the reason."""


METADATA = sa.MetaData()
_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id() -> sa.Column[int]:
    """Return an ascending primary key. SQLite's tables have one of this name by default."""
    return sa.Column("rowid", _Number, primary_key=True)


ROUNDS = sa.Table(
    "rounds", METADATA, _id(),
    sa.Column("number", _Number), sa.Column("kind", sa.Text), sa.Column("version", _Number),
    sa.Column("ended_at", sa.Double), sa.Column("wall_s", sa.Double), sa.Column("sampled", _Number),
    sa.Column("answered", _Number), sa.Column("error", sa.Double), sa.Column("bytes_up", _Number),
    sa.Column("bytes_down", _Number), sa.Column("failed", sa.Text), sa.Column("encode_s", sa.Double),
    sa.Column("decode_s", sa.Double),
)  # fmt: skip
REPLIES = sa.Table(
    "replies", METADATA, _id(),
    sa.Column("round", _Number, sa.ForeignKey(ROUNDS.c.rowid)), sa.Column("version", _Number),
    sa.Column("client", sa.Text), sa.Column("rows", _Number), sa.Column("error", sa.Text),
    sa.Column("loss", sa.Double), sa.Column("train_s", sa.Double), sa.Column("bytes_up", _Number),
    sa.Column("codec", sa.Text), sa.Column("sent_bytes", _Number), sa.Column("received_bytes", _Number),
    sa.Column("replies_bytes", _Number), sa.Column("encode_s", sa.Double), sa.Column("decode_s", sa.Double),
)  # fmt: skip
NOTES = sa.Table(
    "notes", METADATA, _id(),
    sa.Column("at", sa.Double), sa.Column("kind", sa.Text), sa.Column("text", sa.Text),
)  # fmt: skip
NOTICES = sa.Table(
    "notices", METADATA, _id(),
    sa.Column("client", sa.Text, nullable=False), sa.Column("incident", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False), sa.Column("received_at", sa.Double),
    sa.Column("content", sa.Text),
    sa.UniqueConstraint("client", "incident", "kind"),
)  # fmt: skip


@dataclass(frozen=True)
class ReplyRow:
    """One client's reply in a round."""

    client: str
    version: int
    """The version that was evaluated."""
    rows: int
    """Rows that the client trains on: its weight in the mean error of the round."""
    error: ErrorSummary
    bytes_up: int
    """Size of the reply's content."""
    codec: str | None = None
    """The codec of the update; None if it is not encoded."""
    traffic: Traffic = field(default_factory=Traffic)
    """HTTP traffic of the client since its previous reply; the next row has the traffic of this reply."""
    loss: float | None = None
    train_s: float | None = None


@dataclass(frozen=True)
class RoundRow:
    """One finished round."""

    number: int
    kind: str
    """`train` or `evaluate`."""
    version: int
    """The newest version after the round."""
    wall_s: float
    sampled: int
    """Clients that were given a task."""
    error: float | None
    """Mean error, weighted by rows, of the version that the round started from; None if the round failed."""
    bytes_up: int
    bytes_down: int
    failed: Mapping[str, str]
    """The reason of each client whose reply was not used."""
    encode_s: float = 0.0
    """Seconds in which the server encoded the next version."""
    decode_s: float = 0.0
    """Seconds in which the server decoded the updates."""


def create_engine(where: Path | str) -> sa.Engine:
    """Create the engine for a file or a URL such as `postgresql://user@host/name`, without connecting.

    Raises:
        DatabaseError: the URL is invalid, or its driver is not installed.
    """
    if isinstance(where, Path):
        where = sa.URL.create("sqlite", database=str(where)).render_as_string()
    try:
        url = sa.make_url(where)
        engine = sa.create_engine(url, connect_args=_timeouts(url), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"{redacted(where)}: {error.name} is not installed: install flockwatch with its extra 'postgres'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):  # their messages may contain the password
        raise DatabaseError(
            f"{redacted(where)}: expected sqlite:///FILE or postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME, "
            "with special characters percent-encoded"
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def create_tables(connection: sa.Connection) -> None:
    """Create missing tables, and add columns that an earlier version of flockwatch did not have."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
    for table in METADATA.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        existing = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in existing and not column.primary_key:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))


def damage(engine: sa.Engine) -> str | None:
    """Return what SQLite's check of a file finds; None if nothing, or for another database.

    Raises:
        DatabaseError: the file cannot be read.
    """
    if engine.dialect.name != "sqlite":
        return None
    try:
        with engine.connect() as connection:
            result = connection.execute(sa.text("PRAGMA quick_check(1)")).scalar_one()
    except DBAPIError as error:
        raise database_error(engine.url.render_as_string(), error) from error
    return None if result == "ok" else f"{MALFORMED}: {result}"


def is_damage(problem: str) -> bool:
    """Return whether a problem of a SQLite file lies in its content, and does not pass."""
    return any(words in problem for words in (MALFORMED, "file is not a database", "malformed"))


def set_aside(file: Path) -> Path:
    """Rename a damaged SQLite file, in place of one that was set aside before; return its new path.

    Raises:
        OSError: the folder cannot be written.
    """
    aside = file.with_name(f"{file.name}.damaged")
    for ending in ("-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    file.replace(aside)
    return aside


def database_error(where: Path | str, error: DBAPIError) -> DatabaseError:
    """Return a driver's error as a `DatabaseError` of one line."""
    message = " ".join(str(error.orig).split())
    return DatabaseError(f"{redacted(where)}: {message}")


def redacted(where: Path | str) -> str:
    """Return the database's file or URL without its password."""
    if isinstance(where, Path):
        return str(where)
    try:
        return sa.make_url(where).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return where.partition("://")[0] + "://..."


def _timeouts(url: sa.URL) -> dict[str, Any]:
    """Return time limits on PostgreSQL connections and statements, except those that the URL sets."""
    if url.get_backend_name() != "postgresql":
        return {}
    timeouts = {
        "connect_timeout": CONNECT_WITHIN_S,
        "tcp_user_timeout": ANSWER_WITHIN_S * 1000,
        "options": f"-c statement_timeout={ANSWER_WITHIN_S}s",
    }
    return {name: timeout for name, timeout in timeouts.items() if name not in url.query}


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
