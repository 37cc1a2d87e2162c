"""Ways to divide one client's rows among many, for trials on one machine.

Every way gives disjoint parts that together are the whole, in time order within each part, and the same
parts for the same seed. Test rows are divided by the same rule as training rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from client.data.names import natural
from client.data.partition import Partition, read, read_column
from common.errors import UserError
from common.settings import ClientSettings, DataSettings

Owners = NDArray[np.intp]
"""Shape (n,): which client each row goes to, counted from 0."""

DIRICHLET_BINS = 10


class PartitionError(UserError):
    """Rows cannot be divided as asked."""


def contiguous(whole: Partition, clients: int) -> list[Partition]:
    """Equal runs of consecutive rows: the first client gets the oldest."""
    return _divide(whole, clients, lambda rows: np.arange(len(rows)) * clients // max(1, len(rows)))


def iid(whole: Partition, clients: int, seed: int, block: int = 1) -> list[Partition]:
    """Every block of consecutive rows to a client drawn at random, as many blocks to each.

    A model that sees windows of consecutive rows learns from this split only if most windows lie inside a
    block: choose `block` several times the window. With the default of 1 single rows are dealt out, and
    neighbours in a client were not neighbours in the file.

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
    """Unequal shares of what the rows look like; the smaller `alpha`, the more the clients differ.

    Rows of normal operation have no classes, so ten equally full bins along the training rows' first
    principal component (of standardised features) stand for them; each bin is divided among the clients by
    shares drawn from Dirichlet(alpha). Rows are dealt out singly, so neighbours in a client need not have
    been neighbours in the file. A client that would get no row is given one.

    Sources: skew by a Dirichlet distribution, Hsu, Qi and Brown 2019 (arXiv:1909.06335), there
    over each client's classes; drawn for each class over the clients as here, so that nothing is left over,
    Yurochkin et al. 2019 (arXiv:1905.12022).

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
    """One client for each value of a column, named by the value; the column itself is no feature.

    Raises:
        PartitionError: a client would have no training rows, or a value cannot name a client.
        DataError: the file cannot be read, or has no such column, or one with an empty cell.
    """
    values, test_values = read_column(file, column, settings)
    whole = read(file, settings.model_copy(update={"ignore": (*settings.ignore, column)}))
    parts = []
    for value in sorted({str(value) for value in (*values, *test_values)}, key=natural):
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
    """The projection on the direction in which standardised rows vary most: (n, features) to (n,)."""
    centre, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1
    standard = (rows - centre) / spread
    axis = np.linalg.eigh(standard.T @ standard)[1][:, -1]

    def project(others: NDArray[np.float32]) -> NDArray[np.float64]:
        projected: NDArray[np.float64] = (others - centre) / spread @ axis
        return projected

    return project


def _check(whole: Partition, clients: int) -> None:
    if not 1 <= clients <= len(whole.rows):
        raise PartitionError(f"{len(whole.rows)} training rows cannot be divided among {clients} clients")


def _divide(
    whole: Partition, clients: int, owners_of: Callable[[NDArray[np.float32]], Owners]
) -> list[Partition]:
    _check(whole, clients)
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
