"""Aggregates updates with one of Flower's strategies, and saves the strategy's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)
from numpy.typing import NDArray

from common.model.weights import Weights, add, is_finite, scale
from common.protocol.messages import Update
from common.settings import Settings
from server.versions.rescaling import Rescaling

MEMORY_ATTRIBUTES = ("m_t", "v_t")
"""Attributes in which FedAdam, FedYogi and FedAdagrad keep named arrays between aggregations.

They are the moving means of the differences, and of their squares.
"""


class EmptyAggregationError(RuntimeError):
    """No weights could be made of the updates; the message says why."""


@dataclass(frozen=True)
class WeightedUpdate:
    """One update in an aggregation."""

    update: Update
    factor: float
    """Factor for its difference: the staleness discount times the factor by which the norm gate clips it."""
    message: Message
    """The reply that carried it."""
    rows: int
    """Its weight in a mean over updates: the client's rows, bounded (`server.versions.influence`)."""


def make_strategy(settings: Settings) -> Strategy:
    """Return the Flower strategy that the settings name."""
    parameters = settings.aggregation
    adaptive: dict[str, Any] = {
        "eta": parameters.server_rate, "beta_1": parameters.beta_1, "beta_2": parameters.beta_2,
        "tau": parameters.tau,
    }  # fmt: skip
    match settings.federation.strategy:
        case "fedavg":
            return FedAvg()
        case "fedprox":
            return FedProx(proximal_mu=settings.training.proximal_mu)
        case "fedadam":
            return FedAdam(**adaptive)
        case "fedyogi":
            return FedYogi(**adaptive)
        case "fedmedian":
            return FedMedian()
        case "fedtrimmedavg":
            return FedTrimmedAvg(beta=parameters.trim)
        case "krum":
            return Krum(num_malicious_nodes=parameters.malicious)
        case "multikrum":
            return MultiKrum(num_malicious_nodes=parameters.malicious, num_nodes_to_select=parameters.select)


class Aggregator:
    """Feeds updates to a Flower strategy, whose `aggregate_train` does the arithmetic.

    Args:
        strategy: Any Flower strategy.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._name = type(strategy).__name__

    def aggregate(self, number: int, current: Weights, updates: Sequence[WeightedUpdate]) -> Weights:
        """Return the next version's weights: each difference is added to the current ones, then aggregated.

        Raises:
            EmptyAggregationError: the strategy refused, or its weights are not finite.
        """
        if hasattr(self._strategy, "current_arrays"):
            # Flower's adaptive strategies set this in `configure_train`, which samples and waits.
            self._strategy.current_arrays = dict(current)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                replies = [_as_flower_reply(update, current) for update in updates]
                arrays, _ = self._strategy.aggregate_train(number, replies)
        except (AggregationError, InconsistentMessageReplies) as error:
            raise EmptyAggregationError(f"{self._name}: {error}") from error
        if arrays is None:
            raise EmptyAggregationError(f"{self._name} made nothing of {len(updates)} updates")
        weights = {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}
        if not is_finite(weights):
            raise EmptyAggregationError(f"{self._name} made weights that are not finite")
        return weights

    def memory(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that the strategy needs after a restart, by name; often empty."""
        arrays: dict[str, NDArray[Any]] = {}
        for attribute in MEMORY_ATTRIBUTES:
            for name, array in (getattr(self._strategy, attribute, None) or {}).items():
                arrays[f"{attribute}/{name}"] = array
        return arrays

    def forget(self) -> None:
        """Remove the strategy's arrays of earlier aggregations."""
        for attribute in MEMORY_ATTRIBUTES:
            if hasattr(self._strategy, attribute):
                setattr(self._strategy, attribute, None)

    def restore(self, memory: Mapping[str, NDArray[Any]]) -> None:
        """Restore the arrays that `memory` returned, and remove those that are not among them."""
        for attribute in MEMORY_ATTRIBUTES:
            prefix = f"{attribute}/"
            arrays = {n.removeprefix(prefix): a for n, a in memory.items() if n.startswith(prefix)}
            if hasattr(self._strategy, attribute):
                setattr(self._strategy, attribute, arrays or None)

    def rescale(self, change: Rescaling, window: int) -> None:
        """Convert the strategy's means of differences and of their squares to the scale of new moments.

        Args:
            change: The change of the scaled features.
            window: Events in a window of the model.
        """
        for attribute, convert in (("m_t", change.of_difference), ("v_t", change.of_squares)):
            if arrays := getattr(self._strategy, attribute, None):
                setattr(self._strategy, attribute, convert(arrays, window))


def as_arrays(weights: Weights) -> ArrayRecord:
    """Return weights as Flower carries them."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def _as_flower_reply(weighted: WeightedUpdate, current: Weights) -> Message:
    """Return the update in the form that Flower aggregates: whole arrays, and metrics with a weight."""
    update = weighted.update
    metrics = MetricRecord({"num-examples": weighted.rows, "error": update.error.mean, "loss": update.loss})
    trained = add(current, scale(update.difference, weighted.factor))
    weighted.message.content = RecordDict({"arrays": as_arrays(trained), "metrics": metrics})
    return weighted.message
