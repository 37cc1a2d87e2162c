"""Starts the processes of a client: the detector, which scores events, and the trainer, its child process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.buffers.training_buffer import read_schema
from client.data.files import names
from client.service.identity import Identity
from client.service.process import DetectorProcess
from client.service.supervisor import TrainerSupervisor
from common.config import ConfigError, save
from common.formats.files import private_folder
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.processes.packages import SAFE_PATH, python_module
from common.settings import Settings

if TYPE_CHECKING:
    from client.data.partition import Partition

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
"""Time between two looks for the features of the stream."""


def live_client(settings: Settings) -> DetectorProcess:
    """Return the detector of a client that also trains. When it runs, it starts the trainer.

    Raises:
        ConfigError: the client has no name.
    """
    name = client_name(settings)
    folder = state_folder(settings, name)
    private_folder(folder)
    # The trainer gets the settings of this process, with those from flags and environment.
    file = folder / "settings.yaml"
    own = settings.with_values(client={"name": name, "state": folder})
    save(own, file)
    supervisor = TrainerSupervisor(
        python_module("flockwatch", "trainer", "--config", os.fspath(file)),
        folder / "trainer.log",
        {**os.environ, **SAFE_PATH},
        settings.live.trainer_memory_mb << 20,
        settings.logs,
    )
    return DetectorProcess(own, folder, name, supervisor=supervisor)


def detector(settings: Settings, file: Path) -> DetectorProcess:
    """Return a detector that scores by the version in a file, without a trainer.

    Raises:
        ManifestError: the file is not the manifest of a version.
        OSError: the file cannot be read.
    """
    try:
        manifest = Manifest.unpack(file.read_bytes())
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    name = settings.client.name or file.stem
    return DetectorProcess(settings, state_folder(settings, name), name, fixed=manifest)


def client_name(settings: Settings) -> str:
    """Return the client's name: the setting, or the name of its data file.

    Raises:
        ConfigError: neither is set.
    """
    if settings.client.name is not None:
        return settings.client.name
    if settings.client.data is None:
        raise ConfigError("'client.name' is not set, and no data file names this client: pass --name NAME")
    return names.client_name(settings.client.data)


def state_folder(settings: Settings, name: str) -> Path:
    """Return the folder in which a client stores its state."""
    return settings.client.state or Path("runs/clients") / name


def train(settings: Settings, on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Take part in the training of a federation until stopped.

    Args:
        settings: Sections `client`, `data` and `live`. The model and its training come from the server.
        on_ready: Called once, before anything is read, with a function that stops this one. That function may
            be called by a signal handler.

    Raises:
        ConfigError: neither a data file nor a live stream is set.
        CertificateError, KeyFileError: a file for TLS cannot be used.
        DataError: the data file cannot be used.
        IdentityError: another process uses the client's state folder.
    """
    from client.app import build
    from client.training.worker import ClientWorker
    from client.transport.compression_state import CompressionState
    from client.transport.credentials import credentials
    from client.transport.resident_node import ResidentNode

    stopped = threading.Event()
    node: ResidentNode | None = None

    def stop() -> None:
        stopped.set()
        if node is not None:
            node.stop()

    roots, key = credentials(settings.client)
    on_ready(stop)
    partition = _partition(settings, stopped)
    if partition is None:
        return
    folder = state_folder(settings, partition.name)
    identity = Identity(folder)
    log.info(
        "client ready name=%s rows=%d features=%d server=%s",
        partition.name, len(partition.rows), len(partition.schema), settings.client.server,
    )  # fmt: skip
    # Imported before the first task, which it would delay by seconds. A client without Keras only evaluates.
    with suppress(ImportError):
        import_module("client.training.trainer")
    live = settings.live.source is not None
    worker = ClientWorker(
        partition,
        identity.instance,
        inline=True,
        folder=folder if live else None,
        compression=CompressionState(folder),
        min_rows=settings.client.min_rows,
    )
    node = ResidentNode(settings.client.server, build(lambda _: worker), roots, key, worker.offer_version)
    try:
        if not stopped.is_set():
            node.serve()
    finally:
        identity.release()


def _partition(settings: Settings, stopped: threading.Event) -> Partition | None:
    """Return the rows to train on beside the training buffer; None if stopped while waiting for a stream.

    Raises:
        ConfigError: neither a data file nor a live stream is set.
        DataError: the data file cannot be used.
    """
    from client.data.files.partitions import read_partition
    from client.data.partition import Partition

    if settings.client.data is not None:
        return read_partition(settings.client.data, settings.data, settings.client.name)
    if settings.live.source is None:
        raise ConfigError("'client.data' is not set: name the data file of this client, or pass --data FILE")
    name = client_name(settings)
    schema = _wait_for_schema(state_folder(settings, name), stopped)
    if schema is None:
        return None
    no_rows = np.empty((0, len(schema)), np.float32)
    return Partition(name, schema, no_rows, no_rows, None)


def _wait_for_schema(folder: Path, stopped: threading.Event) -> Schema | None:
    """Wait until the detector knows the features of the stream; None if stopped."""
    log.info("waiting for the features of the stream")
    while (schema := read_schema(folder)) is None:
        if stopped.wait(POLL_INTERVAL_S):
            return None
    return schema
