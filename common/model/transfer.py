"""First weights from a model that another fleet has trained, whose features may have other names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.model.architecture import Architecture
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.model.weights import Weights


class TransferError(UserError):
    """A model cannot be gone on from; the message says what differs."""


def transferred(
    source: Manifest, schema: Schema, architecture: Architecture, names: Mapping[str, str], seed: int
) -> Weights:
    """The source's weights for the features that both have, drawn ones for the others.

    Args:
        source: A version of another fleet.
        schema: This fleet's features.
        architecture: Its model: as the source's but for the features.
        names: What the source calls a feature of this fleet, where it has another name for it.
        seed: Of the weights that are drawn.

    Raises:
        TransferError: the models are of other shapes, or have no feature in common; or `names` has a feature
            that one of the fleets does not know.
    """
    for what in ("window", "hidden", "activation", "output_activation"):
        ours, theirs = getattr(architecture, what), getattr(source.architecture, what)
        if ours != theirs:
            raise TransferError(f"its model has {what} {theirs}, this fleet's has {ours}")
    known = source.schema.features
    for ours, theirs in names.items():
        if ours not in schema.features:
            raise TransferError(f"this fleet has no feature '{ours}', which is to be its '{theirs}'")
        if theirs not in known:
            raise TransferError(f"it has no feature '{theirs}', which is to be '{ours}'")
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
    weights = architecture.first_weights(seed)
    for name, array in source.weights.items():
        if name == "dense_0/kernel":
            weights[name][to] = array[of]
        elif name.startswith(f"dense_{last}/"):
            weights[name][..., to] = array[..., of]
        else:
            weights[name] = array
    return weights


def _inputs(features: list[int], architecture: Architecture) -> NDArray[np.int64]:
    """Where these features stand among the inputs, window after window."""
    rows = np.arange(architecture.window, dtype=np.int64)[:, None] * architecture.features
    found: NDArray[np.int64] = (rows + np.array(features, np.int64)).ravel()
    return found
