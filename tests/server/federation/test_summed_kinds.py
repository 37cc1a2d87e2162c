"""One law for everything that is summed over clients.

Merging is associative and commutative, merging parts gives what the whole gives, and a client's share is
capped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from numpy.typing import NDArray

from common.model.histogram import ScoreHistogram
from common.model.moments import Moments
from common.model.residuals import Residuals
from server.versions.influence import MAX_MASS, merged_moments, merged_residuals, merged_scores

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A kind of statistic that clients send and the server sums."""

    of: Callable[[Rows], Any]
    """Makes it from a client's rows, shape (n, 2)."""
    merge: Callable[[Sequence[Any]], Any]
    """Sums it without bounds."""
    bounded: Callable[[Sequence[Any]], Any]
    """Sums it as the server does."""
    repeated: Callable[[Any, int], Any]
    """Returns it with its number of rows multiplied by a factor."""
    values: Callable[[Any], Rows]
    """The numbers that have to be equal."""


def named(parts: Sequence[Any]) -> dict[str, Any]:
    return {f"c{i}": part for i, part in enumerate(parts)}


KINDS = {
    "moments": Kind(
        Moments.of, Moments.merge_all, merged_moments,
        lambda m, n: structs.replace(m, count=n * m.count, m2=n * m.m2, within=n * m.within),
        lambda m: np.concatenate([[m.count], m.mean, m.variance, m.minimum, m.maximum]),
    ),
    "residuals": Kind(
        lambda rows: Residuals.of(np.square(rows)), Residuals.merge_all,
        lambda parts: merged_residuals(named(parts), Residuals()),
        lambda r, n: Residuals(n * r.count, n * r.squares),
        lambda r: np.concatenate([[r.count], r.squares]),
    ),
    "scores": Kind(
        lambda rows: ScoreHistogram.of(np.square(rows).mean(axis=1)), ScoreHistogram.merge_all,
        lambda parts: merged_scores(named(parts), ScoreHistogram.empty()),
        lambda h, n: ScoreHistogram(h.buckets, n * h.counts),
        lambda h: np.concatenate([[h.count], h.buckets, h.counts]),
    ),
}  # fmt: skip

SIZES = st.lists(st.integers(1, 40), min_size=3, max_size=6)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(deadline=None, max_examples=25)
@given(SIZES, st.integers(0, 99), st.randoms())
def test_parts_in_any_order_and_grouping_are_the_whole(
    kind: Kind, sizes: list[int], seed: int, random: Any
) -> None:
    rows = np.random.default_rng(seed).normal((3, 0), size=(sum(sizes), 2))
    parts = [kind.of(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    whole = kind.values(kind.of(rows))
    random.shuffle(parts)
    cut = random.randrange(1, len(parts))
    grouped = kind.merge([kind.merge(parts[:cut]), kind.merge(parts[cut:])])
    for merged in (kind.merge(parts), kind.merge(parts[::-1]), grouped):
        np.testing.assert_allclose(kind.values(merged), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("clients", [2, 3, 7, 12])
def test_the_share_of_one_client_is_capped(kind: Kind, clients: int) -> None:
    rows = np.random.default_rng(0).normal((3, 0), size=(clients, 200, 2))
    parts = [kind.of(part) for part in rows]
    honest, heavy = kind.bounded(parts), kind.bounded([*parts[:-1], kind.repeated(parts[-1], 10**9)])
    each = 200
    assert kind.values(honest)[0] == clients * each
    assert kind.values(heavy)[0] == (clients - 1 + MAX_MASS) * each


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_order_of_clients_does_not_matter(kind: Kind) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 200, 2)) * np.arange(1, 6)[:, None, None]
    parts = [kind.of(part) for part in rows]
    np.testing.assert_allclose(
        kind.values(kind.bounded(parts)), kind.values(kind.bounded(parts[::-1])), rtol=1e-9
    )
