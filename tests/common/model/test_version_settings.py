from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.model.manifest import Manifest
from common.model.version_settings import VersionSettings
from common.settings import Settings

EARLIER = Path(__file__).parent / "files" / "version-60.safetensors"
"""A version file as release 0.1.0 wrote it, with `scoring.combine` among its settings."""


def test_settings_of_a_version_come_back_typed_from_their_plain_values() -> None:
    settings = VersionSettings.of(Settings().with_values(training={"epochs": 3}, model={"hidden": (4, 2)}))
    again = VersionSettings.parse(settings.values)
    assert again == settings
    assert (again.training.epochs, again.model.hidden) == (3, (4, 2))
    assert set(settings.values) == {"model", "training", "scaling", "scoring", "detector", "threshold"}


def test_a_version_without_a_decay_was_scored_with_equal_weights() -> None:
    assert VersionSettings.parse({}).scoring.decay == 1.0
    assert VersionSettings.parse({"scoring": {"prior": 5}}).scoring.decay == 1.0
    assert VersionSettings.parse(VersionSettings().values).scoring.decay == Settings().scoring.decay


def test_settings_that_no_longer_exist_are_skipped_and_stay_in_the_plain_values() -> None:
    settings = VersionSettings.parse({"scoring": {"combine": "weights", "prior": 5}})
    assert settings.scoring.prior == 5
    assert settings.values == {"scoring": {"combine": "weights", "prior": 5}}


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="novelty"):
        VersionSettings.parse({"scoring": {"novelty": 1}})


def test_a_version_file_of_an_earlier_release_is_read() -> None:
    manifest = Manifest.unpack(EARLIER.read_bytes())
    assert manifest.version == 60
    assert manifest.scores.count > 0
    assert Manifest.unpack(manifest.pack()).hash == manifest.hash
