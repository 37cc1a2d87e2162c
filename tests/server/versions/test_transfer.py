from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.scoring import reconstruct
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from server.versions.transfer import TransferError, transfer_weights

THEIRS = Architecture(3, window=2, hidden=(4, 2, 4))


def source(features: tuple[str, ...] = ("cpu", "memory", "disk")) -> Manifest:
    moments = Moments.of(np.random.default_rng(0).standard_normal((9, 3)))
    return Manifest(5, Schema(features), THEIRS, THEIRS.initial_weights(7), moments, VersionSettings())


def test_the_same_features_in_another_order_and_by_other_names_are_the_same_function() -> None:
    schema = Schema(("ram", "disk", "cpu"))
    weights = transfer_weights(source(), schema, THEIRS, {"ram": "memory"}, seed=1)
    rows = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
    here = reconstruct(THEIRS, weights, rows[:, :, [1, 2, 0]].reshape(5, 6)).reshape(5, 2, 3)
    there = reconstruct(THEIRS, source().weights, rows.reshape(5, 6)).reshape(5, 2, 3)
    np.testing.assert_allclose(here, there[:, :, [1, 2, 0]], rtol=1e-5)


def test_weights_of_a_feature_that_the_other_fleet_lacks_are_drawn() -> None:
    shape = Architecture(2, window=2, hidden=(4, 2, 4))
    weights = transfer_weights(source(), Schema(("fan", "cpu")), shape, {}, seed=1)
    drawn, theirs = shape.initial_weights(1), source().weights
    assert {n: a.shape for n, a in weights.items()} == shape.shapes
    np.testing.assert_array_equal(weights["dense_0/kernel"][[0, 2]], drawn["dense_0/kernel"][[0, 2]])
    np.testing.assert_array_equal(weights["dense_0/kernel"][[1, 3]], theirs["dense_0/kernel"][[0, 3]])
    np.testing.assert_array_equal(weights["dense_3/kernel"][:, [1, 3]], theirs["dense_3/kernel"][:, [0, 3]])
    np.testing.assert_array_equal(weights["dense_1/kernel"], theirs["dense_1/kernel"])


@pytest.mark.parametrize(
    ("features", "changes", "names", "message"),
    [
        (("cpu",), {"window": 3}, {}, "has window 2, this fleet's has 3"),
        (("cpu",), {"hidden": (4, 4)}, {}, r"has hidden \(4, 2, 4\), this fleet's has \(4, 4\)"),
        (("cpu",), {"activation": "tanh"}, {}, "has activation relu, this fleet's has tanh"),
        (("fan", "gpu"), {}, {}, "none of its features"),
        (("cpu", "fan"), {}, {"fan": "blower"}, "it has no feature 'blower', from which 'fan' should start"),
        (
            ("cpu",),
            {},
            {"fan": "disk"},
            "this fleet has no feature 'fan', which should start from its 'disk'",
        ),
    ],
)
def test_a_model_that_cannot_be_a_start_is_named(
    features: tuple[str, ...], changes: dict[str, Any], names: dict[str, str], message: str
) -> None:
    shape = Architecture(**{"features": len(features), "window": 2, "hidden": (4, 2, 4), **changes})
    with pytest.raises(TransferError, match=message):
        transfer_weights(source(), Schema(features), shape, names, seed=1)
