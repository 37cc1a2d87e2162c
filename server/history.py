"""What happened: rounds, replies and waits, in a SQLite database that others may read while it grows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.scoring import ErrorSummary
from common.traffic import Traffic

_TABLES = """
CREATE TABLE IF NOT EXISTS rounds (
    number INTEGER, kind TEXT, version INTEGER, ended_at REAL, wall_s REAL, sampled INTEGER, answered INTEGER,
    error REAL, bytes_up INTEGER, bytes_down INTEGER, failed TEXT, encode_s REAL, decode_s REAL
);
CREATE TABLE IF NOT EXISTS replies (
    round INTEGER REFERENCES rounds (rowid), version INTEGER, client TEXT, rows INTEGER, error TEXT,
    loss REAL, train_s REAL, bytes_up INTEGER, codec TEXT, sent_bytes INTEGER, received_bytes INTEGER,
    replies_bytes INTEGER, encode_s REAL, decode_s REAL
);
CREATE TABLE IF NOT EXISTS notes (at REAL, kind TEXT, text TEXT);
"""

_LATER = {
    "rounds": {"encode_s": "REAL", "decode_s": "REAL"},
    "replies": {
        "codec": "TEXT", "sent_bytes": "INTEGER", "received_bytes": "INTEGER", "replies_bytes": "INTEGER",
        "encode_s": "REAL", "decode_s": "REAL",
    },
}  # fmt: skip
"""Columns that a database of an earlier flockwatch does not have."""


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
    """The database. One process writes; any number may read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_TABLES)
        for table, columns in _LATER.items():
            known = {row[1] for row in self._database.execute(f"PRAGMA table_info({table})")}
            for column in columns.keys() - known:
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {columns[column]}")
        self._database.row_factory = sqlite3.Row

    def add_round(self, row: RoundRow, replies: list[ReplyRow]) -> None:
        """Record a finished round and the replies that it used."""
        with self._database:
            inserted = self._database.execute(
                "INSERT INTO rounds (number, kind, version, ended_at, wall_s, sampled, answered, error, "
                "bytes_up, bytes_down, failed, encode_s, decode_s) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.number, row.kind, row.version, time.time(), row.wall_s, row.sampled, len(replies),
                 row.error, row.bytes_up, row.bytes_down, json.dumps(dict(row.failed)), row.encode_s,
                 row.decode_s),
            )  # fmt: skip
            self._database.executemany(
                "INSERT INTO replies (round, version, client, rows, error, loss, train_s, bytes_up, codec, "
                "sent_bytes, received_bytes, replies_bytes, encode_s, decode_s) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (inserted.lastrowid, r.version, r.client, r.rows, json.dumps(asdict(r.error)), r.loss,
                     r.train_s, r.bytes_up, r.codec, r.traffic.sent_bytes, r.traffic.received_bytes,
                     r.traffic.replies_bytes, r.traffic.encode_s, r.traffic.decode_s)
                    for r in replies
                ],
            )  # fmt: skip

    def note(self, kind: str, text: str) -> None:
        """Record something worth telling: `waiting`, `refused`, `stopped`."""
        with self._database:
            self._database.execute("INSERT INTO notes VALUES (?, ?, ?)", (time.time(), kind, text))

    def last_note(self) -> tuple[str, str] | None:
        """Kind and text of the newest note."""
        row = self._database.execute("SELECT kind, text FROM notes ORDER BY rowid DESC LIMIT 1").fetchone()
        return (row["kind"], row["text"]) if row else None

    def newest_round(self) -> dict[str, Any] | None:
        """The round that was recorded last, without its replies."""
        row = self._database.execute("SELECT * FROM rounds ORDER BY rowid DESC LIMIT 1").fetchone()
        return dict(row) if row else None

    def rounds(self) -> list[dict[str, Any]]:
        """All rounds, oldest first, each with the replies that it used."""
        replies: dict[int, list[dict[str, Any]]] = {}
        for row in self._database.execute("SELECT * FROM replies ORDER BY rowid"):
            reply = {**row, "error": json.loads(row["error"])}
            replies.setdefault(reply.pop("round"), []).append(reply)
        found = []
        for row in self._database.execute("SELECT rowid AS id, * FROM rounds ORDER BY rowid"):
            values = {**row, "failed": json.loads(row["failed"]), "replies": replies.get(row["id"], [])}
            del values["id"]
            found.append(values)
        return found

    def close(self) -> None:
        """Close the database."""
        self._database.close()
