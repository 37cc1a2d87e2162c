"""Checks a version before it is published: clients can use it, and it finds what one before it finds.

It is read back as a client reads it, and tried on synthetic faults. The server has no rows of any client: the
windows are random values near the usual ones, of the fleet's own moments. Versions are compared on the same
windows, at the threshold that follows from each one's scores.

Detection limits take a bisection over all sizes of a fault. So they are measured for one version, the
reference, and each candidate scores each fault once. As the reference is up to ten versions old, losses that
are small from one version to the next show, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.model.manifest import Manifest, ManifestError
from common.model.moments import Scaler
from common.model.scoring import squared_errors
from common.model.synthetic_faults import SyntheticFaults
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
MAX_AGE = 10
"""Versions after which the newest version becomes the reference.

Of 12 machines of the data set ASD, versions up to 9 apart lost at most 10 % of the faults: the honest changes
of ten versions are as far from blindness as those of one.
"""


class BlindVersionError(ManifestError):
    """A version does not find the faults that a version before it finds; the message says which."""


@dataclass(frozen=True, eq=False)
class _Reference:
    """The version that candidates are compared with."""

    manifest: Manifest
    faults: SyntheticFaults
    limits: NDArray[np.float64]
    """Its detection limits for these faults."""


class Canary:
    """Checks each version against a reference: a published version, less than `MAX_AGE` versions old."""

    def __init__(self) -> None:
        self._reference: _Reference | None = None
        """None: it is measured when the next candidate is checked."""

    def forget(self) -> None:
        """Compare the next candidate with the version that it follows, and with none before that."""
        self._reference = None

    def check(self, newest: Manifest, candidate: Manifest) -> None:
        """Read a version back, and compare it with the reference if there are enough scores.

        The newest version becomes the reference if there is none, if the reference is `MAX_AGE` versions old,
        or if it has other features or another scale.

        Args:
            newest: The version that the candidate follows.
            candidate: The version.

        Raises:
            ManifestError: a client could not use it (`read_back`).
            BlindVersionError: it misses clearly more faults than allowed (`common.model.synthetic_faults`).
        """
        read_back(candidate)
        if min(newest.scores.count, candidate.scores.count) < MIN_SCORES:
            return
        reference = self._reference
        if reference is None or not _comparable(reference.manifest, newest):
            self._reference = reference = _measured(newest)
        threshold = tail_quantile(candidate.scores, RATE)
        lost = reference.faults.lost_by(candidate, threshold, reference.limits)
        if lost is None and not _same_scale(reference.manifest, candidate):
            before = tail_quantile(reference.manifest.scores, RATE)
            lost = reference.faults.clipped_by(candidate, threshold, reference.manifest, before)
        if lost is not None:
            number = reference.manifest.version
            raise BlindVersionError(f"it does not find {lost} that version {number} finds")


def _measured(manifest: Manifest) -> _Reference:
    """Make faults for a version and measure its detection limits for them."""
    seed, scaler = manifest.version, manifest.scaler
    shape = (WINDOWS, manifest.architecture.window, len(manifest.schema))
    values = np.random.default_rng(seed).standard_normal(shape)
    rows = (scaler.mean + AMPLITUDE * scaler.std * values).astype(np.float32)
    faults = SyntheticFaults.of(rows, seed)
    limits = faults.detection_limits(manifest, tail_quantile(manifest.scores, RATE))
    return _Reference(manifest, faults, limits)


def _comparable(before: Manifest, now: Manifest) -> bool:
    """Return whether a version can be the reference: not too old, of these features, of about this scale."""
    is_recent = 0 <= now.version - before.version < MAX_AGE
    return is_recent and before.schema == now.schema and _about_the_same(before.scaler, now.scaler)


def _same_scale(before: Manifest, now: Manifest) -> bool:
    """Return whether two versions scale and clip in the same way."""
    scalers = before.scaler, now.scaler
    return scalers[0].clip == scalers[1].clip and np.array_equal(scalers[0].std, scalers[1].std)


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
