"""A live detector in this process, with its maintenance, that gets rows in place of a source's events."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from client.buffers.training_buffer import BufferedRows
from client.detection.detector import Detector, Outcome
from client.maintenance.thread import DetectorMaintenance
from client.versions.trial_process import InlineTrial
from client.versions.version_store import VersionStore
from common.errors import UserError
from common.model.manifest import Manifest
from common.settings import Settings

ASSUMED_INTERVAL_S = 60.0
"""Time between two rows for the budget's threshold, if neither the settings nor the rows have it."""


class ReplayError(UserError):
    """Rows cannot be replayed; the message says why."""


@dataclass(frozen=True, eq=False)
class ReplayedDetector:
    """A live detector that is fed with rows."""

    detector: Detector
    maintenance: DetectorMaintenance
    time_name: str
    """Field of an event that holds its time."""

    @property
    def threshold(self) -> float:
        """The threshold that the next event is compared with; NaN while there is no version."""
        return np.nan if self.detector.active is None else self.detector.active.threshold

    def step(self, rows: NDArray[np.floating], times: NDArray[np.float64]) -> Outcome:
        """Pass consecutive rows through the detector, then do its maintenance once.

        Args:
            rows: Shape (n, features), each with at least one value; NaN where a value is missing.
            times: Times of the rows in seconds since 1970, shape (n,).

        Raises:
            ReplayError: the detector refuses a row.
        """
        names = self.detector.schema.features
        lines = [
            msgspec.json.encode({self.time_name: time, **dict(zip(names, row, strict=True))})
            for time, row in zip(times.tolist(), rows.tolist(), strict=True)
        ]
        outcome = self.detector.step(lines, 0.0)
        if outcome.refused:
            raise ReplayError(f"a row is refused as an event: {outcome.refused[0]}")
        self.maintenance.tick(save=False)
        return outcome


@contextmanager
def replayed_detector(
    manifest: Manifest, settings: Settings, *, trains: bool = True
) -> Iterator[ReplayedDetector]:
    """Start a detector, with its state in a temporary folder.

    Args:
        manifest: The version that it uses.
        settings: Sections `data`, `live` and `threshold` count.
        trains: Whether it is the detector of a client that trains; if not, of `flockwatch detect`.

    Raises:
        ReplayError: the detector does not take up the version.
    """
    with tempfile.TemporaryDirectory(prefix="flockwatch-replay-") as name:
        store = VersionStore(Path(name))
        detector = Detector("replay", manifest.schema, settings.data, settings.live)
        maintenance = DetectorMaintenance(
            detector, settings, Path(name), store, fixed=None if trains else manifest, trial=InlineTrial
        )
        if trains:
            store.offer(manifest.pack())
        else:
            maintenance.versions.start(manifest, BufferedRows.empty(len(manifest.schema)))
        maintenance.tick(save=False)
        if trains and detector.active is None:
            raise ReplayError(f"no version was taken up: {maintenance.problems.messages()}")
        try:
            yield ReplayedDetector(detector, maintenance, settings.data.time_name)
        finally:
            maintenance.stop()
