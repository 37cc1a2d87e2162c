"""Initial weights from a model of another fleet, whose features may have other names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.model.weights import Architecture, Weights


class TransferError(UserError):
    """A model cannot be used as a start; the message says what differs."""


def transfer_weights(
    source: Manifest, schema: Schema, architecture: Architecture, names: Mapping[str, str], seed: int
) -> Weights:
    """Return the source's weights for the features that both fleets have, and drawn weights for the others.

    Args:
        source: A version of another fleet.
        schema: This fleet's features.
        architecture: This fleet's model; apart from the features it must be the same as the source's.
        names: The source's name of a feature, by the name it has in this fleet, where the two differ.
        seed: Seed of the drawn weights.

    Raises:
        TransferError: the models differ in shape or have no feature in common, or `names` has a feature that
            one of the fleets does not have.
    """
    for what in ("window", "hidden", "activation", "output_activation"):
        ours, theirs = getattr(architecture, what), getattr(source.architecture, what)
        if ours != theirs:
            raise TransferError(f"its model has {what} {theirs}, this fleet's has {ours}")
    known = source.schema.features
    for ours, theirs in names.items():
        if ours not in schema.features:
            raise TransferError(f"this fleet has no feature '{ours}', which should start from its '{theirs}'")
        if theirs not in known:
            raise TransferError(f"it has no feature '{theirs}', from which '{ours}' should start")
    pairs = [
        (here, known.index(names.get(feature, feature)))
        for here, feature in enumerate(schema.features)
        if names.get(feature, feature) in known
    ]
    if not pairs:
        raise TransferError(f"none of its features {list(known)} is one of this fleet's")
    to, of = (_inputs([pair[side] for pair in pairs], shape) for side, shape in enumerate(
        (architecture, source.architecture)
    ))  # fmt: skip
    last = len(architecture.hidden)
    weights = architecture.initial_weights(seed)
    for name, array in source.weights.items():
        if name == "dense_0/kernel":
            weights[name][to] = array[of]
        elif name.startswith(f"dense_{last}/"):
            weights[name][..., to] = array[..., of]
        else:
            weights[name] = array
    return weights


def _inputs(features: list[int], architecture: Architecture) -> NDArray[np.int64]:
    """Return the positions of these features among the inputs, event by event."""
    rows = np.arange(architecture.window, dtype=np.int64)[:, None] * architecture.features
    positions: NDArray[np.int64] = (rows + np.array(features, np.int64)).ravel()
    return positions
