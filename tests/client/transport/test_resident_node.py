"""The resident node, with a connection that a test makes up."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.transport.errors import (
    AccessDeniedError,
    RequestRefusedError,
    RunEndedError,
    UnknownNodeError,
    UnreachableError,
)
from client.transport.resident_node import APP_ID, MAX_REASON, MAX_RUNS, ResidentNode
from common.flower.stamps import TASK, set_message_id


@pytest.fixture(autouse=True)
def a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower stamps messages with the task that makes them."""
    for name, value in TASK.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)


class Connection:
    """Raises what it is given at each heartbeat, and keeps replies."""

    node_id = 1

    def __init__(self, errors: Iterable[Exception] = ()) -> None:
        self._errors, self.done = iter(errors), threading.Event()
        self.heartbeats, self.sent, self.asked = 0, list[Message](), list[int]()

    def heartbeat(self) -> None:
        self.heartbeats += 1
        error = next(self._errors, None)
        if error is None:
            self.done.set()
        else:
            raise error

    def run(self, run_id: int) -> Any:
        self.asked.append(run_id)
        return SimpleNamespace(fab_id=APP_ID, series_id=run_id)

    def send(self, reply: Message, inline: bool, runtime_s: float) -> None:
        self.sent.append(reply)


def node(app: Any = None) -> ResidentNode:
    return ResidentNode("nowhere:1", app)


@pytest.mark.parametrize(
    ("error", "registers"),
    [
        (UnreachableError(), False), (AccessDeniedError(), False), (UnknownNodeError(), True),
        (RequestRefusedError(), True), (RunEndedError(), True),
    ],
)  # fmt: skip
def test_no_answer_to_a_heartbeat_ends_the_heartbeats(
    error: Exception, registers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.transport.resident_node.MIN_HEARTBEAT_S", 0.0)
    monkeypatch.setattr("client.transport.resident_node.heartbeat_wait_s", lambda *_: 0.0)
    connection, one = Connection([error, error]), node()
    one._send_heartbeats(connection, connection.done)  # type: ignore[arg-type]
    assert connection.heartbeats == 3
    assert one._must_register.is_set() is registers


def message(run: int = 1) -> Message:
    made = Message(RecordDict(), 1, MessageType.TRAIN)
    made.metadata.__dict__["_run_id"] = run
    set_message_id(made)
    return made


def test_an_error_is_answered_with_a_reason_of_bounded_length() -> None:
    def app(message: Message, context: Context) -> Message:
        raise ValueError("x" * 100_000)

    connection = Connection()
    node(app)._handle(connection, message(), True)  # type: ignore[arg-type]
    (reply,) = connection.sent
    assert reply.error.reason.startswith("ValueError: xxx") and len(reply.error.reason) == MAX_REASON


def test_runs_without_end_are_not_remembered_without_end() -> None:
    connection = Connection()
    one = node(lambda message, context: Message(RecordDict(), reply_to=message))
    for run in range(2 * MAX_RUNS):
        for _ in range(2):
            one._handle(connection, message(run), True)  # type: ignore[arg-type]
    assert connection.asked == list(range(2 * MAX_RUNS)), "each is asked for once"
    assert (len(one._runs), len(one._states), len(connection.sent)) == (MAX_RUNS, MAX_RUNS, 4 * MAX_RUNS)
