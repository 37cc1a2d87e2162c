from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.model.moments import Moments
from common.model.schema import Schema
from common.protocol.messages import Description
from common.settings import Settings
from server.federation.first_version import first_version, transfer_source
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


def test_versions_say_under_which_settings_they_are_scored() -> None:
    made = first_version(("cpu", "ram"), described(("cpu", "ram")), settings())
    assert made.settings.values["scoring"] == {
        "normalise": True, "decay": 0.8, "personal_epochs": 5, "prior": 1000,
    }  # fmt: skip
    assert (made.settings.scaling.by, made.residuals.count) == ("shared", 0)
