"""The metadata that Flower itself sets on messages: the task that made one, and its id."""

from __future__ import annotations

from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

TASK = {"_run_id": 1, "_node_id": 1, "_task_id": 1}
"""Attributes of `TaskIdentity`, from which Flower takes the task that it stamps on messages."""


def set_task() -> None:
    """Stamp the messages of this process with one task, if Flower has not started the process for a task."""
    for name, value in TASK.items():
        setattr(TaskIdentity, name, value)


def set_message_id(message: Message, message_id: str = "") -> None:
    """Set the id of a message: by default the hash of its content, as Flower does when it sends one."""
    message.metadata.__dict__["_message_id"] = message_id or message.object_id
