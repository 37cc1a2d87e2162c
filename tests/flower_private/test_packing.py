"""Messages from the server's grid to the node and back."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

import pytest
from flwr.app import Error, Message, MessageType
from flwr.common.constant import ErrorCode
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import PULL_INITIAL_BACKOFF
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.transport.errors import RequestRefusedError, RunEndedError, UnreachableError
from client.transport.fleet_connection import FleetConnection
from common.flower import packing
from server.flower.grid import pull_replies, push_inline
from tests.flower_private.fake_superlink import FakeSuperLink, content, question, received, value_of
from tests.fuzz.mutations import mutated


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "by objects"])
def test_a_message_and_its_reply_arrive_whole(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid, inline: bool
) -> None:
    sent = [question(b"\0" * 1000)]
    ids = push_inline(grid, sent) if inline else list(grid.push_messages(sent))
    message, came_inline = received(connection)
    assert came_inline is inline
    assert value_of(message) == b"\0" * 1000
    assert [message.metadata.message_id] == ids
    assert (message.metadata.message_type, message.metadata.group_id) == (MessageType.TRAIN, "1")
    assert connection.receive() is None

    connection.send(Message(content(b"answer"), reply_to=message), came_inline, 0.25)
    replies = pull_replies(grid, ids)
    assert [value_of(reply) for reply in replies] == [b"answer"]
    assert replies[0].metadata.reply_to_message_id == ids[0]
    assert pull_replies(grid, ids) == []


def test_an_inline_message_is_one_request_each_way(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    superlink.requests.clear()
    ids = push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(content(b"answer"), reply_to=message), True, 0.25)
    pull_replies(grid, ids)
    assert superlink.paths() == ["push-messages", "pull-messages", "push-messages", "pull-messages"]
    assert superlink.objects == {}


def test_the_runtime_of_the_app_is_reported(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(content(b"answer"), reply_to=message), True, 0.25)
    (body,) = [body for path, body in superlink.requests if path == "/v1/fleet/push-messages"]
    assert list(PushMessagesRequest.FromString(body).clientapp_runtime_list) == [0.25]


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "by objects"])
def test_an_error_is_a_reply_too(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid, inline: bool
) -> None:
    ids = push_inline(grid, [question()])
    message, _ = received(connection)
    connection.send(Message(Error(2, "no such app"), reply_to=message), inline, 0.0)
    (reply,) = pull_replies(grid, ids)
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "no such app")


def test_a_missing_object_is_retried_after_a_short_delay(
    superlink: FakeSuperLink,
    connection: FleetConnection,
    grid: HttpGrid,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid.push_messages([question()])
    superlink.not_yet = dict.fromkeys(superlink.objects, 1)
    waits, wait = [], threading.Event.wait

    def counted(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None:
            waits.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", counted)
    message, inline = received(connection)
    assert waits
    assert sum(waits) < PULL_INITIAL_BACKOFF / 2
    assert (value_of(message), inline) == (b"question", False)


def test_a_message_without_its_content_is_retried(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question()])
    superlink.answers["/v1/fleet/pull-object"] = (503, b"")
    with pytest.raises(UnreachableError):
        connection.receive()
    del superlink.answers["/v1/fleet/pull-object"]
    assert value_of(received(connection)[0]) == b"question"
    assert connection.receive() is None


def test_a_message_whose_run_is_over_is_dropped(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question(b"of a run that ends")])
    superlink.answers["/v1/fleet/pull-object"] = (403, b"")
    with pytest.raises(RunEndedError):
        connection.receive()
    push_inline(grid, [question(b"of the next run")])
    assert value_of(received(connection)[0]) == b"of the next run"


def test_a_message_whose_content_is_gone_does_not_block_the_next(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question(b"gone")])
    superlink.objects.clear()
    push_inline(grid, [question(b"next")])
    values = []
    for _ in range(5):
        try:
            result = connection.receive()
        except (UnreachableError, RunEndedError, RequestRefusedError):
            continue
        if result is not None:
            values.append(value_of(result[0]))
    assert values == [b"next"]


def test_a_reply_whose_objects_are_gone_is_an_error_and_the_others_arrive(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    ids = push_inline(grid, [question(b"a"), question(b"b")])
    for inline in (False, True):
        message, _ = received(connection)
        connection.send(Message(content(b"answer"), reply_to=message), inline, 0.0)
    superlink.objects.clear()
    lost, good = pull_replies(grid, ids)
    assert lost.has_error()
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert lost.metadata.reply_to_message_id == ids[0]
    assert value_of(good) == b"answer"


def unreadable(damage: str) -> tuple[ProtoMessage, ObjectTree]:
    """Return an announced message that Flower cannot read."""
    asked = question(b"damaged")
    proto, tree = packing.inline(asked)
    if damage == "no message type":
        proto.metadata.message_type = "no.such.type"
    elif damage == "no record":
        proto.content.items.add(key="other")
    elif damage == "no value":
        proto.content.items[0].config_record.items.add(key="nothing")
    elif damage == "no object":
        proto.ClearField("content")
        return proto, ObjectTree()
    return proto, tree


@pytest.mark.parametrize("damage", ["no message type", "no record", "no value"])
def test_a_message_that_cannot_be_read_does_not_block_the_next(
    superlink: FakeSuperLink,
    connection: FleetConnection,
    grid: HttpGrid,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    superlink.to_node.append(unreadable(damage))
    push_inline(grid, [question(b"next")])
    assert connection.receive() is None
    assert "message dropped: it cannot be read" in caplog.text
    assert value_of(received(connection)[0]) == b"next"


def test_a_message_whose_objects_are_damaged_does_not_block_the_next(
    superlink: FakeSuperLink, connection: FleetConnection, grid: HttpGrid
) -> None:
    grid.push_messages([question(b"damaged")])
    superlink.objects = {name: content[:-3] + b"\xff\xff\xff" for name, content in superlink.objects.items()}
    push_inline(grid, [question(b"next")])
    assert connection.receive() is None
    assert value_of(received(connection)[0]) == b"next"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**64), inlined=st.booleans())
def test_a_mutated_answer_is_read_dropped_or_an_error_of_the_connection(
    superlink: FakeSuperLink, connection: FleetConnection, seed: int, inlined: bool
) -> None:
    asked = question(b"x" * 40)
    proto, tree = packing.inline(asked)
    if not inlined:
        proto.ClearField("content")
    sound = PullMessagesResponse(messages_list=[proto], message_object_trees=[tree]).SerializeToString()
    superlink.answers["/v1/fleet/pull-messages"] = (200, mutated(sound, random.Random(seed), []))
    try:
        connection.receive()
    except (UnreachableError, RequestRefusedError, RunEndedError) as error:
        assert str(error)
    superlink.answers["/v1/fleet/pull-messages"] = (200, PullMessagesResponse().SerializeToString())
    for _ in range(2):  # a content that is missing is asked for once more
        with suppress(UnreachableError):
            assert connection.receive() is None
