"""The Flower ClientApp: unpacks a message, passes it to the worker, and packs the reply.

`app` also runs in a stock `flower-supernode`, whose `--node-config` then holds the client's settings:
`data="FILE"`, and optionally `config="FILE"` and `name="NAME"`. The resident node
(`client.transport.resident_node`) runs the same app with a worker that it keeps in memory.
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
from common.processes.packages import check_packages
from common.protocol import wire
from common.protocol.messages import (
    COUNTED,
    Describe,
    Description,
    Evaluation,
    Task,
    Traffic,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import CONTENT, RECORD, ProtocolError

log = logging.getLogger(__name__)


def build(get_worker: Callable[[Context], ClientWorker]) -> ClientApp:
    """Return a ClientApp that answers with the worker that `get_worker` returns for a context."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        request, worker = wire.unpack(_content(message), Describe, WholeVersion), get_worker(context)
        if isinstance(request, WholeVersion):
            manifest = request.task().manifest
            worker.receive(manifest)
            return _reply(worker.describe(manifest.architecture.window), message)
        if request.refused is not None:
            log.error("the server has no work for this client reason=%s", request.refused)
        return _reply(worker.describe(request.window), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return run_task(
            message, context, lambda worker, task: worker.compression.encode(worker.train(task), task)
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return run_task(message, context, lambda worker, task: worker.evaluate(task))

    def run_task(
        message: Message, context: Context, run: Callable[[ClientWorker, Task], Evaluation]
    ) -> Message:
        content, worker = _content(message), get_worker(context)
        task = worker.compression.unpack_task(content, worker.name)
        if isinstance(task, VersionMissing):
            return _reply(task, message)
        return _reply(_with_traffic(run(worker, task), worker, context), message)

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


def _with_traffic(answer: Evaluation, worker: ClientWorker, context: Context) -> Evaluation:
    """Return the answer with the client's traffic so far, which the resident node puts in the context."""
    counted = {name: context.node_config.get(name, 0) for name in COUNTED}
    traffic = worker.compression.traffic(Traffic(**counted))  # type: ignore[arg-type]
    return replace(answer, traffic=traffic)


def _reply(answer: Description | Evaluation | VersionMissing, message: Message) -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({CONTENT: wire.pack(answer)})}), reply_to=message)


@cache
def _worker(data: str, config_file: str, name: str) -> ClientWorker:
    check_packages("client")
    from client.data.files.partitions import read_partition  # pyarrow: not needed by the resident node's app

    settings = config.load(Path(config_file) if config_file else None)
    partition = read_partition(Path(data), settings.data, name or settings.client.name)
    return ClientWorker(partition, instance="supernode", compression=CompressionState(keeps=False))


def _worker_of_node_config(context: Context) -> ClientWorker:
    options = {key: str(context.node_config.get(key, "")) for key in ("data", "config", "name")}
    if not options["data"]:
        raise ValueError("node config has no 'data': start the SuperNode with --node-config 'data=\"FILE\"'")
    return _worker(options["data"], options["config"], options["name"])


app = build(_worker_of_node_config)
