"""The data of a local run's clients: a folder, one file divided, or generated machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.files.partitions import data_files, read_partition, write_partition
from client.data.partition import Partition
from common.config import ConfigError
from common.model.schema import Schema
from common.settings import LocalSettings, Settings
from flockwatch.simulation import telemetry
from flockwatch.simulation.division import by_column, contiguous, dirichlet, iid

GENERATED_CLIENTS = 3
TEST_ROWS = 2000
"""Test rows of each generated machine: enough for several faults of each kind."""

BLOCK_WINDOWS = 10
"""Length, in windows, of the blocks of consecutive rows that `iid` divides a file into.

A window that crosses two blocks is not one of the original file; with long blocks few do.
"""


@dataclass(frozen=True)
class PartitionSource:
    """One client's data, and the file that its process reads."""

    partition: Partition
    file: Path


def interval_s(source: PartitionSource, settings: Settings) -> float | None:
    """Return the time between two rows: the setting, or that of the file; None if neither is known."""
    return settings.threshold.interval_s or source.partition.interval_s


def gather(settings: Settings, folder: Path) -> list[PartitionSource]:
    """Return the data of every client. Generated and divided data is written to `folder`.

    Raises:
        ConfigError: the settings do not fit the data that they name.
        DataError, PartitionError: a file cannot be read, or cannot be divided as the settings say.
    """
    local = settings.local
    if local.data is None:
        return _generate(local, folder, settings)
    if local.data.is_dir():
        if local.clients is not None:
            raise ConfigError(f"'local.clients' divides one file, but {local.data} is a folder of files")
        return [PartitionSource(read_partition(file, settings.data), file) for file in data_files(local.data)]
    return _write_all(_divide(local.data, settings), folder, settings)


def _generate(local: LocalSettings, folder: Path, settings: Settings) -> list[PartitionSource]:
    clients = local.clients or GENERATED_CLIENTS
    if local.generate == "telemetry":
        recordings = telemetry.record(clients, local.rows, TEST_ROWS, seed=local.seed)
        paths = telemetry.write(recordings, folder)
        return [PartitionSource(r.partition, path) for r, path in zip(recordings, paths, strict=True)]
    # The legacy generator, because the seed example's published rows come from it.
    rows = np.random.RandomState(local.seed).standard_normal((clients * local.rows, local.features))
    schema = Schema(tuple(f"feature_{i}" for i in range(local.features)))
    no_rows = np.empty((0, local.features), np.float32)
    whole = Partition("client", schema, rows.astype(np.float32), no_rows, None)
    return _write_all(contiguous(whole, clients), folder, settings)


def _divide(file: Path, settings: Settings) -> list[Partition]:
    local = settings.local
    if local.partition == "column":
        assert local.column is not None  # noqa: S101  the settings hold it
        return by_column(file, local.column, settings.data)
    whole = read_partition(file, settings.data)
    if local.clients is None:
        raise ConfigError(f"'local.clients' is not set: pass --clients N to divide {file} among N clients")
    match local.partition:
        case "iid":
            block = BLOCK_WINDOWS * settings.model.window
            return iid(whole, local.clients, local.seed, block)
        case "dirichlet":
            return dirichlet(whole, local.clients, local.alpha, local.seed)
        case _:
            return contiguous(whole, local.clients)


def _write_all(partitions: list[Partition], folder: Path, settings: Settings) -> list[PartitionSource]:
    folder.mkdir(parents=True, exist_ok=True)
    return [
        PartitionSource(p, write_partition(p, folder / f"{p.name}.parquet", settings.data))
        for p in partitions
    ]
