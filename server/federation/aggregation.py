"""The arithmetic of a fold, left to one of Flower's strategies: which, how it is fed, what it remembers."""

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

REMEMBERED = ("m_t", "v_t")
"""Attributes in which FedAdam, FedYogi and FedAdagrad keep named arrays between folds."""


class EmptyAggregationError(RuntimeError):
    """The strategy made no version of the updates; says why."""


@dataclass(frozen=True)
class WeightedUpdate:
    """One update in a fold."""

    update: Update
    factor: float
    """By which its difference is scaled: the discount for staleness, and what the gate left of its norm."""
    message: Message
    """The reply that brought it."""


def make_strategy(settings: Settings) -> Strategy:
    """The Flower strategy that the settings name."""
    given = settings.aggregation
    adaptive: dict[str, Any] = {
        "eta": given.server_rate, "beta_1": given.beta_1, "beta_2": given.beta_2, "tau": given.tau,
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
            return FedTrimmedAvg(beta=given.trim)
        case "krum":
            return Krum(num_malicious_nodes=given.malicious)
        case "multikrum":
            return MultiKrum(num_malicious_nodes=given.malicious, num_nodes_to_select=given.select)


def aggregate(inner: Strategy, number: int, current: Weights, parts: Sequence[WeightedUpdate]) -> Weights:
    """The next version's weights: each difference rebased on the current ones, then aggregated by `inner`.

    Raises:
        NothingMade: the strategy refused, or what it made is not finite.
    """
    if hasattr(inner, "current_arrays"):
        # Flower's adaptive strategies set this in `configure_train`, which samples and waits.
        inner.current_arrays = dict(current)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            arrays, _ = inner.aggregate_train(number, [_as_flower_reply(part, current) for part in parts])
    except (AggregationError, InconsistentMessageReplies) as error:
        raise EmptyAggregationError(f"{type(inner).__name__}: {error}") from error
    if arrays is None:
        raise EmptyAggregationError(f"{type(inner).__name__} made nothing of {len(parts)} updates")
    weights = {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}
    if not is_finite(weights):
        raise EmptyAggregationError(f"{type(inner).__name__} made weights that are not finite")
    return weights


def strategy_memory(inner: Strategy) -> dict[str, NDArray[Any]]:
    """What a strategy must not forget in a restart, as named arrays; most remember nothing."""
    found: dict[str, NDArray[Any]] = {}
    for attribute in REMEMBERED:
        for name, array in (getattr(inner, attribute, None) or {}).items():
            found[f"{attribute}/{name}"] = array
    return found


def restore_memory(inner: Strategy, remembered: Mapping[str, NDArray[Any]]) -> None:
    """Give a strategy back what `memory` found."""
    for attribute in REMEMBERED:
        start = f"{attribute}/"
        arrays = {n.removeprefix(start): a for n, a in remembered.items() if n.startswith(start)}
        if arrays and hasattr(inner, attribute):
            setattr(inner, attribute, arrays)


def as_arrays(weights: Weights) -> ArrayRecord:
    """Weights as Flower carries them."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def _as_flower_reply(part: WeightedUpdate, current: Weights) -> Message:
    """The update in the form that Flower's strategies aggregate: whole arrays, and metrics with a weight."""
    update = part.update
    metrics = MetricRecord({"num-examples": update.rows, "error": update.error.mean, "loss": update.loss})
    moved = add(current, scale(update.difference, part.factor))
    part.message.content = RecordDict({"arrays": as_arrays(moved), "metrics": metrics})
    return part.message
