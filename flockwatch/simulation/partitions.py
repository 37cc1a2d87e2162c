"""Where the clients of a local run get their data: a folder, one file divided, or generated machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.partition import Partition, files, read, write
from common.config import ConfigError
from common.model.schema import Schema
from common.settings import LocalSettings, Settings
from flockwatch.simulation import telemetry
from flockwatch.simulation.division import by_column, contiguous, dirichlet, iid

GENERATED_CLIENTS = 3
TEST_ROWS = 2000
"""Of each generated machine: enough for several faults of each kind."""

BLOCK_WINDOWS = 10
"""`iid` deals rows in runs of so many windows, so that nearly every window holds true neighbours."""


@dataclass(frozen=True)
class PartitionSource:
    """One client's data, and the file that its process reads."""

    partition: Partition
    file: Path


def gather(settings: Settings, folder: Path) -> list[PartitionSource]:
    """The data of every client, read and checked; what has no file yet is written to `folder`.

    Raises:
        ConfigError: the settings contradict the data they name.
        DataError, PartitionError: a file cannot be used, or cannot be divided as asked.
    """
    local = settings.local
    if local.data is None:
        return _generate(local, folder, settings)
    if local.data.is_dir():
        if local.clients is not None:
            raise ConfigError(f"'local.clients' divides one file, but {local.data} is a folder of files")
        return [PartitionSource(read(file, settings.data), file) for file in files(local.data)]
    return _written(_divide(local.data, settings), folder, settings)


def _generate(local: LocalSettings, folder: Path, settings: Settings) -> list[PartitionSource]:
    clients = local.clients or GENERATED_CLIENTS
    if local.generate == "telemetry":
        recordings = telemetry.record(clients, local.rows, TEST_ROWS, seed=local.seed)
        paths = telemetry.write(recordings, folder)
        return [PartitionSource(r.partition, path) for r, path in zip(recordings, paths, strict=True)]
    # The generator of the well-known example: another would give other rows for its seed.
    rows = np.random.RandomState(local.seed).standard_normal((clients * local.rows, local.features))
    schema = Schema(tuple(f"feature_{i}" for i in range(local.features)))
    none = np.empty((0, local.features), np.float32)
    whole = Partition("client", schema, rows.astype(np.float32), none, None)
    return _written(contiguous(whole, clients), folder, settings)


def _divide(file: Path, settings: Settings) -> list[Partition]:
    local = settings.local
    if local.partition == "column":
        assert local.column is not None  # noqa: S101  the settings hold it
        return by_column(file, local.column, settings.data)
    whole = read(file, settings.data)
    if local.clients is None:
        raise ConfigError(f"'local.clients' is not set: among how many clients is {file} to be divided?")
    match local.partition:
        case "iid":
            block = BLOCK_WINDOWS * settings.model.window
            return iid(whole, local.clients, local.seed, block)
        case "dirichlet":
            return dirichlet(whole, local.clients, local.alpha, local.seed)
        case _:
            return contiguous(whole, local.clients)


def _written(partitions: list[Partition], folder: Path, settings: Settings) -> list[PartitionSource]:
    folder.mkdir(parents=True, exist_ok=True)
    return [PartitionSource(p, write(p, folder / f"{p.name}.parquet", settings.data)) for p in partitions]
