"""The processes of one machine: the detector, which never stops, and the trainer, which it starts."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from client.data import names
from client.data.training_buffer import read as read_buffer
from client.service.identity import Identity
from client.service.process import DetectorProcess
from client.service.supervisor import TrainerSupervisor
from common.config import ConfigError, save
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.packages import SAFE_PATH, python_module
from common.settings import Settings

log = logging.getLogger(__name__)

MIN_ROWS = 500
"""Normal events that a machine without a data file gathers before it takes part in training."""
LOOK_EVERY_S = 1.0


def watching(settings: Settings) -> DetectorProcess:
    """A machine that scores its stream and trains, in a process that is started from here.

    Raises:
        ConfigError: the client has no name.
    """
    name = client_name(settings)
    folder = state_folder(settings, name)
    folder.mkdir(parents=True, exist_ok=True)
    # The trainer reads the settings as they are now, flags and environment and all.
    given = folder / "settings.yaml"
    own = settings.with_values(client={"name": name, "state": folder})
    save(own, given)
    supervisor = TrainerSupervisor(
        python_module("flockwatch", "trainer", "--config", os.fspath(given)),
        folder / "trainer.log",
        {**os.environ, **SAFE_PATH},
        settings.live.trainer_memory_mb << 20,
    )
    return DetectorProcess(own, folder, name, supervisor=supervisor)


def detecting(settings: Settings, file: Path) -> DetectorProcess:
    """A machine that scores its stream by one version and never trains.

    Raises:
        ManifestError: the file is no version.
        OSError: it cannot be read.
    """
    try:
        manifest = Manifest.unpack(file.read_bytes())
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    name = settings.client.name or file.stem
    return DetectorProcess(settings, state_folder(settings, name), name, fixed=manifest)


def client_name(settings: Settings) -> str:
    """The client's name: as set, or its data file's.

    Raises:
        ConfigError: neither is set.
    """
    if settings.client.name is not None:
        return settings.client.name
    if settings.client.data is None:
        raise ConfigError("'client.name' is not set, and no data file names this client: pass --name NAME")
    return names.client_name(settings.client.data)


def state_folder(settings: Settings, name: str) -> Path:
    """Where a client of this name keeps what it keeps."""
    return settings.client.state or Path("runs/clients") / name


def train(settings: Settings, on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Take part in the federation's training; returns when it is stopped.

    Args:
        settings: The `client`, `data` and `live` sections count; the model comes from the server.
        on_ready: Called once, before connecting, with what stops it; a signal may call that.

    Raises:
        ConfigError: there is neither a data file nor a live stream.
        CertificateError, KeyFileError: what TLS needs cannot be used.
        DataError: the data file cannot be used.
        IdentityError: another process uses the client's state folder.
    """
    from client.app import build
    from client.data.partition import Partition, read
    from client.training.worker import ClientWorker
    from client.transport.compression_state import CompressionState
    from client.transport.credentials import credentials
    from client.transport.resident_node import ResidentNode

    roots, key = credentials(settings.client)
    live = settings.live.source is not None
    stopped = threading.Event()
    on_ready(stopped.set)
    if settings.client.data is not None:
        partition = read(settings.client.data, settings.data, settings.client.name)
    elif not live:
        raise ConfigError("'client.data' is not set: name the data file of this client, or pass --data FILE")
    else:
        name = client_name(settings)
        schema = _gathered(state_folder(settings, name), stopped)
        if schema is None:
            return
        none = np.empty((0, len(schema)), np.float32)
        partition = Partition(name, schema, none, none, None)
    folder = state_folder(settings, partition.name)
    identity = Identity(folder)
    log.info(
        "client ready name=%s rows=%d features=%d server=%s",
        partition.name, len(partition.rows), len(partition.schema), settings.client.server,
    )  # fmt: skip
    # Seconds of imports, taken now and not out of the first round; a machine without Keras can still measure.
    with suppress(ImportError):
        import client.training.trainer  # noqa: F401
    wire = CompressionState(folder)
    edge = ClientWorker(partition, identity.instance, inline=True, folder=folder if live else None, wire=wire)
    link = ResidentNode(settings.client.server, build(lambda _: edge), roots, key, edge.offer_version)
    on_ready(link.stop)
    try:
        if not stopped.is_set():
            link.serve()
    finally:
        identity.release()


def _gathered(folder: Path, stopped: threading.Event) -> Schema | None:
    """The features of the live stream, once there are rows to train on; None when stopped before."""
    log.info("waiting for normal events to train on wanted=%d", MIN_ROWS)
    while not stopped.wait(LOOK_EVERY_S):
        kept = read_buffer(folder)
        if kept is not None and len(kept.rows) >= MIN_ROWS:
            return Schema(tuple(json.loads((folder / "schema.json").read_bytes())))
    return None
