"""Flower's strategies with rebased differences: their input, their memory, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from msgspec import structs

from common.model.histogram import ScoreHistogram
from common.model.scoring import ErrorSummary
from common.model.weights import Architecture, Weights
from common.protocol.messages import Update
from common.settings import Settings, Strategy
from server.versions.aggregation import (
    Aggregator,
    EmptyAggregationError,
    WeightedUpdate,
    make_strategy,
)
from server.versions.rescaling import Rescaling

SUMMARY = ErrorSummary(count=5, mean=0.5, p50=0.25, p95=0.75, p99=0.875, max=1.0)
CURRENT = {"w": np.array([1.0, 2.0], np.float32)}


def part(difference: Sequence[float], rows: int = 1, factor: float = 1.0) -> WeightedUpdate:
    update = Update(
        client="a", version=0, rows=rows, error=SUMMARY, scores=ScoreHistogram.empty(), drifted=False,
        loss=0.1, train_s=1.0, difference={"w": np.array(difference, np.float32)},
    )  # fmt: skip
    request = Message(RecordDict(), 1, "train")
    request.metadata.__dict__["_message_id"] = "asked"
    return WeightedUpdate(update, factor, Message(RecordDict(), reply_to=request), update.rows)


def settings(strategy: str, **aggregation: Any) -> Settings:
    training = {"proximal_mu": 0.1} if strategy == "fedprox" else {}
    return Settings().with_values(
        federation={"strategy": strategy}, aggregation=aggregation, training=training
    )


def aggregator(strategy: str, **aggregation: Any) -> Aggregator:
    return Aggregator(make_strategy(settings(strategy, **aggregation)))


def test_differences_are_rebased_scaled_and_weighted_by_rows() -> None:
    made = aggregator("fedavg").aggregate(1, CURRENT, [part([4, 0], 1, 0.5), part([0, 8], 3)])
    np.testing.assert_allclose(made["w"], [1 + 0.25 * 2, 2 + 0.75 * 8])


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_every_strategy_moves_towards_updates_that_agree(strategy: str) -> None:
    made = aggregator(strategy).aggregate(1, CURRENT, [part([0.5, -0.5]) for _ in range(5)])
    assert made["w"].dtype == np.float32
    assert made["w"][0] > 1
    assert made["w"][1] < 2


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg", "krum", "multikrum"])
def test_robust_strategies_outvote_two_liars_of_eight(strategy: str) -> None:
    robust = aggregator(strategy, malicious=2, trim=0.25, select=3)
    honest = [part([0.1 + 0.001 * i, 0.1]) for i in range(6)]
    made = robust.aggregate(1, CURRENT, [*honest, part([-50, 70]), part([-50, 71])])
    np.testing.assert_allclose(made["w"], [1.1, 2.1], atol=0.01)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_adaptive_strategies_continue_after_a_restart_as_if_there_had_been_none(strategy: str) -> None:
    straight, first = aggregator(strategy), aggregator(strategy)
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((6, 2))
    weights = again = CURRENT
    for number in range(3):
        weights = straight.aggregate(number, weights, [part(steps[number])])
        again = first.aggregate(number, again, [part(steps[number])])
    resumed = aggregator(strategy)
    resumed.restore(first.memory())
    for number in range(3, 6):
        weights = straight.aggregate(number, weights, [part(steps[number])])
        again = resumed.aggregate(number, again, [part(steps[number])])
    np.testing.assert_array_equal(weights["w"], again["w"])
    forgetful = aggregator(strategy)
    assert not np.array_equal(forgetful.aggregate(6, weights, [part([1, 1])])["w"],
                              straight.aggregate(6, weights, [part([1, 1])])["w"])  # fmt: skip


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_a_strategy_that_had_no_memory_has_none_again(strategy: str) -> None:
    refused, fresh = aggregator(strategy), aggregator(strategy)
    before = refused.memory()
    refused.aggregate(1, CURRENT, [part([-5, 5])])
    refused.restore(before)
    again, expected = (a.aggregate(1, CURRENT, [part([1, 1])])["w"] for a in (refused, fresh))
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_a_memory_goes_to_a_new_scale_as_the_differences_do(strategy: str) -> None:
    change = Rescaling(np.array([0.5, 40.0]), np.zeros(2))
    shapes = Architecture(2, window=1, hidden=(3,)).shapes
    current = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    rng, before, after = np.random.default_rng(0), aggregator(strategy), aggregator(strategy)
    for number in range(4):
        difference = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        before.aggregate(number, current, [with_difference(part([]), difference)])
        difference = change.of_difference(difference, 1)
        after.aggregate(number, current, [with_difference(part([]), difference)])
    before.rescale(change, 1)
    assert before.memory().keys() == after.memory().keys()
    for name, array in before.memory().items():
        np.testing.assert_allclose(array, after.memory()[name], rtol=1e-4, atol=1e-6)


def with_difference(weighted: WeightedUpdate, difference: Weights) -> WeightedUpdate:
    return replace(weighted, update=structs.replace(weighted.update, difference=difference))


def test_most_strategies_remember_nothing() -> None:
    inner = aggregator("fedmedian")
    inner.aggregate(1, CURRENT, [part([1, 1])])
    assert inner.memory() == {}
    inner.restore({"m_t/w": np.ones(2)})  # of a run under another strategy
    assert inner.memory() == {}


def test_weights_that_are_not_finite_are_never_made() -> None:
    largest = float(np.finfo(np.float32).max)
    with pytest.raises(EmptyAggregationError, match="not finite"):
        aggregator("fedavg").aggregate(
            1,
            {"w": np.array([largest, 0], np.float32)},
            [part([largest, 0])],
        )


def test_a_strategy_that_cannot_aggregate_makes_nothing() -> None:
    broken = part([1, 1])
    failed = Message(Error(1, "x"), reply_to=Message(RecordDict(), 1, "train"))
    inner = make_strategy(settings("fedavg"))
    inner.aggregate_train = lambda *_: (None, None)  # type: ignore[method-assign]
    with pytest.raises(EmptyAggregationError, match="made nothing of 1 updates"):
        Aggregator(inner).aggregate(1, CURRENT, [broken])
    assert failed.has_error()
