"""The database of a federation: SQLite in a file, or PostgreSQL by URL; makes its tables, and what they lack.

One federation has one database. Any number of processes may use it at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.schema import CreateColumn, CreateTable
from sqlalchemy.types import TypeDecorator

CONNECT_WITHIN_S = 5
ANSWER_WITHIN_S = 10
PREPARING = 0x666C6F636B
"""Number of PostgreSQL's advisory lock under which tables are made."""


class DatabaseError(RuntimeError):
    """The database cannot be used; the message names it, without its password, and says why."""


class AnyText(TypeDecorator[str]):
    """Text from anywhere: what no database takes, a NUL or half a surrogate pair, is replaced."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """As it is stored."""
        if value is None:
            return None
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


METADATA = sa.MetaData()
_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id() -> sa.Column[int]:
    """Grows with each row. SQLite has such a column under this name by itself."""
    return sa.Column("rowid", _Number, primary_key=True)


ROUNDS = sa.Table(
    "rounds", METADATA, _id(),
    sa.Column("number", _Number), sa.Column("kind", AnyText), sa.Column("version", _Number),
    sa.Column("ended_at", sa.Double), sa.Column("wall_s", sa.Double), sa.Column("sampled", _Number),
    sa.Column("answered", _Number), sa.Column("error", sa.Double), sa.Column("bytes_up", _Number),
    sa.Column("bytes_down", _Number), sa.Column("failed", AnyText), sa.Column("encode_s", sa.Double),
    sa.Column("decode_s", sa.Double),
)  # fmt: skip
REPLIES = sa.Table(
    "replies", METADATA, _id(),
    sa.Column("round", _Number, sa.ForeignKey(ROUNDS.c.rowid)), sa.Column("version", _Number),
    sa.Column("client", AnyText), sa.Column("rows", _Number), sa.Column("error", AnyText),
    sa.Column("loss", sa.Double), sa.Column("train_s", sa.Double), sa.Column("bytes_up", _Number),
    sa.Column("codec", AnyText), sa.Column("sent_bytes", _Number), sa.Column("received_bytes", _Number),
    sa.Column("replies_bytes", _Number), sa.Column("encode_s", sa.Double), sa.Column("decode_s", sa.Double),
)  # fmt: skip
NOTES = sa.Table(
    "notes", METADATA, _id(),
    sa.Column("at", sa.Double), sa.Column("kind", AnyText), sa.Column("text", AnyText),
)  # fmt: skip
NOTICES = sa.Table(
    "notices", METADATA, _id(),
    sa.Column("client", AnyText, nullable=False), sa.Column("incident", AnyText, nullable=False),
    sa.Column("kind", AnyText, nullable=False), sa.Column("received_at", sa.Double),
    sa.Column("content", AnyText),
    sa.UniqueConstraint("client", "incident", "kind"),
)  # fmt: skip


def engine(where: Path | str) -> sa.Engine:
    """The database in a file, or at a URL such as `postgresql://user@host/name`; nothing connects yet.

    Raises:
        DatabaseError: the URL is wrong, or its driver is not installed.
    """
    if isinstance(where, Path):
        where = sa.URL.create("sqlite", database=str(where)).render_as_string()
    try:
        url = sa.make_url(where)
        made = sa.create_engine(url, connect_args=_patience(url), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"{shown(where)}: {error.name} is not installed: install flockwatch with its extra 'postgres'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError):  # what they say may be a part of the password
        raise DatabaseError(
            f"{shown(where)}: expected sqlite:///FILE or postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME, "
            "special letters percent-encoded"
        ) from None
    if made.dialect.name == "sqlite":
        sa.event.listen(made, "connect", _sqlite_connected)
    return made


def prepare(connection: sa.Connection) -> None:
    """Make what is missing: tables, and columns that an earlier flockwatch did not have."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PREPARING)))
    for table in METADATA.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        known = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in known and not column.primary_key:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))


def problem(where: Path | str, error: DBAPIError) -> DatabaseError:
    """What a driver said, in one line."""
    said = " ".join(str(error.orig).split())
    return DatabaseError(f"{shown(where)}: {said}")


def shown(where: Path | str) -> str:
    """The database's address without its password."""
    if isinstance(where, Path):
        return str(where)
    try:
        return sa.make_url(where).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return where.partition("://")[0] + "://..."


def _patience(url: sa.URL) -> dict[str, Any]:
    """Bounds on how long PostgreSQL may leave a question without an answer, where the URL has none."""
    if url.get_backend_name() != "postgresql":
        return {}
    bounds = {
        "connect_timeout": CONNECT_WITHIN_S,
        "tcp_user_timeout": ANSWER_WITHIN_S * 1000,
        "options": f"-c statement_timeout={ANSWER_WITHIN_S}s",
    }
    return {name: bound for name, bound in bounds.items() if name not in url.query}


def _sqlite_connected(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
