"""Our changes to Flower's SuperLink, in process; tests/scenarios uses it as a real process."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_federation_manager
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.middleware import Middleware

from common.flower import packing
from common.flower.stamps import set_message_id
from server.flower.superlink import (
    MAX_LOG_ENTRIES,
    MAX_OBJECTS,
    LeanLinkState,
    PathMiddleware,
    push_own_reply,
    scoped_middleware,
    state_factories,
)


@pytest.fixture
def state() -> LeanLinkState:
    state = state_factories(":flwr-in-memory:", get_federation_manager())[1].state()
    assert isinstance(state, LeanLinkState)
    return state


class Fleet:
    """A run and a node in a state, and messages between them."""

    def __init__(self, state: LeanLinkState, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.run = state.create_run("app", "1", "hash", {}, NOOP_FEDERATION_ID, None, None, "serverapp")
        self.node = state.create_node("aid", "name", b"key", 10.0)
        assert self.run and self.node
        state.activate_node(self.node, 10.0)
        monkeypatch.setattr(fleet_handlers, "check_abort", lambda *_: None)  # the run has not started
        for name, value in {"_run_id": self.run, "_node_id": 1, "_task_id": 1}.items():
            monkeypatch.setattr(TaskIdentity, name, value, raising=False)

    def task(self, size: int = 1000) -> Message:
        content = RecordDict({"r": ConfigRecord({"c": bytes(size)})})
        message = Message(content, self.node, "train", ttl=60.0, group_id=str(time.perf_counter()))
        return self.stamped(message)

    def reply(self, task: Message) -> Message:
        return self.stamped(Message(RecordDict({"r": ConfigRecord({"c": b"done"})}), reply_to=task))

    @staticmethod
    def stamped(message: Message) -> Message:
        set_message_id(message)
        return message

    def push(self, message: Message) -> tuple[bool, list[str]]:
        session = self.state.start_session(self.run)
        return self.state.store_message_and_object_tree(message, get_object_tree(message), session)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all collections in the state."""
        parts = {**vars(self.state), **{f"objects.{n}": v for n, v in vars(self.state.object_store).items()}}
        collections = {name: value for name, value in parts.items() if isinstance(value, dict | list | set)}
        inside = {
            f"in {name}": sum(len(held) for held in value.values() if isinstance(held, dict | list | set))
            for name, value in collections.items()
            if isinstance(value, dict)
        }
        return {name: len(value) for name, value in collections.items()} | inside


@pytest.fixture
def fleet(state: LeanLinkState, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(state, monkeypatch)


def test_nothing_is_stored_of_delivered_inline_messages(fleet: Fleet) -> None:
    sizes = []
    for _ in range(3):
        task = fleet.task()
        assert fleet.push(task) == (True, [])
        (delivered,) = fleet.state.get_message_ins(fleet.node, 1)
        assert fleet.state.object_store.get_object_tree(delivered.metadata.message_id).children == []
        reply = fleet.reply(delivered)
        assert fleet.push(reply) == (True, [])
        (answer,) = fleet.state.get_message_res({task.metadata.message_id}, fleet.run)
        assert answer.content["r"]["c"] == b"done"
        fleet.state.delete_messages({task.metadata.message_id})
        sizes.append(fleet.sizes())
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0]["objects.store"] == sizes[0]["_object_push_sessions"] == 0


def test_a_message_with_objects_is_stored_as_in_flower(fleet: Fleet) -> None:
    message = fleet.task()
    tree = get_object_tree(message)
    message.__dict__["_content"] = RecordDict()
    session = fleet.state.start_session(fleet.run)
    stored, missing = fleet.state.store_message_and_object_tree(message, tree, session)
    assert stored
    assert len(missing) == 3  # the message, its records, the record
    assert fleet.state.object_store.get_object_tree(message.metadata.message_id) == tree


def test_a_message_that_flower_refuses_is_refused(fleet: Fleet) -> None:
    fleet.state.delete_node("aid", fleet.node)
    assert fleet.push(fleet.task()) == (False, [])


class Thief:
    """A second node of the run, which may sign what it likes as its own."""

    def __init__(self, fleet: Fleet) -> None:
        self.state, self.victim = fleet.state, fleet
        self.node = fleet.state.create_node("aid", "thief", b"other key", 10.0)
        fleet.state.activate_node(self.node, 10.0)

    def push(self, message: Message, trees: int = 1, objects: int = 1) -> bool:
        """Push a message; return whether SuperLink took it."""
        proto, tree = packing.inline(message)
        if objects > 1:
            proto.ClearField("content")
            proto.content.SetInParent()
            tree.children.extend(ObjectTree(object_id=f"{i:064x}") for i in range(objects - 1))
        node = Node(node_id=self.node)
        request = PushMessagesRequest(
            node=node, messages_list=[proto] * trees, message_object_trees=[tree] * trees
        )
        before = len(self.state.message_ins_store), len(self.state.message_res_store)
        try:
            push_own_reply(request, self.state)
        except FlowerError as error:
            assert error.code == ApiErrorCode.NO_PERMISSIONS
        return (len(self.state.message_ins_store), len(self.state.message_res_store)) != before


