"""The checks of a version hold no honest fleet up for good; one Byzantine client of two does not blind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.protocol.messages import Description
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish
from server.coordination.events import Aggregated, AggregationFailed
from server.federation.selection import MAX_HELD_BACK
from tests.server.federation.test_publisher import FEATURES, Desk
from tests.server.federation.test_renewal import ROWS, with_moments

FLEETS = ("a", "ab", "abc")
WORSE = 100.0
"""How many times larger scores of the newest version are than those it was published with."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    with closing(opened.history):
        yield opened


def usual(seed: int, scale: float = 1.0) -> NDArray[np.float64]:
    return scale * np.random.default_rng(seed).gamma(8, 1 / 8, 200)


def newest(desk: Desk) -> Manifest:
    assert desk.publisher.newest is not None
    return desk.publisher.newest


def aggregated(
    desk: Desk,
    names: str,
    scale: float = 1.0,
    measured: int | None = None,
    size: float = 0.01,
    fleet: str = "",
    described: Sequence[Description] = (),
) -> Aggregated | AggregationFailed:
    """Aggregate an update of each client, and publish the version.

    Args:
        desk: The publisher.
        names: The clients.
        scale: Factor for their scores.
        measured: The version that the scores are of; None: the newest.
        size: Of each value of their differences.
        fleet: The connected clients; empty: the same.
        described: Their descriptions.
    """
    version = newest(desk).version if measured is None else measured
    shares = tuple(
        desk.update(name, 100 * newest(desk).version + i, size, version=version, scores=usual(i, scale))
        for i, name in enumerate(names, 1)
    )
    event = desk.publisher.aggregate(Aggregate(shares, ()), set(fleet or names), described)
    if isinstance(event, Aggregated):
        desk.publisher.publish(Publish(newest(desk).version + 1, {}))
    return event


@pytest.mark.parametrize("fleet", FLEETS)
def test_a_newest_version_that_is_worse_than_it_seemed_is_compared_as_the_clients_measured_it(
    desk: Desk, fleet: str
) -> None:
    """Its scores were of the version before it, which was better: beside these any further one is blind."""
    aggregated(desk, fleet)
    event = aggregated(desk, fleet, WORSE)
    assert event == Aggregated(0.5, len(fleet))
    assert newest(desk).version == 2
    assert newest(desk).scores.quantile(0.5) > WORSE / 2


@pytest.mark.parametrize("fleet", FLEETS)
def test_clients_that_measure_only_earlier_versions_are_held_back_for_a_while(desk: Desk, fleet: str) -> None:
    aggregated(desk, fleet)
    for _ in range(MAX_HELD_BACK):
        assert isinstance(aggregated(desk, fleet, WORSE, measured=0), AggregationFailed)
    assert aggregated(desk, fleet, WORSE, measured=0) == Aggregated(0.5, len(fleet))
    # It is compared again with the version that follows.
    assert isinstance(aggregated(desk, fleet, WORSE**2, measured=0), AggregationFailed)


def test_of_two_clients_one_that_answers_alone_does_not_blind_the_fleet(desk: Desk) -> None:
    aggregated(desk, "ab")
    events = [aggregated(desk, "b", WORSE, fleet="ab") for _ in range(MAX_HELD_BACK + 1)]
    assert [isinstance(event, Aggregated) for event in events] == [False] * MAX_HELD_BACK + [True]
    assert newest(desk).scores.quantile(1.0) < WORSE / 10


def test_a_version_without_the_scores_of_a_client_has_its_moments(desk: Desk) -> None:
    described = [with_moments("a"), with_moments("b", ROWS * [4.0, 1.0])]
    desk.publisher.create_first(CreateFirstVersion(0, FEATURES, (1, 2), {}), described)
    before = newest(desk).moments
    aggregated(desk, "ab", fleet="ab", described=described)
    for _ in range(MAX_HELD_BACK + 1):
        event = aggregated(desk, "b", WORSE, fleet="ab", described=described)
    assert isinstance(event, Aggregated)
    assert newest(desk).moments.count == before.count == 2 * len(ROWS)
    np.testing.assert_array_equal(newest(desk).moments.within, before.within)


def test_of_two_clients_one_that_blinds_the_version_is_left_out(desk: Desk) -> None:
    aggregated(desk, "ab")
    desk.update("b", 99, 0.01, version=1, scores=usual(2, WORSE))
    assert aggregated(desk, "a", fleet="ab") == Aggregated(0.5, 1, at_fault=("b",))


@pytest.mark.parametrize("action", ["clip", "refuse"])
@pytest.mark.parametrize("fleet", FLEETS)
def test_updates_that_grow_in_all_of_a_fleet_are_used(tmp_path: Path, fleet: str, action: str) -> None:
    desk = Desk(tmp_path, gate={"norm_action": action})
    with closing(desk.history):
        for size in (0.001, 0.001, 0.1, 0.1):
            assert aggregated(desk, fleet, size=size) == Aggregated(0.5, len(fleet))
        assert [desk.records[name].clipped for name in fleet] == [0] * len(fleet)


@pytest.mark.parametrize("rest", FLEETS)
def test_clients_that_are_gone_do_not_decide_which_norms_are_usual(tmp_path: Path, rest: str) -> None:
    desk = Desk(tmp_path, gate={"norm_action": "refuse"})
    with closing(desk.history):
        aggregated(desk, "abcde", size=0.001)
        assert aggregated(desk, rest, size=0.1) == Aggregated(0.5, len(rest))
        clipped = rest == "a"  # it has nobody to be compared with but the earlier updates
        assert desk.records["a"].clipped == clipped
