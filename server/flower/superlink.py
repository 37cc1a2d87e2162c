"""Flower's SuperLink as flockwatch runs it.

What it does and who may ask for what is Flower's. Three things are changed, since a fleet is limited by the
processor time that SuperLink needs for a request (docs/decisions/0015-lean-superlink.md): its state is in
memory, it keeps nothing of messages that have come and gone and only the end of a run's log, and a request
passes only the checks that are meant for its kind. And it keeps connections open for as long as clients may
be silent.
"""

from __future__ import annotations

from functools import partial

import uvicorn
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink import main as flower
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.federation import FederationManager
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common.packages import check_packages

PATHS = {
    "flwr.superlink.routers.control": "/v1/control/",
    "flwr.superlink.routers.fleet": "/v1/fleet/",
}
"""By package: under which paths the requests are that its middleware is meant for."""

KEEP_ALIVE_S = 30
"""How long a connection may be idle. Uvicorn's 5 s are shorter than the polls of a large fleet are apart."""

MAX_LOGGED = 256
"""Pieces of a run's log that are kept for `flwr log`; the state folder's `run.log` has all of it."""


class Objects(InMemoryObjectStore):
    """Flower's store, in which a message that has no objects is one piece."""

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """What a message consists of."""
        try:
            return super().get_object_tree(object_id)
        except NoObjectInStoreError:
            return ObjectTree(object_id=object_id)


class State(InMemoryLinkState):
    """Flower's state, which keeps of a run only what is still needed.

    Flower forgets the objects of a message once they were fetched, and the session in which they are sent
    once all are there. Where the content is inside the message neither happens: both would stay until the
    run ends, so none are registered. And it would keep all that the ServerApp ever printed.
    """

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Take a message in.

        Returns:
            Whether it was taken, and which of its objects are to be sent.
        """
        if not (message.has_content() and message.content):
            return super().store_message_and_object_tree(message, object_tree, session_id)
        is_reply = bool(message.metadata.reply_to_message_id)
        taken = self.store_message_res(message) if is_reply else self.store_message_ins(message)
        self._cleanup_push_session(session_id, cleanup_messages=False)
        return taken is not None, []

    def add_task_log(self, task_id: int, log_message: str) -> None:
        """Take a piece of a task's log in: what it printed since the piece before."""
        super().add_task_log(task_id, log_message)
        with self.log_lock:
            del self.task_logs[task_id][:-MAX_LOGGED]


class Under:
    """A middleware that only requests under a path pass through.

    Args:
        app: What comes after it.
        path: How the paths begin.
        made: The middleware.
    """

    def __init__(self, app: ASGIApp, path: str, made: Middleware) -> None:
        self._app, self._path = app, path
        self._guarded: ASGIApp = made.cls(app, *made.args, **made.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        meant = scope["type"] == "http" and scope["path"].startswith(self._path)
        await (self._guarded if meant else self._app)(scope, receive, send)


def factories(
    database: str, federation_manager: FederationManager
) -> tuple[ObjectStoreFactory, LinkStateFactory]:
    """What gives the store and the state, as Flower asks for it."""
    objects = ObjectStoreFactory(database)
    objects.store_instance = Objects()
    state = LinkStateFactory(database, federation_manager, objects)
    state.state_instance = State(federation_manager, objects.store_instance)
    return objects, state


def middleware() -> list[Middleware]:
    """Flower's, each only where it is meant for."""
    found: list[Middleware] = []
    for made in flower._get_middleware():
        module = str(getattr(made.cls, "__module__", ""))
        path = next((path for package, path in PATHS.items() if module.startswith(package)), None)
        found.append(made if path is None else Middleware(Under, path=path, made=made))
    return found


def main() -> None:
    """Run SuperLink with the arguments of the process."""
    check_packages("server")
    chosen = middleware()
    flower.get_objectstore_linkstate_factories = factories  # type: ignore[attr-defined]
    flower._get_middleware = lambda: chosen
    uvicorn.run = partial(uvicorn.run, timeout_keep_alive=KEEP_ALIVE_S)
    flower_superlink()


if __name__ == "__main__":
    main()
