"""Ways to divide one client's rows among many, for trials on one machine.

Every way gives disjoint parts that together are the whole, in time order within each part, and the same
parts for the same seed. Test rows are divided by the same rule as training rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data import DataError, Partition, read, read_column
from common.config import DataSettings

Owners = NDArray[np.intp]
"""Shape (n,): which client each row goes to, counted from 0."""

DIRICHLET_BINS = 10


class PartitionError(ValueError):
    """Rows cannot be divided as asked."""


def contiguous(whole: Partition, clients: int) -> list[Partition]:
    """Equal runs of consecutive rows: the first client gets the oldest."""
    return _divide(whole, clients, lambda rows: np.arange(len(rows)) * clients // max(1, len(rows)))


def iid(whole: Partition, clients: int, seed: int) -> list[Partition]:
    """Every row to a client drawn at random, as many to each."""
    rng = np.random.default_rng(seed)
    return _divide(whole, clients, lambda rows: rng.permutation(len(rows)) % clients)


def dirichlet(whole: Partition, clients: int, alpha: float, seed: int) -> list[Partition]:
    """Unequal shares of what the rows look like; the smaller `alpha`, the more the clients differ.

    Rows of normal operation have no classes, so ten equal bins along the rows' first principal component
    stand for them; each bin is divided by shares drawn from Dirichlet(alpha).
    Source: Hsu, Qi and Brown 2019, section 3.
    """
    if alpha <= 0:
        raise PartitionError(f"alpha is {alpha}; expected more than 0")
    rng = np.random.default_rng(seed)
    centre, spread = whole.rows.mean(axis=0), whole.rows.std(axis=0)
    spread[spread == 0] = 1
    axis = np.linalg.svd((whole.rows - centre) / spread, full_matrices=False)[2][0]
    edges = np.quantile((whole.rows - centre) / spread @ axis, np.linspace(0, 1, DIRICHLET_BINS + 1)[1:-1])
    shares = rng.dirichlet([alpha] * clients, DIRICHLET_BINS).cumsum(axis=1)

    def owners(rows: NDArray[np.float32]) -> Owners:
        bins = np.searchsorted(edges, (rows - centre) / spread @ axis)
        drawn = rng.random(len(rows))
        chosen: Owners = (drawn[:, None] >= shares[bins]).sum(axis=1).clip(max=clients - 1)
        return chosen

    return _divide(whole, clients, owners)


def by_column(file: Path, column: str, settings: DataSettings) -> list[Partition]:
    """One client for each value of a column, named by the value.

    Raises:
        PartitionError: a client would have no training rows.
        DataError: the file cannot be read or has no such column.
    """
    ignoring = settings.model_copy(update={"ignore": (*settings.ignore, column)})
    whole = read(file, ignoring)
    values = np.array(read_column(file, column))
    split = settings.split
    try:
        testing = np.array(read_column(file, split), float) == 1
    except DataError:
        testing = np.zeros(len(values), bool)
    parts = []
    for value in sorted(set(values)):
        rows, test_rows = (np.flatnonzero(values[side] == value) for side in (~testing, testing))
        if not len(rows):
            raise PartitionError(f"{file}: client '{value}' of column '{column}' has no training rows")
        parts.append(whole.take(str(value), rows, test_rows))
    return parts


def _divide(
    whole: Partition, clients: int, owners_of: Callable[[NDArray[np.float32]], Owners]
) -> list[Partition]:
    if not 1 <= clients <= len(whole.rows):
        raise PartitionError(f"{len(whole.rows)} training rows cannot be divided among {clients} clients")
    owners = _nobody_empty(owners_of(whole.rows), clients)
    test_owners = owners_of(whole.test_rows)
    return [
        whole.take(f"{whole.name}-{i + 1}", np.flatnonzero(owners == i), np.flatnonzero(test_owners == i))
        for i in range(clients)
    ]


def _nobody_empty(owners: Owners, clients: int) -> Owners:
    """Give each client without rows one row of the client with the most."""
    owners = owners.copy()
    for client in range(clients):
        if not (owners == client).any():
            richest = np.bincount(owners, minlength=clients).argmax()
            owners[np.flatnonzero(owners == richest)[-1]] = client
    return owners
