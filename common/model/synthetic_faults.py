"""Synthetic faults in normal windows, by which two versions are compared: does one miss what the other finds?

Each fault changes one feature of a window, in sizes that grow by a constant ratio. The detection limit of a
version for a fault is the smallest size whose score exceeds its threshold. Limits are compared and not the
share of faults found at one size, which for a version is often none or all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.scoring import version_scores
from common.robust import MAD_TO_STD

Floats = NDArray[np.float32]

KINDS = ("spike", "shift", "stuck", "broken correlation")
"""The kinds of faults; see `SyntheticFaults`."""
SIZES = np.power(2.0, np.arange(1, 17) / 2)
"""Sizes of a fault, 1.4 to 256, in usual spreads of its feature."""
MAX_LIMIT_RATIO = float(SIZES[3] / SIZES[0])
"""A fault counts as lost if it has to be this many times (2.8) larger for the new version to find it.

Between versions of an honest federation on the 12 machines of the data set ASD, at most 24 % of the faults of
one feature, and 3 % of all, were lost in this sense; with a ratio of 2 it was 45 %.
"""
MAX_LOST_SHARE = 0.5
"""Share of a feature's faults, and of all faults, that a version may lose."""
LEVEL = 1e-4
"""Probability of refusing, by chance, a version that loses exactly `MAX_LOST_SHARE` of the faults."""
MAX_FEATURES = 64
"""Largest number of features that are compared, drawn by the seed."""