def test_a_node_cannot_send_tasks_to_others(fleet: Fleet) -> None:
    assert not Thief(fleet).push(fleet.task())
    assert fleet.state.get_message_ins(fleet.node, 1) == []


def test_a_node_cannot_answer_for_another(fleet: Fleet) -> None:
    fleet.push(fleet.task())
    (task,) = fleet.state.get_message_ins(fleet.node, 1)
    assert not Thief(fleet).push(fleet.reply(task))
    assert fleet.push(fleet.reply(task)) == (True, [])


@pytest.mark.parametrize(("objects", "taken"), [(1, True), (4, True), (MAX_OBJECTS + 1, False)])
def test_a_reply_has_few_objects(fleet: Fleet, objects: int, taken: bool) -> None:
    """The server keeps all objects that it has let a node announce, each of up to the size of an update."""
    node = Thief(fleet)
    fleet.node = node.node
    fleet.push(fleet.task())
    (task,) = fleet.state.get_message_ins(node.node, 1)
    assert node.push(fleet.reply(task), objects=objects) is taken


@pytest.mark.parametrize("trees", [0, 2])
def test_a_push_has_one_message(fleet: Fleet, trees: int) -> None:
    node = Thief(fleet)
    fleet.node = node.node
    fleet.push(fleet.task())
    (task,) = fleet.state.get_message_ins(node.node, 1)
    assert not node.push(fleet.reply(task), trees=trees)


def test_the_newest_entries_of_a_runs_log_are_kept(fleet: Fleet) -> None:
    task = fleet.state.get_run_info(run_ids=[fleet.run])[0].primary_task_id
    assert task is not None
    sizes = []
    for hundred in range(30):
        for piece in range(100):
            fleet.state.add_task_log(task, f"{100 * hundred + piece}\n")
        sizes.append(fleet.sizes())
    assert sizes[9] == sizes[-1]
    assert sizes[-1]["in task_logs"] == MAX_LOG_ENTRIES
    log, position = fleet.state.get_task_log(task, None)
    assert log.split() == [str(piece) for piece in range(3000 - MAX_LOG_ENTRIES, 3000)]
    fleet.state.add_task_log(task, "3000\n")
    assert fleet.state.get_task_log(task, position)[0] == "3000\n"


def test_each_middleware_of_flower_is_limited_to_its_api() -> None:
    paths = {
        str(middleware.kwargs["middleware"].cls.__name__): middleware.kwargs["path"]  # type: ignore[attr-defined]
        for middleware in scoped_middleware()
        if middleware.cls is PathMiddleware
    }
    assert paths == {
        "ControlSensitiveResponseMiddleware": "/v1/control/",
        "ControlAuthenticationMiddleware": "/v1/control/",
        "ControlLicenseMiddleware": "/v1/control/",
        "ControlEventLogMiddleware": "/v1/control/",
        "NodeAuthMiddleware": "/v1/fleet/",
        "FleetEventLogMiddleware": "/v1/fleet/",
    }
    unscoped = [m.cls.__name__ for m in scoped_middleware() if m.cls is not PathMiddleware]  # type: ignore[attr-defined]
    assert unscoped == ["BaseHTTPMiddleware", "ProtobufTranslationMiddleware"]


class Marks:
    """A middleware that appends a mark."""

    def __init__(self, app: Any, mark: str) -> None:
        self.app, self.mark = app, mark

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["marks"].append(self.mark)
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("scope", "marks"),
    [
        ({"type": "http", "path": "/a/x"}, ["a", "app"]),
        ({"type": "http", "path": "/b/a/x"}, ["app"]),
        ({"type": "http", "path": "/ab"}, ["app"]),
        ({"type": "lifespan"}, ["app"]),
    ],
)
def test_only_requests_under_its_path_pass_through_a_middleware(
    scope: dict[str, Any], marks: list[str]
) -> None:
    async def app(scope: Any, *_: Any) -> None:
        scope["marks"].append("app")

    async def nothing(*_: Any) -> Any:
        return None

    passed = {**scope, "marks": []}
    asyncio.run(PathMiddleware(app, "/a/", Middleware(Marks, mark="a"))(passed, nothing, nothing))
    assert passed["marks"] == marks
