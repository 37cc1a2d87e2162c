"""The Flower ClientApp: unpacks a message, asks the edge, packs the reply. Nothing is decided here.

`app` works under a stock `flower-supernode`, whose `--node-config` then holds the client's settings:
`data="FILE"`, and optionally `config="FILE"`, `name="NAME"`. The resident client
(`client.transport.resident_node`) runs the same app around a worker that stays warm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from msgspec.structs import replace

from client.training.worker import ClientWorker
from client.transport.compression_state import CompressionState
from common import config
from common.packages import check_packages
from common.protocol import wire
from common.protocol.messages import Describe, Description, Evaluation
from common.protocol.tasks import Task, VersionMissing
from common.protocol.traffic import COUNTED, Traffic
from common.protocol.wire import CONTENT, RECORD, ProtocolError

log = logging.getLogger(__name__)


def build(edge_of: Callable[[Context], ClientWorker]) -> ClientApp:
    """A ClientApp that answers with the edge that `edge_of` gives for a context."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        request = wire.unpack(_content(message), Describe)
        if request.refused is not None:
            log.error("the server has no work for this client reason=%s", request.refused)
        return _reply(edge_of(context).describe(), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answered(message, context, lambda edge, task: edge.wire.packed(edge.train(task), task))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answered(message, context, lambda edge, task: edge.evaluate(task))

    def answered(
        message: Message, context: Context, work: Callable[[ClientWorker, Task], Evaluation]
    ) -> Message:
        content, edge = _content(message), edge_of(context)
        task = edge.wire.opened(content, edge.name)
        if isinstance(task, VersionMissing):
            return _reply(task, message)
        return _reply(_counted(work(edge, task), edge, context), message)

    return app


def _content(message: Message) -> bytes:
    try:
        content = message.content[RECORD][CONTENT]
    except KeyError:
        raise ProtocolError(
            f"a {message.metadata.message_type} message without '{RECORD}/{CONTENT}': not from flockwatch"
        ) from None
    if not isinstance(content, bytes):
        raise ProtocolError(f"'{RECORD}/{CONTENT}' is {type(content).__name__}, expected bytes")
    return content


def _counted(answer: Evaluation, edge: ClientWorker, context: Context) -> Evaluation:
    """The answer with what the client's messages have cost so far, as the link counts it."""
    counted = {name: context.node_config.get(name, 0) for name in COUNTED}
    return replace(answer, traffic=edge.wire.traffic(Traffic(**counted)))  # type: ignore[arg-type]


def _reply(answer: Description | Evaluation | VersionMissing, message: Message) -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({CONTENT: wire.pack(answer)})}), reply_to=message)


@cache
def _edge(data: str, config_file: str, name: str) -> ClientWorker:
    check_packages("client")
    from client.data.partition import read_partition  # pyarrow: not needed where an edge is given

    settings = config.load(Path(config_file) if config_file else None)
    partition = read_partition(Path(data), settings.data, name or settings.client.name)
    return ClientWorker(partition, instance="supernode", wire=CompressionState(keeps=False))


def _edge_of_node_config(context: Context) -> ClientWorker:
    given = {key: str(context.node_config.get(key, "")) for key in ("data", "config", "name")}
    if not given["data"]:
        raise ValueError("node config has no 'data': start the SuperNode with --node-config 'data=\"FILE\"'")
    return _edge(given["data"], given["config"], given["name"])


app = build(_edge_of_node_config)
