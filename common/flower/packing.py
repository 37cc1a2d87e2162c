"""How a message travels: in one piece with its content inside, or object by object.

Flower moves a message as at least three objects, each in a request of its own in each direction, where
SuperLink needs 10 ms for a request. Its protocol also has a field for the content in the message itself,
which SuperLink stores and hands on: a message is then one request, not five
(`docs/decisions/0002-inline-messages.md`).
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree

from common.flower.stamps import number

FIRST_BACKOFF_S, MAX_FETCH_S = 0.01, 60.0
"""A message can be seen before its objects have arrived: the first wait for them, and the longest."""


def inline(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    """A message as one piece. Its object is announced, since SuperLink wants one, but never sent."""
    number(message)
    return message_to_proto(message), ObjectTree(object_id=message.object_id)


def is_whole(message: Message) -> bool:
    """Whether a message is here with its content; one that travels by objects is announced with none."""
    return bool(message.has_error() or (message.has_content() and message.content))


def by_objects(message: Message) -> tuple[ProtoMessage, ObjectTree]:
    """A message without its content, and the objects in which that follows."""
    number(message)
    return message_to_proto(remove_content_from_message(message)), get_object_tree(message)


def fetched(
    proto: ProtoMessage,
    tree: ObjectTree,
    pull_object: Callable[[str], bytes],
    confirm: Callable[[str], None],
) -> Message:
    """The content of an announced message, object by object."""
    message = pull_and_inflate_object_from_tree(
        tree,
        pull_object,
        confirm,
        return_type=Message,
        initial_backoff=FIRST_BACKOFF_S,
        max_time=MAX_FETCH_S,
    )
    # The id is not part of the serialised message, and a reply must name it.
    number(message, proto.metadata.message_id)
    return message
