"""A Flower Grid within one process: real messages and real ClientApps, no network and no waiting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from common.flower.stamps import number


class MemoryGrid(Grid):
    """Hands messages to ClientApps in this process; a reply is there at the next pull.

    The process must have taken a task (`common.flower.stamps.take_task`).

    Args:
        apps: By the number of the node.
        keep: Whether `log` keeps every message that is sent.
    """

    def __init__(self, apps: dict[int, ClientApp], keep: bool = False) -> None:
        self._apps = apps
        self._keep = keep
        self.log: list[Message] = []
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
        """All of them."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each message answered at once."""
        ids = []
        for message in messages:
            number(message)
            node = message.metadata.dst_node_id
            context = Context(1, node, {}, RecordDict(), {}, 1)
            self._replies[message.object_id] = self._apps[node](message, context)
            if self._keep:
                self.log.append(message)
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers, each given once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Not used."""
        raise AssertionError("blocks, so flockwatch does not use it")
