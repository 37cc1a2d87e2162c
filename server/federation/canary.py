"""Checks a version before it is published: clients can use it, and it finds what the last one finds.

It is read back as a client reads it, and tried on synthetic faults. The server has no rows of any client: the
windows are random values near the usual ones, of the fleet's own moments. Versions are compared on the same
windows, at the threshold that follows from each one's scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest, ManifestError
from common.model.moments import Scaler
from common.model.schema import Schema
from common.model.scoring import squared_errors
from common.model.synthetic_faults import SyntheticFaults, lost_faults
from common.model.threshold import tail_quantile

WINDOWS = 8
"""Windows that faults are put into: enough that the loss of all faults of one feature is evidence."""
AMPLITUDE = 0.3
"""Standard deviation of the values in the windows, in scaled units. Independent values of the usual spread
would be abnormal themselves where features are correlated."""
RATE = 1e-3
"""Share of normal events above the thresholds: the scores of few rows are too uncertain for a smaller one."""
MIN_SCORES = 100
"""Smallest number of scores of each version for a comparison."""


class BlindVersionError(ManifestError):
    """A version does not find the faults that the version before it finds; the message says which."""


class Canary:
    """Checks each version, and remembers the detection limits of the newest one to compare them."""

    def __init__(self) -> None:
        self._limits: dict[str, NDArray[np.float64]] = {}
        """Detection limits by the hash of a version, for the faults of the last comparison."""
        self._faults: tuple[Schema, Scaler, SyntheticFaults] | None = None
        """The faults, with the features and the scaler that they were made for."""

    def check(self, newest: Manifest, candidate: Manifest) -> None:
        """Read a version back, and compare it with the newest one if there are enough scores of both.

        Raises:
            ManifestError: a client could not use it (`read_back`).
            BlindVersionError: it misses clearly more faults than allowed (`common.model.synthetic_faults`).
        """
        read_back(candidate)
        if min(newest.scores.count, candidate.scores.count) < MIN_SCORES:
            return
        faults = self._faults_of(newest)
        before, after = (self._limits_of(manifest, faults) for manifest in (newest, candidate))
        self._limits = {newest.hash: before, candidate.hash: after}
        lost = lost_faults(before, after, [newest.schema.features[i] for i in faults.features])
        if lost is not None:
            raise BlindVersionError(f"it does not find {lost} that version {newest.version} finds")

    def _faults_of(self, manifest: Manifest) -> SyntheticFaults:
        """Return the faults for a version; they stay the same while its scale hardly changes."""
        scaler, window = manifest.scaler, manifest.architecture.window
        if self._faults is not None:
            schema, before, faults = self._faults
            if schema == manifest.schema and _about_the_same(before, scaler):
                return faults
        seed = manifest.version
        values = np.random.default_rng(seed).standard_normal((WINDOWS, window, len(manifest.schema)))
        rows = (scaler.mean + AMPLITUDE * scaler.std * values).astype(np.float32)
        faults = SyntheticFaults.of(rows, seed)
        self._faults, self._limits = (manifest.schema, scaler, faults), {}
        return faults

    def _limits_of(self, manifest: Manifest, faults: SyntheticFaults) -> NDArray[np.float64]:
        known = self._limits.get(manifest.hash)
        if known is not None:
            return known
        return faults.detection_limits(manifest, tail_quantile(manifest.scores, RATE))


def _about_the_same(before: Scaler, now: Scaler) -> bool:
    """Return whether two scalers differ by less than a tenth of a spread."""
    moved = np.abs(now.mean - before.mean) / before.std
    return bool(
        np.array_equal(np.isnan(before.mean), np.isnan(now.mean))
        and (np.nan_to_num(moved) < 0.1).all()
        and (np.abs(now.std / before.std - 1) < 0.1).all()
    )


def read_back(manifest: Manifest) -> None:
    """Pack a version, unpack it, and scale and score with it as a client does.

    Raises:
        ManifestError: a client could not use the version; the message says why.
    """
    again = Manifest.unpack(manifest.pack())
    if again.hash != manifest.hash:
        raise ManifestError(f"version {manifest.version} is another one after it was packed and unpacked")
    scaler = Scaler.of(again.moments)
    known = np.broadcast_to(np.asarray(again.moments.counts) > 0, scaler.mean.shape)
    if not (np.isfinite(scaler.std).all() and np.isfinite(scaler.mean[known]).all()):
        raise ManifestError("its means and spreads are not finite")
    if not np.isfinite(again.precision).all():
        raise ManifestError("the weights of its inputs in a score are not finite")
    usual = np.zeros((1, again.architecture.inputs), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = squared_errors(again.architecture, again.weights, usual) * again.precision
    if not np.isfinite(errors).all():
        raise ManifestError("it has no finite score of a usual event")
    if again.scores.count and not np.isfinite(again.scores.quantile(1.0)):
        raise ManifestError("its largest score, and so the threshold, is not finite")
