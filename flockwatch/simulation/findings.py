"""Findings of a local run: each client's rows, scored by the newest version as its live detector would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import TrainerFactory, personalise
from common.model.manifest import Manifest
from common.settings import Settings
from flockwatch.quality.metrics import own_starts
from flockwatch.quality.stream import replay_rows, score_stream
from flockwatch.quality.vus import runs


@dataclass(frozen=True)
class Findings:
    """Findings of one client's detector in its test rows, or in all rows if the threshold is fixed.

    Without test rows and without a fixed threshold nothing is counted: a threshold that follows from the
    training rows says nothing about them.
    """

    client: str
    training: int
    """Training rows, without those that are held out."""
    tested: bool
    """Whether the events are test rows."""
    threshold: float | None = None
    """The threshold at the last event; None if no event is counted."""
    events: int = 0
    """Events that are compared with the threshold."""
    above: int = 0
    """Events with a score above the threshold."""
    faults: int | None = None
    """Labelled faults; None without labels."""
    faults_found: int | None = None
    """Faults in which an incident begins; None without labels."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        partition: Partition,
        settings: Settings,
        interval_s: float | None,
        get_trainer: TrainerFactory,
    ) -> Findings:
        """Personalise a version for a client, and replay the client's rows through the live detector.

        Args:
            manifest: A version of the fleet.
            partition: The client's rows.
            settings: Sections `data`, `threshold` and `live` count.
            interval_s: Time between two rows; None: it is not known.
            get_trainer: Makes the trainer for the personalisation.

        Raises:
            SchemaError: the features of the version are not those of this client.
            DataError: there are too few rows for one window on each side.
        """
        rows = ClientRows(partition)
        training, own = rows.prepare(manifest).training, personalise(manifest, rows, get_trainer)
        fixed = settings.threshold.value
        if not len(partition.test_rows):
            if fixed is None:
                return cls(partition.name, training, tested=False)
            scores = score_stream(own, partition).training
            return cls(
                partition.name, training, tested=False, threshold=fixed,
                events=int(np.isfinite(scores).sum()), above=int((scores > fixed).sum()),
            )  # fmt: skip
        replay = replay_rows(own, partition, settings, interval_s)
        labels = partition.test_labels
        faults = runs(labels == 1) if labels is not None else None
        own_incidents = [s for s in own_starts(faults or [], replay.incidents) if s is not None]
        return cls(
            partition.name, training, tested=True, threshold=float(replay.thresholds[-1]),
            events=len(replay.alerts), above=int(replay.alerts.sum()),
            faults=None if faults is None else len(faults),
            faults_found=None if faults is None else len(own_incidents),
        )  # fmt: skip


def summary(findings: Sequence[Findings]) -> list[str]:
    """Return lines with the findings in all clients together; none if nothing was counted."""
    tested = [f for f in findings if f.tested]
    if tested:
        above, events = sum(f.above for f in tested), sum(f.events for f in tested)
        line = f"{above} of {events} test rows above the live threshold"
        labelled = [f for f in tested if f.faults is not None]
        if labelled:
            detected, faults = (
                sum(f.faults_found or 0 for f in labelled),
                sum(f.faults or 0 for f in labelled),
            )
            line += f", {detected} of {faults} labelled faults found"
        return [line]
    counted = [f for f in findings if f.threshold is not None]
    if counted:
        return [
            f"Anomalies detected: {sum(f.above for f in counted)}",
            f"Scored: {sum(f.events for f in counted)} events. Threshold: {counted[0].threshold:g}.",
        ]
    return []
