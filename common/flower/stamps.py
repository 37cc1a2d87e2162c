"""What Flower stamps on a message: the task that made it, and its id."""

from __future__ import annotations

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

TASK = {"_run_id": 1, "_node_id": 1, "_task_id": 1}
"""Flower stamps messages with the task that makes them, which it keeps in attributes of `TaskIdentity`."""


def take_task() -> None:
    """Stamp the messages of this process as those of one task, where Flower has not started it for one."""
    for name, value in TASK.items():
        setattr(TaskIdentity, name, value)


def number(message: Message, message_id: str = "") -> None:
    """Give a message its id: the one that is said, else that of its content, as when Flower sends it."""
    message.metadata.__dict__["_message_id"] = message_id or message.object_id
