"""Synthetic faults in normal windows, by which two versions are compared: does one miss what the other finds?

Each fault changes one feature of a window, in sizes that grow by a constant ratio. The detection limit of a
version for a fault is the smallest size whose score exceeds its threshold. A new version has to find each
fault at a multiple of the limit of a version before it. One size for all faults would not do: a version often
finds none or all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest
from common.model.moments import Moments
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
FEW_STEPS = 8
"""A change of a feature by fewer of its steps need not be found: a version that has not met steps yet is
too fine for them. Chosen by hand."""
MAX_LOST_SHARE = 0.5
"""Share of a feature's faults, and of all faults, that a version may lose."""
LEVEL = 1e-4
"""Probability of refusing, by chance, a version that loses exactly `MAX_LOST_SHARE` of the faults."""
CLEAR_RATIO = 2.0
"""Score of a fault that a version clearly finds, as a multiple of its threshold."""
MAX_FEATURES = 64
"""Largest number of features that are compared, drawn by the seed."""
MAX_VALUES = 1 << 17
"""Values in the faulty windows that are scored at a time: 0.5 MB, which stays in a processor's cache."""


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
    reach: NDArray[np.float64]
    """The size from which on a fault is beyond normal values, in usual spreads, likewise.

    It is the largest distance of a normal value from the usual one, and at least `FEW_STEPS` of the feature.
    """

    @classmethod
    def of(cls, windows: Floats, seed: int, normal: Floats | None = None) -> SyntheticFaults:
        """Measure usual values and spreads on the windows, at least one, by median and median deviation.

        A feature that does not vary, or that no window has, gets no faults: their size is not known.

        Args:
            windows: Normal windows, shape (windows, window, features).
            seed: Draws the features, if there are many.
            normal: All normal events, for the reach of each feature, shape (events, features); None: the
                windows' own.
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
        events: NDArray[np.floating] = rows if normal is None else normal
        far = np.abs(events - centre)
        far[~np.isfinite(far)] = 0.0
        nearest = np.maximum(far.max(axis=0), FEW_STEPS * Moments.of(events).steps)
        reach = np.divide(nearest, spread, out=np.zeros_like(spread), where=spread > 0)
        return cls(windows, tuple(varying.tolist()), centre, spread, reach)

    def detection_limits(self, manifest: Manifest, threshold: float) -> NDArray[np.float64]:
        """Return the smallest of `SIZES` at which a version finds each fault, by bisection.

        Args:
            manifest: The version, its features in the order of the windows.
            threshold: The score above which it finds a fault.

        Returns:
            Shape (features, kinds, windows). 0: the score of the window without a fault is already above the
            threshold; infinite: no size is found; NaN: the feature is missing in the window.
        """
        low = np.zeros((len(self.features), len(KINDS), len(self.windows)), np.intp)
        high = np.full_like(low, len(SIZES))
        while (low < high).any():
            middle = (low + high) // 2
            sizes = SIZES[np.minimum(middle, len(SIZES) - 1)]
            reached = self._detected(manifest, threshold, sizes) | (middle == len(SIZES))
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        limits: NDArray[np.float64] = np.append(SIZES, np.inf)[high]
        for i, feature in enumerate(self.features):
            limits[i, :, np.isnan(self.windows[:, :, feature]).any(axis=1)] = np.nan
        limits[:, :, self._above(manifest, threshold, self.windows)] = 0.0
        return limits

    def lost_by(self, manifest: Manifest, threshold: float, limits: NDArray[np.float64]) -> str | None:
        """Return which faults a new version has become blind to; None if there is no evidence that it has.

        The new version has to find a fault at `MAX_LIMIT_RATIO` times the limit of the version before, but
        not within the reach of normal values: a feature that was constant at first has tiny limits. A fault
        counts if the version before finds it, does not find the window without it, and that size is among
        `SIZES`. It is lost if the new version finds neither the window without it nor the fault in that size.
        That takes one score of each fault, and no bisection.

        Args:
            manifest: The new version, its features in the order of the windows.
            threshold: The score above which it finds a fault.
            limits: Detection limits of the version before, as `detection_limits` returns them.
        """
        with np.errstate(invalid="ignore"):
            beyond = np.append(SIZES, np.inf)[np.searchsorted(SIZES, self.reach[list(self.features)])]
            larger = np.maximum(limits * MAX_LIMIT_RATIO, beyond[:, np.newaxis, np.newaxis])
            counted: NDArray[np.bool_] = (limits > 0) & (larger <= SIZES[-1])
        detected = self._detected(manifest, threshold, np.where(counted, larger, SIZES[-1]))
        detected |= self._above(manifest, threshold, self.windows)
        names = [manifest.schema.features[i] for i in self.features]
        return lost_faults(counted, counted & ~detected, names)

    def clipped_by(
        self, manifest: Manifest, threshold: float, before: Manifest, before_threshold: float
    ) -> str | None:
        """Return which faults of the largest size a new version does not find; None: no evidence of a loss.

        They are those of single features, and faults of all features at once, which most versions find. Here
        scaled values are softly clipped, as in a stream: a version with a finer scale clips nearer to the
        usual values, and cannot find what the version before finds.

        Args:
            manifest: The new version, its features in the order of the windows.
            threshold: The score above which it finds a fault.
            before: The version before, its features in the same order.
            before_threshold: The score above which that finds a fault.
        """
        far = self.windows + (SIZES[-1] * self.spread * self._signs[:, np.newaxis, np.newaxis])
        found = self._above(before, before_threshold, far.astype(np.float32), clip=True)
        hidden = int((found & ~self._above(manifest, threshold, far.astype(np.float32), clip=True)).sum())
        if _more_than_allowed(hidden, int(found.sum()), LEVEL):
            return f"{hidden} of {found.sum()} synthetic faults of all features"
        sizes = np.full((len(self.features), len(KINDS), len(self.windows)), SIZES[-1])
        counted = self._detected(before, CLEAR_RATIO * before_threshold, sizes, clip=True)
        lost = counted & ~self._detected(manifest, threshold, sizes, clip=True)
        return lost_faults(counted, lost, [manifest.schema.features[i] for i in self.features])

    @property
    def _signs(self) -> NDArray[np.float64]:
        """1 or -1 for each window: every second fault is downwards."""
        return np.where(np.arange(len(self.windows)) % 2 == 0, 1.0, -1.0)

    def _detected(
        self, manifest: Manifest, threshold: float, sizes: NDArray[np.float64], clip: bool = False
    ) -> NDArray[np.bool_]:
        """Return whether the score of each window with a fault is above the threshold.

        Args:
            manifest: The version.
            threshold: The score above which it finds a fault.
            sizes: Size of each fault, in usual spreads of its feature, shape (features, kinds, windows).
            clip: Whether scaled values are softly clipped.

        Returns:
            The same shape as `sizes`.
        """
        detected = np.empty(sizes.shape, np.bool_)
        step = max(1, MAX_VALUES // (len(KINDS) * self.windows.size))
        for first in range(0, len(self.features), step):
            part = slice(first, first + step)
            faulty = self._with_faults(self.features[part], sizes[part])
            detected[part] = self._above(manifest, threshold, faulty, clip).reshape(sizes[part].shape)
        return detected

    def _above(
        self, manifest: Manifest, threshold: float, windows: Floats, clip: bool = False
    ) -> NDArray[np.bool_]:
        """Return whether scores are above a threshold, of windows of shape (windows, window, features).

        Scaled values are clipped only if asked for, because clipping makes larger sizes nearly equal.
        """
        number, window, features = windows.shape
        scaler = manifest.scaler if clip else replace(manifest.scaler, clip=None)
        rows = scaler.apply(windows.reshape(-1, features))
        with np.errstate(over="ignore", invalid="ignore"):
            scores = version_scores(manifest, rows, np.arange(number, dtype=np.int32) * window)
        above: NDArray[np.bool_] = scores > threshold
        return above

    def _with_faults(self, features: tuple[int, ...], sizes: NDArray[np.float64]) -> Floats:
        """Return the windows with each kind of fault in each of some features.

        spike: the newest value is moved; shift: the newest half of the values; stuck: all values are the same
        and far from usual; broken correlation: all values are mirrored at the usual value, and magnified.
        Every second window is moved downwards.

        Args:
            features: Positions of the features.
            sizes: Size of each fault, shape (features, kinds, windows).

        Returns:
            Shape (features * kinds * windows, window, all features).
        """
        faulty = np.broadcast_to(self.windows, (*sizes.shape, *self.windows.shape[1:])).copy()
        signs = self._signs
        for windows, feature, size in zip(faulty, features, sizes, strict=True):
            centre, values = self.centre[feature], self.windows[:, :, feature]
            moves = (size * signs * self.spread[feature])[:, :, np.newaxis]
            spike, shift, stuck, mirrored = windows[:, :, :, feature]
            spike[:, -1:] += moves[0]
            shift[:, -((values.shape[1] + 1) // 2) :] += moves[1]
            stuck[:] = centre + moves[2]
            mirrored[:] = centre - size[3][:, np.newaxis] * (values - centre)
        return faulty.reshape(-1, *self.windows.shape[1:])


def lost_faults(counted: NDArray[np.bool_], lost: NDArray[np.bool_], names: Sequence[str]) -> str | None:
    """Return the faults whose loss is evidence of blindness, to a feature or as a whole; None: no evidence.

    More than `MAX_LOST_SHARE` of them have to be lost: so many that their number would otherwise have a
    probability below `LEVEL` (a binomial test, with Bonferroni's correction for several comparisons).

    Args:
        counted: Whether each fault counts, shape (features, kinds, windows).
        lost: Whether it counts and is lost, likewise.
        names: Names of the features.
    """
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
