"""Ways to divide the rows of one file among several clients.

Each way gives disjoint parts that together contain every row, in time order within each part, and the same
parts for the same seed. Test rows are divided by the same rule as training rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from client.data.files.names import natural_key
from client.data.files.partitions import read_column, read_partition
from client.data.partition import Partition
from common.errors import UserError
from common.settings import ClientSettings, DataSettings

Owners = NDArray[np.intp]
"""Index of the client that each row goes to, shape (rows,)."""

DIRICHLET_BINS = 10


class PartitionError(UserError):
    """Rows cannot be divided as the settings say."""


def contiguous(whole: Partition, clients: int) -> list[Partition]:
    """Divide rows into equal runs of consecutive rows; the first client gets the oldest."""
    return _divide(whole, clients, lambda rows: np.arange(len(rows)) * clients // max(1, len(rows)))


def iid(whole: Partition, clients: int, seed: int, block: int = 1) -> list[Partition]:
    """Assign each block of consecutive rows to a random client, the same number of blocks to each.

    A model of windows of consecutive rows needs blocks of several times the window, so that most windows lie
    within a block. With the default of 1, single rows are assigned, and consecutive rows of a client were not
    consecutive in the file.

    Args:
        whole: The rows to divide.
        clients: Number of clients.
        seed: Random seed.
        block: Rows of a block.

    Raises:
        PartitionError: there are fewer blocks of training rows than clients.
    """
    if block < 1:
        raise PartitionError(f"block is {block}; expected at least 1 row")
    blocks = -(-len(whole.rows) // block)
    if clients > blocks:
        raise PartitionError(
            f"{len(whole.rows)} training rows are {blocks} blocks of {block}, too few for {clients} clients"
        )
    rng = np.random.default_rng(seed)

    def owners(rows: NDArray[np.float32]) -> Owners:
        drawn = rng.permutation(-(-len(rows) // block)) % clients
        return np.repeat(drawn, block)[: len(rows)]

    return _divide(whole, clients, owners)


def dirichlet(whole: Partition, clients: int, alpha: float, seed: int) -> list[Partition]:
    """Divide rows so that clients differ in size and in the rows they have, more so the smaller `alpha` is.

    Rows of normal operation have no classes. Ten bins with the same number of rows, along the first principal
    component of the standardised training rows, take their place; each bin is divided among the clients by
    shares drawn from Dirichlet(alpha). Single rows are assigned, so consecutive rows of a client need not
    have been consecutive in the file. A client without rows gets one.

    Sources: Hsu, Qi and Brown 2019 (arXiv:1909.06335) draw each client's shares of the classes from a
    Dirichlet distribution; Yurochkin et al. 2019 (arXiv:1905.12022) draw each class's shares of the clients,
    as here, so that every row is assigned.

    Args:
        whole: The rows to divide.
        clients: Number of clients.
        alpha: Concentration of the Dirichlet distribution, above 0.
        seed: Random seed.

    Raises:
        PartitionError: `alpha` is not a positive number, or there are fewer training rows than clients.
    """
    if not 0 < alpha < np.inf:
        raise PartitionError(f"alpha is {alpha}; expected a number above 0")
    _check(whole, clients)
    rng = np.random.default_rng(seed)
    project = _first_component(whole.rows)
    edges = np.quantile(project(whole.rows), np.linspace(0, 1, DIRICHLET_BINS + 1)[1:-1])
    shares = rng.dirichlet([alpha] * clients, DIRICHLET_BINS).cumsum(axis=1)

    def owners(rows: NDArray[np.float32]) -> Owners:
        bins = np.searchsorted(edges, project(rows))
        drawn = rng.random(len(rows))
        chosen: Owners = (drawn[:, None] >= shares[bins]).sum(axis=1).clip(max=clients - 1)
        return chosen

    return _divide(whole, clients, owners)


def by_column(file: Path, column: str, settings: DataSettings) -> list[Partition]:
    """Divide a file into one client for each value of a column, which names it and is not a feature.

    Raises:
        PartitionError: a client would have no training rows, or a value cannot name a client.
        DataError: the file cannot be read, or has no such column, or the column has an empty cell.
    """
    settings = settings.model_copy(update={"ignore": (*settings.ignore, column)})
    values, test_values = read_column(file, column, settings)
    whole = read_partition(file, settings)
    parts = []
    for value in sorted({str(value) for value in (*values, *test_values)}, key=natural_key):
        rows, test_rows = np.flatnonzero(values == value), np.flatnonzero(test_values == value)
        if not len(rows):
            raise PartitionError(f"{file}: client '{value}' of column '{column}' has no training rows")
        parts.append(whole.take(_checked_name(value, column, file), rows, test_rows))
    return parts


def _checked_name(value: str, column: str, file: Path) -> str:
    try:
        ClientSettings(name=value)
    except ValidationError:
        raise PartitionError(
            f"{file}: value '{value}' of column '{column}' cannot name a client; expected at most 64 "
            "letters, digits, '.', '_' and '-', the first a letter or a digit"
        ) from None
    return value


def _first_component(rows: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Return the projection of rows on their first principal component: (n, features) to (n,).

    A missing value counts as the mean of its feature.
    """
    known = np.ma.masked_invalid(rows.astype(np.float64))
    centre, spread = known.mean(axis=0).filled(0), known.std(axis=0).filled(0)
    spread[spread == 0] = 1
    standard = np.nan_to_num((rows - centre) / spread)
    axis = np.linalg.eigh(standard.T @ standard)[1][:, -1]

    def project(others: NDArray[np.float32]) -> NDArray[np.float64]:
        projected: NDArray[np.float64] = np.nan_to_num((others - centre) / spread) @ axis
        return projected

    return project


def _check(whole: Partition, clients: int) -> None:
    if not 1 <= clients <= len(whole.rows):
        raise PartitionError(f"{len(whole.rows)} training rows cannot be divided among {clients} clients")


def _divide(
    whole: Partition, clients: int, owners_of: Callable[[NDArray[np.float32]], Owners]
) -> list[Partition]:
    _check(whole, clients)
    owners = _fill_empty(owners_of(whole.rows), clients)
    test_owners = owners_of(whole.test_rows)
    return [
        whole.take(f"{whole.name}-{i + 1}", np.flatnonzero(owners == i), np.flatnonzero(test_owners == i))
        for i in range(clients)
    ]


def _fill_empty(owners: Owners, clients: int) -> Owners:
    """Give each client without rows one row of the client with the most."""
    owners = owners.copy()
    for client in range(clients):
        if not (owners == client).any():
            richest = np.bincount(owners, minlength=clients).argmax()
            owners[np.flatnonzero(owners == richest)[-1]] = client
    return owners
