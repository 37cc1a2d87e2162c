"""A change of a model's scaler, combined with a change of its weights, so that its function stays the same.

A client scales a row to `x = (row - mean) / std`. With other means and spreads the same row becomes `ratio *
x + shift`, where `ratio` is the old spread over the new one. The new first layer inverts this, and the new
last layer applies it, so reconstruction and error stay the same in each feature's own unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.weights import Weights
from common.settings import ScalingSettings

MAX_RATIO = 1.25
"""Largest ratio of a feature's new spread to the old one, or the inverse, that needs no new scaler."""

MAX_SHIFT = 0.25
"""Largest distance of a feature's new mean from the old one, in new spreads, that needs none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """The change of scaled features from an old scaler to a new one: `x` becomes `ratio * x + shift`."""

    ratio: Floats
    """Shape (features,), positive."""
    shift: Floats
    """Shape (features,); 0 where each client scales by its own mean."""

    @classmethod
    def between(cls, settings: ScalingSettings, old: Moments, new: Moments) -> Self:
        """Return the change of a client's scaled rows when the fleet's moments change.

        If clients scale by their own moments or not at all, nothing changes.

        Args:
            settings: Whose moments clients scale by.
            old: The fleet's moments so far.
            new: The fleet's moments from now on.
        """
        features = len(old.mean)
        if settings.by in ("none", "client"):
            return cls(np.ones(features), np.zeros(features))
        before, after = (Scaler.chosen(settings, moments, moments) for moments in (old, new))
        ratio = before.std.astype(np.float64) / after.std
        if settings.by == "shared":
            return cls(ratio, np.zeros(features))
        return cls(ratio, np.nan_to_num((before.mean.astype(np.float64) - after.mean) / after.std))

    @property
    def matters(self) -> bool:
        """Whether the change exceeds what a scaler in use tolerates (`MAX_RATIO`, `MAX_SHIFT`)."""
        far = np.abs(np.log(self.ratio)) > np.log(MAX_RATIO)
        return bool((far | (np.abs(self.shift) > MAX_SHIFT)).any())

    def of_weights(self, weights: Weights, window: int) -> Weights:
        """Return the weights with which the autoencoder computes the same function for the new scaler.

        Args:
            weights: The autoencoder's weights for the old scaler.
            window: Events in a window.
        """
        return self._folded(weights, np.tile(self.ratio, window), np.tile(self.shift, window))

    def of_difference(self, difference: Weights, window: int) -> Weights:
        """Return the same change for a difference of two sets of weights, such as an update.

        Args:
            difference: The difference of two sets of weights for the old scaler.
            window: Events in a window.
        """
        ratio, shift = np.tile(self.ratio, window), np.tile(self.shift, window)
        # The part of the change that does not depend on the weights cancels in a difference.
        constant = self._folded({n: np.zeros_like(a) for n, a in difference.items()}, ratio, shift)
        folded = self._folded(difference, ratio, shift)
        return {name: array - constant[name] for name, array in folded.items()}

    def of_squares(self, squares: Weights, window: int) -> Weights:
        """Return the same change for mean squares of differences, as an adaptive server optimizer keeps them.

        The differences of the inputs of the first layer are taken as independent of each other.

        Args:
            squares: Mean squares of differences of two sets of weights for the old scaler.
            window: Events in a window.
        """
        squared = Rescaling(np.square(self.ratio), -np.square(self.shift))
        return squared.of_difference(squares, window)

    def of_residuals(self, residuals: Residuals, window: int) -> Residuals:
        """Return squared errors in new units."""
        if not residuals.count:
            return residuals
        squares = residuals.squares * np.tile(np.square(self.ratio), window)
        return Residuals(residuals.count, squares, residuals.present)

    def _folded(self, weights: Weights, ratio: Floats, shift: Floats) -> Weights:
        last = sum(name.endswith("/kernel") for name in weights) - 1
        folded: dict[str, Floats | NDArray[np.float32]] = dict(weights)
        kernel = weights["dense_0/kernel"] / ratio[:, None]
        folded["dense_0/kernel"] = kernel
        folded["dense_0/bias"] = weights["dense_0/bias"] - shift @ kernel
        folded[f"dense_{last}/kernel"] = folded[f"dense_{last}/kernel"] * ratio
        folded[f"dense_{last}/bias"] = folded[f"dense_{last}/bias"] * ratio + shift
        return {name: np.asarray(array, np.float32) for name, array in folded.items()}


def rescaled(manifest: Manifest, moments: Moments) -> tuple[Manifest, Rescaling] | None:
    """Return a version with the fleet's new moments, and the change of its features; None for a small change.

    Args:
        manifest: A version of the fleet.
        moments: The fleet's new moments, of the same features.
    """
    change = Rescaling.between(manifest.settings.scaling, manifest.moments, moments)
    if not change.matters:
        return None
    window = manifest.architecture.window
    return (
        replace(
            manifest, moments=moments, weights=change.of_weights(manifest.weights, window),
            residuals=change.of_residuals(manifest.residuals, window),
            covariances=None if manifest.covariances is None else manifest.covariances.rescaled(change.ratio),
            leaf_counts=None,  # counts cannot be brought to another scale
        ),
        change,
    )  # fmt: skip
