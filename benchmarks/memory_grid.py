"""A Flower Grid within one process: real messages and real ClientApps, no network and no waiting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

TASK = {"_run_id": 1, "_node_id": 1, "_task_id": 1}
"""Flower stamps messages with the task that makes them, which it keeps in attributes of `TaskIdentity`."""


def take_task() -> None:
    """Stamp the messages of this process as those of one task."""
    for name, value in TASK.items():
        setattr(TaskIdentity, name, value)


class MemoryGrid(Grid):
    """Hands messages to ClientApps in this process; a reply is there at the next pull."""

    def __init__(self, apps: dict[int, ClientApp]) -> None:
        self._apps = apps
        self._replies: dict[str, Message] = {}
        self.log: list[Message] = []

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
            message.metadata.__dict__["_message_id"] = message.object_id
            node = message.metadata.dst_node_id
            context = Context(1, node, {}, RecordDict(), {}, 1)
            self._replies[message.object_id] = self._apps[node](message, context)
            self.log.append(message)
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers, each given once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Not used."""
        raise AssertionError("blocks, so flockwatch does not use it")