@dataclass(frozen=True, eq=False)
class SyntheticFaults:
    """Normal windows with the features that faults are put into, each kind in each window.

    >>> rng = np.random.default_rng(0)
    >>> SyntheticFaults.of(rng.standard_normal((32, 5, 3)).astype(np.float32), seed=1).features
    (0, 1, 2)
    """

    windows: Floats
    """Shape (windows, window, features), in each feature's own unit; NaN where a value is missing."""
    features: tuple[int, ...]
    """Positions of the features."""
    centre: NDArray[np.float64]
    """The usual value of each feature, shape (features of the windows,)."""
    spread: NDArray[np.float64]
    """The usual spread of each feature, likewise."""

    @classmethod
    def of(cls, windows: Floats, seed: int) -> SyntheticFaults:
        """Measure usual values and spreads on the windows, at least one, by median and median deviation.

        A feature that does not vary, or that no window has, gets no faults: their size is not known.
        """
        rows = windows.reshape(-1, windows.shape[2]).astype(np.float64)
        there = np.isfinite(rows)
        known = there.any(axis=0)
        values = np.where(there, rows, np.nan)
        values[:, ~known] = 0.0
        centre = np.nanmedian(values, axis=0)
        deviation = MAD_TO_STD * np.nanmedian(np.abs(values - centre), axis=0)
        spread = np.where(deviation > 0, deviation, np.nanstd(values, axis=0))
        varying = np.flatnonzero(known & (spread > 0) & np.isfinite(spread))
        if len(varying) > MAX_FEATURES:
            varying = np.sort(np.random.default_rng(seed).choice(varying, MAX_FEATURES, replace=False))
        return cls(windows, tuple(varying.tolist()), centre, spread)

    def detection_limits(self, manifest: Manifest, threshold: float) -> NDArray[np.float64]:
        """Return the smallest size at which a version finds each fault.

        Scaled values are not clipped, because clipping would make larger sizes equal.

        Args:
            manifest: The version, its features in the order of the windows.
            threshold: The score above which it finds a fault.

        Returns:
            Shape (features, kinds, windows). 0: the score of the window without a fault is already above the
            threshold; infinite: no size is found; NaN: the feature is missing in the window.
        """
        scaler = replace(manifest.scaler, clip=None)

        def found(windows: Floats) -> NDArray[np.bool_]:
            number, window, features = windows.shape
            rows = scaler.apply(windows.reshape(-1, features))
            with np.errstate(over="ignore", invalid="ignore"):
                scores = version_scores(manifest, rows, np.arange(number, dtype=np.int32) * window)
            above: NDArray[np.bool_] = scores > threshold
            return above

        limits = np.empty((len(self.features), len(KINDS), len(self.windows)))
        for i, feature in enumerate(self.features):
            limits[i] = self._limits_of(feature, found)
            limits[i, :, np.isnan(self.windows[:, :, feature]).any(axis=1)] = np.nan
        limits[:, :, found(self.windows)] = 0.0
        return limits

    def _limits_of(self, feature: int, found: Callable[[Floats], NDArray[np.bool_]]) -> NDArray[np.float64]:
        """Return the detection limits of one feature's faults, shape (kinds, windows), by bisection."""
        low = np.zeros((len(KINDS), len(self.windows)), np.intp)
        high = np.full_like(low, len(SIZES))
        while (low < high).any():
            middle = (low + high) // 2
            sizes = SIZES[np.minimum(middle, len(SIZES) - 1)]
            reached = found(self._with_faults(feature, sizes)).reshape(low.shape) | (middle == len(SIZES))
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        return np.append(SIZES, np.inf)[high]

    def _with_faults(self, feature: int, sizes: NDArray[np.float64]) -> Floats:
        """Return the windows with each kind of fault in a feature, shape (kinds * windows, window, features).

        spike: the newest value is moved; shift: the newest half of the values; stuck: all values are the same
        and far from usual; broken correlation: all values are mirrored at the usual value, and magnified.
        Every second window is moved downwards.

        Args:
            feature: Position of the feature.
            sizes: Size of each fault, shape (kinds, windows).
        """
        faulty = np.repeat(self.windows[np.newaxis], len(KINDS), axis=0)
        centre, values = self.centre[feature], self.windows[:, :, feature]
        signs = np.where(np.arange(len(values)) % 2 == 0, 1.0, -1.0)
        moves = (sizes * signs * self.spread[feature])[:, :, np.newaxis]
        spike, shift, stuck, mirrored = faulty[:, :, :, feature]
        spike[:, -1:] += moves[0]
        shift[:, -((values.shape[1] + 1) // 2) :] += moves[1]
        stuck[:] = centre + moves[2]
        mirrored[:] = centre - sizes[3][:, np.newaxis] * (values - centre)
        return faulty.reshape(-1, *self.windows.shape[1:])


def lost_faults(current: NDArray[np.float64], new: NDArray[np.float64], names: Sequence[str]) -> str | None:
    """Return which faults a new version has become blind to; None if there is no evidence that it has.

    A fault counts if the current version finds it, does not find the window without it, and finds it at a
    size whose multiple by `MAX_LIMIT_RATIO` is still among `SIZES`. A version is blind to a feature, or as a
    whole, if it loses more than `MAX_LOST_SHARE` of the counted faults: if the number of lost ones would
    otherwise have a probability below `LEVEL` (a binomial test, with Bonferroni's correction for several
    comparisons).

    Args:
        current: Detection limits of the version in use, as `SyntheticFaults.detection_limits` returns them.
        new: Those of the new version, of the same faults.
        names: Names of the features that the limits are of.
    """
    with np.errstate(invalid="ignore"):
        counted = (current > 0) & (current * MAX_LIMIT_RATIO <= SIZES[-1])
        lost = counted & (new > current * MAX_LIMIT_RATIO * 0.99)  # sizes are rounded
    level = LEVEL / (len(names) + 1)
    everywhere = int(lost.sum()), int(counted.sum())
    if _more_than_allowed(*everywhere, level):
        return f"{everywhere[0]} of {everywhere[1]} synthetic faults"
    for name, feature_lost, feature_counted in zip(names, lost, counted, strict=True):
        share = int(feature_lost.sum()), int(feature_counted.sum())
        if _more_than_allowed(*share, level):
            return f"{share[0]} of {share[1]} synthetic faults of '{name}'"
    return None


def _more_than_allowed(lost: int, faults: int, level: float) -> bool:
    """Return whether this number of lost faults is evidence of losing more than `MAX_LOST_SHARE`.

    Source: the bound of Chernoff 1952 on the tail of a binomial distribution.

    >>> _more_than_allowed(64, 64, 1e-4), _more_than_allowed(36, 64, 1e-4), _more_than_allowed(5, 5, 1e-4)
    (True, False, False)
    """
    if lost <= MAX_LOST_SHARE * faults:
        return False
    share = lost / faults
    divergence = share * math.log(share / MAX_LOST_SHARE)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - MAX_LOST_SHARE))
    return math.exp(-faults * divergence) < level
