"""Leaf counts become part of the next version, which is sent whole, until the fleet's scale changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.model.manifest import Manifest
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish
from server.coordination.events import Aggregated
from tests.common.protocol.sample_messages import LEAF_COUNTS
from tests.server.federation.test_publisher import FEATURES, NAMES, Desk
from tests.server.federation.test_renewal import FLEET, WIDE, next_version


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path, compression={"down": "int8"}, detector={"family": "isolation_forest"})
    opened.publisher.create_first(CreateFirstVersion(0, FEATURES, (1,), {}), WIDE)
    with closing(opened.history):
        yield opened


def with_counts(desk: Desk, number: int, client: str) -> Manifest:
    share = desk.update(client, number, 0.01, leaf_counts=LEAF_COUNTS)
    assert isinstance(desk.publisher.aggregate(Aggregate((share,), ()), set(NAMES), WIDE), Aggregated)
    desk.publisher.publish(Publish(number, {}))
    assert desk.publisher.newest is not None
    return desk.publisher.newest


def test_counts_come_with_a_version_that_is_sent_whole(desk: Desk) -> None:
    made = with_counts(desk, 1, "a")
    assert made.leaf_counts is not None and made.leaf_counts.count == LEAF_COUNTS.count
    assert len(desk.registry.steps()) == 0
    next_version(desk, 2, WIDE)
    assert len(desk.registry.steps()) == 1
    saved = desk.registry.latest()
    assert saved is not None and saved[0].leaf_counts is not None
    assert saved[0].leaf_counts.values.tolist() == LEAF_COUNTS.values().tolist()


def test_counts_of_another_client_add_to_them(desk: Desk) -> None:
    with_counts(desk, 1, "a")
    made = with_counts(desk, 2, "b")
    assert made.leaf_counts is not None
    assert made.leaf_counts.values.tolist() == (2 * LEAF_COUNTS.values()).tolist()


def test_a_version_of_a_new_scale_has_none_until_clients_send_new_ones(desk: Desk) -> None:
    with_counts(desk, 1, "a")
    next_version(desk, 2, FLEET)
    assert desk.publisher.newest is not None and desk.publisher.newest.leaf_counts is None
    assert desk.records.leaf_counts.lacks("a", 10)
