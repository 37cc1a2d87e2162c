"""Records a run in the log, in the history and in the status file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.settings import FederationSettings
from server.access.audit import AuditLog
from server.coordination.clients import QUARANTINED
from server.coordination.state import Kind, NodeId, State
from server.coordination.waiting import waiting_for
from server.federation import status_file
from server.federation.client_records import ClientRecords
from server.federation.replies import AdmittedReply, weighted_error
from server.storage.database import RoundRow
from server.storage.history import History

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
"""Time between two writes of the status file."""

WAITING_INTERVAL_S, MAX_WAITING_INTERVAL_S = 5.0, 600.0
"""Time between two log lines that say what the run waits for: it doubles from the first to the second."""


class Journal:
    """Records what happens, and sums up what each round costs. It changes nothing else.

    Args:
        history: Database of rounds and notes.
        settings: The settings of the federation.
        clock: Returns seconds that never go back.
        status: The status file; None: it is not written.
        audit: Records which clients are refused or quarantined; None: the history only.
    """

    def __init__(
        self,
        history: History,
        settings: FederationSettings,
        clock: Callable[[], float],
        status: Path | None,
        audit: AuditLog | None = None,
    ) -> None:
        self._history = history
        self._settings = settings
        self._clock = clock
        self._status = status
        self._audit = audit
        self._opened_at = self._waiting_at = self._status_at = clock()
        self._waiting_every_s = WAITING_INTERVAL_S
        self._bytes_down, self._encode_s, self._decode_s = 0, 0.0, 0.0
        self._troubles: dict[str, str] = {}
        """Parts that cannot be written or read, each with the reason."""
        self._undescribed: dict[NodeId, str] = {}
        """The last reason logged for each node whose description failed."""

    def round_opened(self) -> None:
        """Start to count the time and the bytes of a round."""
        self._opened_at, self._bytes_down = self._clock(), 0

    def tasks_sent(self, bytes_down: int) -> None:
        """Count the bytes of tasks."""
        self._bytes_down += bytes_down

    @contextmanager
    def timed_encoding(self) -> Iterator[None]:
        """Count the time of the block as encoding."""
        started = time.perf_counter()
        yield
        self._encode_s += time.perf_counter() - started

    @contextmanager
    def timed_decoding(self) -> Iterator[None]:
        """Count the time of the block as decoding, unless it raises."""
        started = time.perf_counter()
        yield
        self._decode_s += time.perf_counter() - started

    def round_closed(
        self,
        kind: Kind,
        number: int,
        version: int,
        replies: Sequence[AdmittedReply],
        failures: Mapping[str, str],
        error: float | None = None,
    ) -> None:
        """Record a finished round, and start to count the next.

        Args:
            kind: What the clients did.
            number: The round's.
            version: The newest version after the round.
            replies: The replies that were used.
            failures: Why other replies were not used, by client.
            error: The federation's error; by default that of the replies, weighted by rows.
        """
        if error is None and replies:
            error = weighted_error(replies)
        row = RoundRow(
            number=number,
            kind=kind,
            version=version,
            wall_s=self._clock() - self._opened_at,
            sampled=len(replies) + len(failures),
            error=error,
            bytes_up=sum(reply.reply.bytes_up for reply in replies),
            bytes_down=self._bytes_down,
            encode_s=self._encode_s,
            decode_s=self._decode_s,
            failed=failures,
        )
        self._history.add_round(row, [reply.row for reply in replies])
        self._opened_at = self._waiting_at = self._clock()
        self._waiting_every_s = WAITING_INTERVAL_S
        self._bytes_down, self._encode_s, self._decode_s = 0, 0.0, 0.0
        log.info(
            "round closed round=%d kind=%s version=%d error=%s answered=%d failed=%d wall_s=%.3f",
            number, kind, row.version, row.error, len(replies), len(failures), row.wall_s,
        )  # fmt: skip

    @property
    def troubles(self) -> dict[str, str]:
        """The parts that cannot be written or read, such as `history` or `versions`, each with the reason."""
        history = self._history.trouble
        return {**self._troubles, **({"history": history} if history else {})}

    def trouble_changed(self, what: str, reason: str) -> None:
        """Record that a part cannot be written or read, or that it can again. The run continues meanwhile.

        Args:
            what: The part, such as `versions`.
            reason: Why it cannot be written or read; empty if it can.
        """
        if self._troubles.get(what, "") == reason:
            return
        if reason:
            self._troubles[what] = reason
            log.error("cannot write or read part=%s reason=%s", what, reason)
            self._history.note("trouble", f"{what}: {reason}")
        else:
            del self._troubles[what]
            log.info("can write and read again part=%s", what)
            self._history.note("trouble over", what)

    def moments_renewed(self, version: int) -> None:
        """Record that a version came with new moments of the fleet."""
        log.info("moments renewed version=%d", version)
        self._history.note("moments renewed", f"version {version} scales by the clients connected now")

    def damage_found(self, reason: str) -> None:
        """Record which versions could not be read at the start, and which one is used."""
        self.trouble_changed("damaged versions", reason)

    def round_abandoned(self, number: int, version: int, failures: Mapping[str, str]) -> None:
        """Record a round with too few replies.

        Args:
            number: The round's.
            version: The newest version.
            failures: Why replies are missing, by client.
        """
        log.warning("round failed round=%d reasons=%s", number, dict(failures))
        self.round_closed("train", number, version, [], failures)

    def aggregation_failed(self, number: int, version: int, reason: str, failures: Mapping[str, str]) -> None:
        """Record that the updates of a round gave no version.

        Args:
            number: The round's.
            version: The newest version, which stays.
            reason: Why no new version was made.
            failures: Why replies are missing or were not used, by client.
        """
        log.error("aggregation failed version=%d reason=%s", version, reason)
        self._history.note("aggregation failed", reason)
        self.round_closed("train", number, version, [], failures)

    def reply_rejected(self, client: str, number: int, reason: str) -> None:
        """Record a reply to a task that cannot be used."""
        log.warning("reply rejected client=%s task=%d reason=%s", client, number, reason)
        self._history.note("rejected", f"{client}: {reason}")

    def update_dropped(self, client: str, number: int, reason: str) -> None:
        """Record an update that was admitted and is not used."""
        log.info("update dropped client=%s task=%d reason=%s", client, number, reason)
        self._history.note("dropped", f"{client}: {reason}")

    def features_changed(self, version: int, features: Collection[str]) -> None:
        """Record that the federation restarts with other features."""
        names = ", ".join(features)
        log.warning("features changed version=%d features=%s", version, names)
        self._history.note("features changed", f"from version {version} on: {names}")

    def client_refused(self, client: str, reason: str) -> None:
        """Record that a client gets no tasks."""
        log.warning("client refused client=%s reason=%s", client, reason)
        self._history.note("refused", reason)
        if self._audit is not None:
            self._audit.record("quarantined" if reason.startswith(QUARANTINED) else "refused", client, reason)

    def description_failed(self, node: NodeId, reason: str, connected: Collection[NodeId]) -> None:
        """Record that a client cannot describe itself, once for each node and reason."""
        if self._undescribed.get(node) != reason:
            self._undescribed = {n: why for n, why in self._undescribed.items() if n in connected}
            self._undescribed[node] = reason
            log.warning("description failed node=%d reason=%s", node, reason)
            self._history.note("refused", f"a client without a description: {reason}")

    def run_stopped(self, version: int, reason: str) -> None:
        """Record the end of the run."""
        log.info("stopped version=%d reason=%s", version, reason)
        self._history.note("stopped", reason)

    def waiting(self, state: State, unseen: Collection[str] = ()) -> None:
        """Record what the run waits for, less and less often while no round ends.

        `unseen` are the registered clients that have never connected.
        """
        now = self._clock()
        if now >= self._waiting_at + self._waiting_every_s:
            self._waiting_at = now
            self._waiting_every_s = min(2 * self._waiting_every_s, MAX_WAITING_INTERVAL_S)
            if reason := waiting_for(state, now, self._settings, unseen):
                log.info("waiting %s", reason)
                self._history.note("waiting", reason)

    def status_due(self) -> bool:
        """Return whether the status file is older than `STATUS_INTERVAL_S`."""
        return self._status is not None and self._clock() >= self._status_at + STATUS_INTERVAL_S

    def write_status(self, state: State, records: ClientRecords, unseen: Collection[str] = ()) -> None:
        """Write the status file, if there is one; `unseen` are the clients of `waiting`."""
        if self._status is not None:
            self._status_at = self._clock()
            status = status_file.run_status(state, records, self._status_at, self._settings, unseen)
            status["trouble"] = self.troubles
            status_file.write(self._status, status)
