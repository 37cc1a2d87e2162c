"""A Flower grid in one process: real messages and ClientApps, without a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from common.flower.stamps import set_message_id


class MemoryGrid(Grid):
    """Calls a node's ClientApp when a message is pushed; the reply is available at once.

    The process must have taken a task (`common.flower.stamps.set_task`).

    Args:
        apps: The ClientApp of each node, by node id.
        record: Whether to append each message to `sent`.
    """

    def __init__(self, apps: dict[int, ClientApp], record: bool = False) -> None:
        self._apps = apps
        self._record = record
        self.sent: list[Message] = []
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Not used."""

    @property
    def run(self) -> Any:
        """Not used."""

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Not used."""
        raise AssertionError("deprecated in Flower")

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Compute the reply to each message, and return the messages' ids."""
        ids = []
        for message in messages:
            set_message_id(message)
            node = message.metadata.dst_node_id
            context = Context(1, node, {}, RecordDict(), {}, 1)
            self._replies[message.object_id] = self._apps[node](message, context)
            if self._record:
                self.sent.append(message)
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages; each reply is returned once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Not used."""
        raise AssertionError("blocks, so flockwatch does not use it")
