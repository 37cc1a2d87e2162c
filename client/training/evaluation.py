"""The evaluation of a version on a client's test rows, with a threshold from its held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.trainer_cache import TrainerFactory
from common.model.manifest import Manifest
from common.model.scoring import version_scores
from common.model.threshold import quantile_threshold


@dataclass(frozen=True)
class ThresholdReport:
    """How many events of one client exceed the threshold under a version."""

    client: str
    rows: int
    """Training rows."""
    threshold: float
    events: int
    """Events that were scored: the test rows, or all rows if there are none."""
    anomalies: int
    """Events with a score above the threshold."""


def evaluate_threshold(manifest: Manifest, rows: ClientRows, get_trainer: TrainerFactory) -> ThresholdReport:
    """Personalise a version, set a threshold on the held-out rows, and apply it to the test rows.

    Args:
        manifest: A version of the fleet.
        rows: The client's rows.
        get_trainer: Makes the trainer for the personalisation.

    Raises:
        SchemaError: the features of the version are not those of this client.
        DataError: there are too few rows for one window on each side.
    """
    prepared = rows.prepare(manifest)
    manifest = personalise(manifest, rows, get_trainer)
    partition = rows.partition.aligned(manifest.schema)
    events = partition.test_rows if len(partition.test_rows) else partition.rows
    threshold = quantile_threshold(
        manifest.settings.threshold, version_scores(manifest, prepared.rows, prepared.held_out_starts)
    )
    scores = version_scores(manifest, rows.scaler(manifest).apply(events))
    return ThresholdReport(
        rows.name, prepared.training, threshold, len(scores), int((scores > threshold).sum())
    )
