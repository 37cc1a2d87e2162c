"""The settings that travel with a model version: how it was trained, and how it is to be scored."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from typing import Any, Self

from pydantic import PrivateAttr

from common.settings import (
    REMOVED_SETTINGS,
    DetectorSettings,
    ModelSettings,
    ScalingSettings,
    ScoringSettings,
    Section,
    Settings,
    ThresholdSettings,
    TrainingSettings,
)


class VersionSettings(Section):
    """The sections of the settings that a version carries, typed.

    >>> VersionSettings.parse({"training": {"epochs": 3}}).training.epochs
    3
    """

    detector: DetectorSettings = DetectorSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    scaling: ScalingSettings = ScalingSettings()
    scoring: ScoringSettings = ScoringSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    _values: dict[str, Any] = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Keep the plain values of settings that were not read from a version file."""
        self._values = self.model_dump(mode="json")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Select the sections that a version carries from all settings."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Read the settings of a version file.

        Settings that no longer exist are skipped, so that older versions can be read.

        Raises:
            ValidationError: a section or a value is not valid.
        """
        sections = {name: _present(name, section) for name, section in values.items()}
        if isinstance(scoring := sections.setdefault("scoring", {}), dict):
            # Versions without a decay were scored with equal weights, and so were the scores in them.
            scoring.setdefault("decay", 1.0)
        parsed = cls.model_validate(sections)
        parsed._values = values
        return parsed

    @cached_property
    def values(self) -> dict[str, Any]:
        """The plain values as they stand in the version file; the version's hash covers them."""
        return self._values


@lru_cache(maxsize=16)
def parse_json(text: str) -> VersionSettings:
    """Read the settings of a version file from JSON. Versions of one fleet share them, so they are kept.

    Raises:
        ValidationError: as `VersionSettings.parse`.
    """
    return VersionSettings.parse(json.loads(text))


def _present(section: str, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if f"{section}.{name}" not in REMOVED_SETTINGS}
