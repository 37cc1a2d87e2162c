"""The private names of Flower that flockwatch uses, which an upgrade must still have."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.server.superlink.linkstate import InMemoryLinkState
from flwr.supercore.constant import PULL_INITIAL_BACKOFF
from flwr.supercore.corestate.in_memory_corestate import InMemoryCoreState
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink import main as flower
from flwr.superlink.grid.http_grid import HttpGrid

from client.transport.fleet_connection import FleetConnection
from client.transport.sockets import Meter, _CountingBackend
from common.flower.packing import FIRST_BACKOFF_S
from common.flower.stamps import TASK, set_message_id
from server.flower.superlink import InlineObjectStore, LeanLinkState, state_factories

ROOT = Path(__file__).parents[2]
PRIVATE = [
    ROOT / "client/transport/errors.py",
    ROOT / "client/transport/fleet_connection.py",
    ROOT / "client/transport/signing.py",
    ROOT / "client/transport/sockets.py",
    *(ROOT / "common/flower").glob("*.py"),
    *(ROOT / "server/flower").glob("*.py"),
]


def names_used() -> list[tuple[str, str]]:
    result = {
        (node.module, alias.name)
        for path in PRIVATE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flwr"
        for alias in node.names
    }
    return sorted(result)


@pytest.mark.parametrize(("module", "name"), names_used())
def test_flower_has_the_name(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def used(name: str) -> Any:
    (module,) = (module for module, known in names_used() if known == name)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("function", "given", "named"),
    [
        ("make_message", ["metadata"], ["error"]),
        ("make_pull_object_fn_protobuf", ["pull", "node", "run_id"], []),
        ("make_push_object_fn_protobuf", ["push", "node", "run_id", "session_id"], []),
        ("make_confirm_message_received_fn_protobuf", ["confirm", "node", "run_id"], []),
        (
            "pull_and_inflate_object_from_tree",
            ["tree", "pull", "confirm"],
            ["return_type", "initial_backoff", "max_time"],
        ),
        ("push_objects", ["objects", "push"], ["object_ids_to_push"]),
        ("get_all_nested_objects", ["message"], []),
        ("get_object_tree", ["message"], []),
        ("no_object_id_recompute", [], []),
        ("message_from_proto", ["proto"], []),
        ("message_to_proto", ["message"], []),
        ("remove_content_from_message", ["message"], []),
        ("run_from_proto", ["proto"], []),
        ("public_key_to_bytes", ["key"], []),
        ("RuntimeVersionHttpInterceptor", [], ["component_name"]),
        ("sign_message", ["private", "message"], []),
    ],
)
def test_flowers_functions_accept_our_arguments(function: str, given: list[str], named: list[str]) -> None:
    inspect.signature(used(function)).bind(*given, **dict.fromkeys(named))


def test_flowers_client_accepts_our_arguments() -> None:
    make = inspect.signature(used("FleetHttpClient").from_server_address)
    make.bind("127.0.0.1:1", True, None, interceptors=[])
    for method in (
        "RegisterNode", "ActivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject", "GetRun",
        "ConfirmMessageReceived", "PushMessages", "PushObject", "DeactivateNode", "UnregisterNode",
    ):  # fmt: skip
        inspect.signature(getattr(used("FleetHttpClient"), method)).bind("self", "request")


def test_flowers_grid_has_the_private_parts() -> None:
    assert isinstance(HttpGrid._runtime_client, property)
    assert isinstance(HttpGrid.run, property)
    assert HttpGrid(token="t").node.node_id


def test_flowers_wait_for_an_object_can_be_shortened() -> None:
    assert FIRST_BACKOFF_S < PULL_INITIAL_BACKOFF / 10


def test_flower_stores_a_task_and_a_messages_id_where_we_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        assert hasattr(TaskIdentity, name)
        monkeypatch.setattr(TaskIdentity, name, value)
    message = Message(RecordDict(), 7, "train", ttl=60.0)
    assert "_message_id" in message.metadata.__dict__
    set_message_id(message, "id")
    assert message.metadata.message_id == "id"


def test_the_methods_that_our_superlink_overrides_exist() -> None:
    for ours, theirs, name in [
        (InlineObjectStore, InMemoryObjectStore, "get_object_tree"),
        (LeanLinkState, InMemoryLinkState, "store_message_and_object_tree"),
        (LeanLinkState, InMemoryLinkState, "add_task_log"),
    ]:
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))
    assert callable(InMemoryCoreState._cleanup_push_session)
    assert parameters(state_factories) == parameters(flower.get_objectstore_linkstate_factories)  # type: ignore[attr-defined]


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_a_connection_meters_its_sockets() -> None:
    """Uses private names of httpx and httpcore."""
    connection = FleetConnection("127.0.0.1:1", meter=Meter())
    pool = connection._client._client._transport._pool  # type: ignore[attr-defined]
    assert isinstance(pool._network_backend, _CountingBackend)
    connection.close()
