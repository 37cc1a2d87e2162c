from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from common.config import ConfigError
from common.model.moments import Moments
from common.model.schema import Schema
from common.protocol.messages import Description
from common.settings import Settings
from server.federation.first_version import first_version, max_features, transfer_source
from server.launch import serve
from server.versions.transfer import TransferError

ROWS = np.random.default_rng(0).standard_normal((20, 2))


def described(features: tuple[str, ...]) -> list[Description]:
    return [Description("a", "instance", Schema(features), Moments.of(ROWS), inline=True)]


def settings(**federation: object) -> Settings:
    return Settings().with_values(model={"window": 2, "hidden": (3,)}, federation=federation)


def test_a_fleet_continues_from_the_model_of_another(tmp_path: Path) -> None:
    other = settings().with_values(training={"seed": 5})
    theirs = first_version(("cpu", "memory"), described(("cpu", "memory")), other)
    (tmp_path / "theirs.safetensors").write_bytes(theirs.pack())
    ours = settings(start_from=tmp_path / "theirs.safetensors", start_names={"ram": "memory"})
    made = first_version(("cpu", "ram"), described(("cpu", "ram")), ours)
    assert made.schema.features == ("cpu", "ram")
    assert all(np.array_equal(made.weights[n], theirs.weights[n]) for n in theirs.weights)
    drawn = first_version(("cpu", "ram"), described(("cpu", "ram")), settings())
    assert not np.array_equal(made.weights["dense_0/kernel"], drawn.weights["dense_0/kernel"])


def test_a_version_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "damaged.safetensors"
    with pytest.raises(TransferError, match=r"federation.start_from.*damaged.safetensors.*No such file"):
        transfer_source(settings(start_from=file))
    file.write_bytes(b"no version")
    with pytest.raises(TransferError, match=r"damaged.safetensors: "):
        transfer_source(settings(start_from=file))


def test_the_largest_number_of_features_follows_from_the_size_of_the_model() -> None:
    # A feature has 2 inputs, each with 3 weights to the hidden layer, 3 from it and a bias: 56 bytes.
    # The hidden layer has 3 biases: 12 bytes.
    assert max_features(settings(max_model_mb=1)) == (2**20 - 12) // 56
    assert max_features(settings(max_model_mb=100)) == 65_536, "a description has no more"
    assert max_features(Settings()) == 13_003
    assert max_features(Settings().with_values(federation={"max_model_mb": 400})) == 65_536


def test_declared_features_with_too_large_a_model_are_a_wrong_setting() -> None:
    names = tuple(f"f{i}" for i in range(20_000))
    declared = settings(max_model_mb=1).with_values(data={"features": names})
    with pytest.raises(
        ConfigError, match=r"20,000 of 'data.features' has 1\.1 MB.*federation.max_model_mb' \(1\)"
    ):
        max_features(declared)
    with pytest.raises(ConfigError, match=r"20,000 of 'data.features' has 1\.1 MB"):
        serve(declared, threading.Event())
    assert max_features(declared.with_values(federation={"max_model_mb": 2})) >= 20_000
    wide = settings(max_model_mb=1).with_values(model={"hidden": (600, 600)})
    with pytest.raises(ConfigError, match=r"the model of one feature has 1\.4 MB.*'model.hidden' smaller"):
        max_features(wide)


def test_versions_say_under_which_settings_they_are_scored() -> None:
    made = first_version(("cpu", "ram"), described(("cpu", "ram")), settings())
    assert made.settings.values["scoring"] == {
        "normalise": True, "decay": 0.8, "personal_epochs": 5, "prior": 1000,
    }  # fmt: skip
    assert (made.settings.scaling.by, made.residuals.count) == ("shared", 0)
