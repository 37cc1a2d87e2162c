"""The fleet's moments are renewed as clients come, go and change, while its model stays the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from common.model.lag_covariances import SentCovariances
from common.model.moments import Moments, Scaler
from common.model.scoring import reconstruct
from common.model.weights import Weights, add
from common.protocol.messages import Description
from common.settings import Settings
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish, UpdateShare
from server.coordination.events import Aggregated
from server.versions.aggregation import Aggregator, WeightedUpdate, make_strategy
from tests.server.descriptions import description
from tests.server.federation.test_publisher import FEATURES, NAMES, Desk

ROWS = np.random.default_rng(0).normal(size=(300, len(FEATURES))) * [1.0, 5.0] + 3


def with_moments(name: str, rows: np.ndarray = ROWS) -> Description:
    return structs.replace(description(name, "i", FEATURES), moments=Moments.of(rows), rows=len(rows))


FLEET = [with_moments(name) for name in NAMES]
WIDE = [with_moments(name, ROWS * [4.0, 1.0]) for name in NAMES]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path, compression={"down": "int8"}, detector={"family": "ensemble"})
    opened.publisher.create_first(CreateFirstVersion(0, FEATURES, (1,), {}), WIDE)
    with closing(opened.history):
        yield opened


def next_version(desk: Desk, number: int, described: list[Description], size: float = 0.01) -> Aggregated:
    share = desk.update("a", number, size)
    event = desk.publisher.aggregate(Aggregate((share,), ()), set(NAMES), described)
    assert isinstance(event, Aggregated)
    desk.publisher.publish(Publish(number, {}))
    return event


def reconstructed(desk: Desk) -> np.ndarray:
    """Return the newest version's reconstruction of the rows, in the unit of each feature."""
    manifest = desk.publisher.newest
    assert manifest is not None
    scaler = Scaler.chosen(manifest.settings.scaling, manifest.moments, Moments.of(ROWS))
    made = reconstruct(manifest.architecture, manifest.weights, scaler.apply(ROWS.astype(np.float32)))
    return made * scaler.std + scaler.mean


def test_new_moments_come_with_a_version_whose_model_is_the_same(desk: Desk) -> None:
    before = reconstructed(desk)
    next_version(desk, 1, FLEET, size=0.0)
    newest = desk.publisher.newest
    assert newest is not None
    np.testing.assert_allclose(
        np.sqrt(newest.moments.within / newest.moments.count), ROWS.std(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(reconstructed(desk), before, rtol=1e-4)
    saved = desk.registry.latest()
    assert saved is not None
    assert saved[0].hash == newest.hash
    assert "version 1 scales by" in str(desk.history.last_note())


class FirstUpdateWithMemory(Aggregator):
    """Aggregates updates to the first of them, and keeps a memory as FedAdam does."""

    def aggregate(self, number: int, current: Weights, updates: Sequence[WeightedUpdate]) -> Weights:
        return add(current, updates[0].update.difference)


def test_the_memory_of_the_strategy_goes_to_the_new_scale_before_it_is_written(desk: Desk) -> None:
    strategy = make_strategy(Settings().with_values(federation={"strategy": "fedadam"}))
    desk.aggregator = FirstUpdateWithMemory(strategy)  # type: ignore[assignment]
    desk.publisher = desk.opened()
    desk.publisher.resume()
    assert desk.publisher.newest is not None
    before = {name: np.ones(shape) for name, shape in desk.publisher.newest.architecture.shapes.items()}
    desk.aggregator.restore({f"m_t/{name}": array for name, array in before.items()})
    next_version(desk, 1, WIDE)
    np.testing.assert_array_equal(desk.registry.memory(1)["m_t/dense_0/kernel"], before["dense_0/kernel"])
    next_version(desk, 2, FLEET)
    result = desk.registry.memory(2)["m_t/dense_0/kernel"]
    np.testing.assert_allclose(result, before["dense_0/kernel"] / [[4.0], [1.0]], rtol=1e-3)


def test_the_same_clients_keep_the_version_in_the_chain(desk: Desk) -> None:
    first = desk.publisher.newest
    assert first is not None
    next_version(desk, 1, WIDE)
    newest = desk.publisher.newest
    assert newest is not None
    assert newest.moments is first.moments
    assert len(desk.registry.steps()) == 1
    next_version(desk, 2, FLEET)
    assert len(desk.registry.steps()) == 1  # there is no step to the second version: it is sent whole


def test_few_of_the_clients_do_not_renew_the_moments_of_all(desk: Desk) -> None:
    next_version(desk, 1, FLEET[:2])
    assert desk.publisher.newest is not None
    assert desk.publisher.newest.moments.std[0] == pytest.approx(WIDE[0].moments.std[0])  # type: ignore[union-attr]
    next_version(desk, 2, FLEET[:3])
    assert desk.publisher.newest.moments.std[0] == pytest.approx(FLEET[0].moments.std[0])  # type: ignore[union-attr]


def test_errors_in_a_new_unit_count_as_the_first_ones(desk: Desk) -> None:
    assert [next_version(desk, i, FLEET).drifted for i in (1, 2, 3)] == [False, True, False]


def test_an_update_of_the_version_before_is_brought_to_the_new_scale(desk: Desk) -> None:
    late = desk.update("b", 9, 0.02, version=0)
    next_version(desk, 1, FLEET, size=0.0)
    before = desk.publisher.newest
    assert before is not None
    desk.publisher.aggregate(Aggregate((UpdateShare(late.number, 1, 1, 1.0),), ()), set(NAMES), FLEET)
    desk.publisher.publish(Publish(2, {}))
    newest = desk.publisher.newest
    step = newest.weights["dense_0/kernel"] - before.weights["dense_0/kernel"]
    np.testing.assert_allclose(step[0], 0.02 / 4, rtol=0.1)  # int8
    np.testing.assert_allclose(step[1], 0.02, rtol=0.1)


def next_with_covariances(desk: Desk, number: int, client: str, count: int) -> int:
    """Publish a version of an update with covariances; return the windows behind the version's."""
    sent = SentCovariances(count, np.array([1.0, 4.0]), bytes([127, 64, 64, 127]))
    share = desk.update(client, number, 0.01, covariances=sent)
    desk.publisher.aggregate(Aggregate((share,), ()), set(NAMES), WIDE)
    desk.publisher.publish(Publish(number, {}))
    newest = desk.publisher.newest
    assert newest is not None and newest.covariances is not None
    between = 2 * 64 / 127
    np.testing.assert_allclose(newest.covariances.values[0], [[1, between], [between, 4]], rtol=1e-5)
    return newest.covariances.count


def test_covariances_come_with_a_version_that_is_sent_whole(desk: Desk) -> None:
    assert next_with_covariances(desk, 1, "a", 100) == 100
    assert len(desk.registry.steps()) == 0
    next_version(desk, 2, WIDE)
    assert len(desk.registry.steps()) == 1
    saved = desk.registry.latest()
    assert saved is not None and saved[0].covariances is not None
    assert saved[0].covariances.count == 100


def test_covariances_are_replaced_when_they_are_of_a_quarter_more_windows(desk: Desk) -> None:
    assert next_with_covariances(desk, 1, "a", 100) == 100
    assert next_with_covariances(desk, 2, "b", 20) == 100
    assert next_with_covariances(desk, 3, "c", 30) == 140  # of three clients, one counts as 90 at most
