"""Sends notices to all sinks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from client.connectors.addresses import Address
from client.connectors.outbox import Outbox
from client.connectors.sinks import open_sink
from client.service.status import SinkQueue
from common.protocol.alerts import Notice

log = logging.getLogger(__name__)

CLOSE_S = 10.0
"""Longest wait for a sink to take the remaining notices when the process ends."""


class Notifier:
    """Posts each notice to the outboxes of all sinks, and logs it.

    Args:
        sinks: Addresses of the sinks.
        folder: The client's state folder, for the spools of the outboxes.
        client: The client's name.

    Raises:
        AddressError: an address is wrong.
    """

    def __init__(self, sinks: Sequence[str], folder: Path, client: str | None = None) -> None:
        # Open all sinks before the first outbox starts its thread: an address may be wrong.
        opened = {address: open_sink(address, client) for address in sinks}
        self._outboxes: dict[str, Outbox] = {}
        """The sinks by their addresses without passwords, as logs and metrics show them."""
        for number, (address, sink) in enumerate(opened.items(), 1):
            name = Address.parse(address).text
            if name in self._outboxes:  # the two differ in their passwords
                name = f"{name} ({number})"
            spool = hashlib.sha256(address.encode()).hexdigest()[:12]
            self._outboxes[name] = Outbox(sink, folder / "spool" / spool)

    @property
    def sinks(self) -> list[str]:
        """Addresses of the sinks, without passwords."""
        return list(self._outboxes)

    @property
    def outboxes(self) -> list[Outbox]:
        """The outboxes, in the order of the sinks."""
        return list(self._outboxes.values())

    def post(self, notice: Notice) -> None:
        """Post a notice to all sinks. It does not wait for a disk or a network, and does not fail."""
        log.warning("%s client=%s id=%s%s", notice.kind, notice.client, notice.id, _details(notice))
        content = notice.pack()
        for outbox in self._outboxes.values():
            outbox.post(content)

    def queues(self) -> tuple[SinkQueue, ...]:
        """Return the state of each sink's queue."""
        return tuple(
            SinkQueue(name, outbox.waiting, outbox.delivered, outbox.lost)
            for name, outbox in self._outboxes.items()
        )

    def problems(self) -> list[str]:
        """Return the problems of the outboxes: failed deliveries, and lost or refused notices."""
        return [problem for outbox in self.outboxes if (problem := outbox.problem) is not None]

    def close(self) -> None:
        """Deliver notices for at most `CLOSE_S` for each sink; the rest stays in the spools."""
        for outbox in self._outboxes.values():
            outbox.close(CLOSE_S)


def _details(notice: Notice) -> str:
    """Return the details of a notice for a log line, which also has its kind, client and id."""
    details = ""
    if (alert := notice.alert) is not None:
        details += f" score={alert.score:.4g} threshold={alert.threshold:.4g} version={alert.version}"
        if alert.causes:
            details += f" cause={json.dumps(alert.causes[0].feature)}"
    return details if notice.text is None else f"{details} text={json.dumps(notice.text)}"
