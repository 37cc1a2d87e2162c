"""What is told of a run: in the log, in the history, in the clients' records, and to who looks meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.settings import FederationSettings
from server.coordination.state import Kind, Node, State
from server.coordination.waiting import waiting_for
from server.federation import view
from server.federation.client_records import ClientRecords
from server.federation.ledger import LedgerEntry, reply_row, weighted_error
from server.storage.history import History, RoundRow

log = logging.getLogger(__name__)

SHOW_EVERY_S = 1.0
"""How often the state is written for `/status`."""

TELL_WAIT_EVERY_S = 5.0
"""How often the log says what the run waits for."""


class Journal:
    """Keeps count of what a round cost until it is closed, and tells of all that happens.

    Args:
        history: Where rounds are recorded.
        fleet: The clients' records.
        rules: Of the federation.
        clock: Seconds that never go back.
        shown: File that tells `/status` of the run; None: it is not written.
    """

    def __init__(
        self,
        history: History,
        fleet: ClientRecords,
        rules: FederationSettings,
        clock: Callable[[], float],
        shown: Path | None,
    ) -> None:
        self._history = history
        self._fleet = fleet
        self._rules = rules
        self._clock = clock
        self._shown = shown
        self._since = self._told_at = self._shown_at = clock()
        self._bytes_down, self._encode_s, self._decode_s = 0, 0.0, 0.0
        self._silent: dict[Node, str] = {}
        """Why nodes do not say who they are."""

    def opened(self) -> None:
        """A round begins: its time and its bytes count from here."""
        self._since, self._bytes_down = self._clock(), 0

    def sent(self, bytes_down: int) -> None:
        """Tasks of so many bytes have gone out."""
        self._bytes_down += bytes_down

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """The time in the block is spent on encoding."""
        started = time.perf_counter()
        yield
        self._encode_s += time.perf_counter() - started

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """The time in the block is spent on decoding, if nothing is raised there."""
        started = time.perf_counter()
        yield
        self._decode_s += time.perf_counter() - started

    def closed(
        self,
        kind: Kind,
        number: int,
        version: int,
        used: Sequence[LedgerEntry],
        failed: Mapping[str, str],
        error: float | None = None,
    ) -> None:
        """A round is over, and what it cost is recorded.

        Args:
            kind: What was asked.
            number: The round's.
            version: The newest after it.
            used: The answers that were used.
            failed: Why there was none, by client.
            error: The fleet's; by default that of the answers, weighted by rows.
        """
        row = RoundRow(
            number=number,
            kind=kind,
            version=version,
            wall_s=self._clock() - self._since,
            sampled=len(used) + len(failed),
            error=error if error is not None else weighted_error(used) if used else None,
            bytes_up=sum(entry.bytes_up for entry in used),
            bytes_down=self._bytes_down,
            encode_s=self._encode_s,
            decode_s=self._decode_s,
            failed=failed,
        )
        self._history.add_round(row, [reply_row(entry) for entry in used])
        self._since = self._clock()
        self._bytes_down, self._encode_s, self._decode_s = 0, 0.0, 0.0
        log.info(
            "round closed round=%d kind=%s version=%d error=%s answered=%d failed=%d wall_s=%.3f",
            number, kind, row.version, row.error, len(used), len(failed), row.wall_s,
        )  # fmt: skip

    def abandoned(self, number: int, version: int, failed: Mapping[str, str]) -> None:
        """A round had too few answers."""
        log.warning("round failed round=%d reasons=%s", number, dict(failed))
        self.closed("train", number, version, [], failed)

    def not_folded(self, number: int, version: int, reason: str, failed: Mapping[str, str]) -> None:
        """No version could be made of the updates."""
        log.error("no version was made version=%d reason=%s", number, reason)
        self._history.note("not folded", reason)
        self.closed("train", number, version, [], failed)

    def not_used(self, client: str, number: int, fault: str, problem: str) -> None:
        """The answer to a task cannot be used; `fault` is the word to count it under."""
        log.warning("reply not used client=%s task=%d reason=%s", client, number, problem)
        self._fleet.refused(client, fault)
        self._history.note("not used", f"{client}: {problem}")

    def dropped(self, client: str, number: int, reason: str, admitted: bool) -> None:
        """An update is let go that could have been used, if it was admitted."""
        if admitted:
            self._fleet.dropped(client)
        log.info("update dropped client=%s task=%d reason=%s", client, number, reason)
        self._history.note("dropped", f"{client}: {reason}")

    def refused(self, client: str, reason: str) -> None:
        """A client is given no work."""
        log.warning("client refused client=%s reason=%s", client, reason)
        self._history.note("refused", reason)

    def silent(self, node: Node, reason: str, members: Collection[Node]) -> None:
        """A client cannot say who it is, which is told once: it may be older or newer than this server."""
        if self._silent.get(node) != reason:
            self._silent = {n: why for n, why in self._silent.items() if n in members}
            self._silent[node] = reason
            log.warning("a client does not say who it is node=%d reason=%s", node, reason)
            self._history.note("refused", f"a client that does not say who it is: {reason}")

    def stopped(self, version: int, reason: str) -> None:
        """The run has come to its end."""
        log.info("stopped version=%d reason=%s", version, reason)
        self._history.note("stopped", reason)

    def meanwhile(self, state: State, connected: Collection[str]) -> None:
        """Tell from time to time what is waited for, and show the state. To be called often."""
        now = self._clock()
        if now >= self._told_at + TELL_WAIT_EVERY_S:
            self._told_at = now
            if waiting := waiting_for(state, now, self._rules):
                log.info("waiting %s", waiting)
                self._history.note("waiting", waiting)
        if now >= self._shown_at + SHOW_EVERY_S:
            self._shown_at = now
            self.show(state, connected)

    def show(self, state: State, connected: Collection[str]) -> None:
        """Write the state for `/status`."""
        if self._shown is not None:
            self._fleet.measure(connected)
            view.write(self._shown, view.of(state, self._fleet, self._clock(), self._rules))
