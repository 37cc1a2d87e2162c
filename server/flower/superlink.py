"""Flower's SuperLink with less work per request (docs/decisions/0015-lean-superlink.md).

Its API and its access checks are Flower's. Four things differ, since SuperLink's processor time per request
limits the size of a fleet: state is in memory; delivered messages and all but the end of a run's log are
deleted; a request passes only through the middleware of its API; idle connections stay open longer. And for
safety, a node may push nothing but its own replies.
"""

from __future__ import annotations

import logging
from functools import partial

import uvicorn
from flwr.app import Message
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkState, LinkStateFactory
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink import main as flower
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.federation import FederationManager
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common.processes.packages import check_packages

log = logging.getLogger(__name__)

MIDDLEWARE_PATHS = {
    "flwr.superlink.routers.control": "/v1/control/",
    "flwr.superlink.routers.fleet": "/v1/fleet/",
}
"""The path prefix of the API that a package's middleware checks."""

KEEP_ALIVE_S = 30
"""Time that a connection may be idle. Clients of a large fleet may poll less often than every 5 s."""

MAX_LOG_ENTRIES = 256
"""Entries of a run's log that are kept for `flwr log`; the file `run.log` in the state folder is complete."""


MAX_OBJECTS = 16
"""Objects of a message: flockwatch's app sends the message, its records, and one record."""

_flower_push = fleet_handlers.push_messages


class InlineObjectStore(InMemoryObjectStore):
    """Flower's object store, which also accepts messages without objects."""

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """Return the tree of a message's objects; a message without objects is a tree of one node."""
        try:
            return super().get_object_tree(object_id)
        except NoObjectInStoreError:
            return ObjectTree(object_id=object_id)


class LeanLinkState(InMemoryLinkState):
    """Flower's state without leftovers of delivered messages.

    Flower deletes a message's objects when they are pulled, and its push session when all objects have
    arrived. A message with inline content has neither event, so both would stay until the run ends; this
    class does not register them. It also limits the run's log, which Flower keeps whole.
    """

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message.

        Returns:
            Whether it was stored, and the ids of the objects that the sender must push.
        """
        if not (message.has_content() and message.content):
            return super().store_message_and_object_tree(message, object_tree, session_id)
        is_reply = bool(message.metadata.reply_to_message_id)
        message_id = self.store_message_res(message) if is_reply else self.store_message_ins(message)
        self._cleanup_push_session(session_id, cleanup_messages=False)
        return message_id is not None, []

    def add_task_log(self, task_id: int, log_message: str) -> None:
        """Append an entry to a task's log, and delete the oldest entries beyond `MAX_LOG_ENTRIES`."""
        super().add_task_log(task_id, log_message)
        with self.log_lock:
            del self.task_logs[task_id][:-MAX_LOG_ENTRIES]


def push_own_reply(request: PushMessagesRequest, state: LinkState) -> PushMessagesResponse:
    """Store a node's reply, if it is one; replaces the function of Flower.

    Flower checks that the request is from the node that it names, and nothing of the message in it: a node
    could send tasks to others as if it was the server, and announce any number of objects.

    Raises:
        FlowerError: the request has not one message, the message is not a reply of this node, or it has more
            than `MAX_OBJECTS` objects.
    """
    problem = _problem_of_push(request)
    if problem is not None:
        log.warning("push refused node=%d reason=%s", request.node.node_id, problem)
        raise FlowerError(ApiErrorCode.NO_PERMISSIONS, problem)
    return _flower_push(request, state)


def _problem_of_push(request: PushMessagesRequest) -> str | None:
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return "expected one message with one tree of objects"
    metadata = request.messages_list[0].metadata
    if metadata.src_node_id != request.node.node_id or not metadata.reply_to_message_id:
        return "expected a reply of this node"
    waiting, objects = [request.message_object_trees[0]], 0
    while waiting:
        waiting.extend(waiting.pop().children)
        objects += 1
        if objects > MAX_OBJECTS:
            return f"the message has more than {MAX_OBJECTS} objects"
    return None


class PathMiddleware:
    """Applies a middleware only to requests under a path.

    Args:
        app: The next application.
        path: The path prefix.
        middleware: The middleware to apply.
    """

    def __init__(self, app: ASGIApp, path: str, middleware: Middleware) -> None:
        self._app, self._path = app, path
        self._wrapped: ASGIApp = middleware.cls(app, *middleware.args, **middleware.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, through the middleware if its path matches."""
        matches = scope["type"] == "http" and scope["path"].startswith(self._path)
        await (self._wrapped if matches else self._app)(scope, receive, send)


def state_factories(
    database: str, federation_manager: FederationManager
) -> tuple[ObjectStoreFactory, LinkStateFactory]:
    """Return the factories of the object store and the state; replaces the function of Flower."""
    objects = ObjectStoreFactory(database)
    objects.store_instance = InlineObjectStore()
    state = LinkStateFactory(database, federation_manager, objects)
    state.state_instance = LeanLinkState(federation_manager, objects.store_instance)
    return objects, state


def scoped_middleware() -> list[Middleware]:
    """Return Flower's middleware, each limited to the path of the API that it checks."""
    scoped: list[Middleware] = []
    for middleware in flower._get_middleware():
        module = str(getattr(middleware.cls, "__module__", ""))
        path = next((path for package, path in MIDDLEWARE_PATHS.items() if module.startswith(package)), None)
        if path is not None:
            middleware = Middleware(PathMiddleware, path=path, middleware=middleware)
        scoped.append(middleware)
    return scoped


def main() -> None:
    """Run SuperLink with the arguments of the process."""
    check_packages("server")
    middleware = scoped_middleware()
    flower.get_objectstore_linkstate_factories = state_factories  # type: ignore[attr-defined]
    fleet_handlers.push_messages = push_own_reply
    flower._get_middleware = lambda: middleware
    uvicorn.run = partial(uvicorn.run, timeout_keep_alive=KEEP_ALIVE_S)
    flower_superlink()


if __name__ == "__main__":
    main()
