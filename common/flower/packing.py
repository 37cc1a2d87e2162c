"""The two forms of Flower messages: in one piece with the content inside, or object by object.

Flower sends a message as at least three objects, each in its own request in each direction, and SuperLink
takes 10 ms for a request. Flower's protocol also has a field for the content in the message itself, which
SuperLink stores and passes on: a message is then one request instead of five
(`docs/decisions/0002-inline-messages.md`).
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from google.protobuf.message import DecodeError

from common.flower.stamps import set_message_id

READ_ERRORS = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, DecodeError,
)  # fmt: skip
"""Errors of Flower that mean that a message is damaged."""

FIRST_BACKOFF_S, MAX_FETCH_S = 0.01, 60.0
"""First wait and longest time for the objects of a message, which may arrive after the message."""


def inline(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    """Return a message in one piece. Its object is announced, as SuperLink requires, but never sent."""
    set_message_id(message)
    return message_to_proto(message), ObjectTree(object_id=message.object_id)


def has_content(message: Message) -> bool:
    """Return whether a message has its content inside; one that travels by objects is announced without."""
    return bool(message.has_error() or (message.has_content() and message.content))


def fetch(
    proto: ProtoMessage,
    tree: ObjectTree,
    pull_object: Callable[[str], bytes],
    confirm: Callable[[str], None],
) -> Message:
    """Return an announced message with its content.

    Args:
        proto: The message as announced.
        tree: The ids of its objects.
        pull_object: Returns the content of an object.
        confirm: Reports that the message was received.
    """
    message = pull_and_inflate_object_from_tree(
        tree,
        pull_object,
        confirm,
        return_type=Message,
        initial_backoff=FIRST_BACKOFF_S,
        max_time=MAX_FETCH_S,
    )
    # The id is not part of the serialised message, and a reply must name it.
    set_message_id(message, proto.metadata.message_id)
    return message
