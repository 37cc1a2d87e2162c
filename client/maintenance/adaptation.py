"""Adaptation: a detector treats a lasting change of its machine as normal, after a time or on request."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.buffers.regime import Move, Regime
from client.buffers.training_buffer import BufferedRows
from client.detection.detector import Detector
from client.detection.incidents import Incident
from client.maintenance.learned_rows import LearnedRows
from client.maintenance.threshold_tuning import ThresholdTuning
from client.versions.regime_change import AdaptedVersion, adapt, lasting_scores
from client.versions.version_store import VersionStore
from common.formats.files import write_atomic
from common.model.manifest import Manifest

log = logging.getLogger(__name__)

REQUEST, ANSWER = "accept", "accepted"
"""Files in the state folder: the request of `client.service.accept` for an adaptation, and the answer."""


class Adaptation:
    """Ends incidents that last, by adapting the detector to the values of the machine during them.

    Args:
        detector: Its active version is adapted.
        tuning: Sets the threshold for the adapted version, and restarts the test for drift.
        learned: Its rows are moved to the new level.
        store: Stores the adapted version.
        folder: The client's state folder, for the regime and for requests.
        base: Hash of the only version of a detector without a trainer; empty with a trainer.
    """

    def __init__(
        self,
        detector: Detector,
        tuning: ThresholdTuning,
        learned: LearnedRows,
        store: VersionStore,
        folder: Path,
        base: str = "",
    ) -> None:
        self._detector, self._tuning, self._learned = detector, tuning, learned
        self._store, self._folder, self._base = store, folder, base
        (folder / REQUEST).unlink(missing_ok=True)  # left by an earlier process; nobody waits for the answer
        self.regime = Regime.load(folder)
        self._unsaved: Manifest | None = None
        """The adapted version, until it and the regime are on disk."""
        if self.regime.base != base:  # the detector runs with another version than the one that was adapted
            self.regime = Regime(base=base)

    def advance(self) -> bool:
        """Adapt to incidents that have lasted, or that a request accepts; return whether it did.

        Raises:
            OSError: the state folder cannot be written.
        """
        self._save()
        chosen = self._detector.incidents.lasting()
        request = self._folder / REQUEST
        requested = request.exists()
        if requested:
            chosen = self._detector.incidents.open
        adapted = bool(chosen) and self._detector.settled
        if adapted:
            text = self._adapt(chosen)
            self._save()
        elif requested and not chosen:
            text = ""
        else:
            return False
        if requested:
            write_atomic(self._folder / ANSWER, text.encode())
            request.unlink(missing_ok=True)
        return adapted

    def _adapt(self, incidents: Sequence[Incident]) -> str:
        """Adapt to the values during these incidents; return the values that are normal from now on."""
        detector, active = self._detector, self._detector.active
        if active is None:
            raise ValueError("an incident is open without a version")
        events = detector.recent.since(min(incident.first for incident in incidents))
        breaks = np.zeros(len(events.rows), np.bool_)
        breaks[:1] = True
        lasting = BufferedRows(events.rows, breaks)
        features = {i for incident in incidents for i in incident.features}
        scores = self._tuning.scores
        # An ensemble's scores are in another unit than those of its autoencoder, which is what is adapted.
        comparable = scores.count and active.manifest.ensemble is None
        usual = scores.quantile(0.5) if comparable else 1.0
        adapted = adapt(active.manifest, lasting, self._learned.contents(), features, usual)
        limit = self._tuning.rebase(lasting_scores(adapted.manifest, lasting))
        names = detector.schema.features
        text = _description(adapted, names, incidents)
        detector.activate(adapted.manifest, limit, [incident.id for incident in incidents], text)
        self._learned.move(adapted.moves)
        self.regime = self.regime.then({names[i]: move for i, move in adapted.moves.items()}, self._base)
        self._unsaved = adapted.manifest
        log.warning("adapted version=%d features=%s", active.manifest.version, json.dumps(text))
        return text

    def _save(self) -> None:
        """Write the adapted version and the regime to disk, if that has not succeeded yet."""
        if self._unsaved is not None:
            self.regime.save(self._folder)
            self._store.replace_current(self._unsaved)
            self._unsaved = None


def _moved(name: str, move: Move) -> str:
    """Return a change in words.

    >>> _moved("temp", Move(1.0, 9.0)), _moved("load", Move(2.0, -1.0))
    ('temp +9', 'load times 2 -1')
    """
    factor = "" if move.factor == 1 else f" times {move.factor:.3g}"
    return f"{name}{factor} {move.offset:+.4g}"


def _description(adapted: AdaptedVersion, names: Sequence[str], incidents: Sequence[Incident]) -> str:
    moves = [_moved(names[i], move) for i, move in adapted.moves.items()]
    changes = ", ".join(moves) or " and ".join(sorted({incident.feature for incident in incidents}))
    return f"normal from here on: {changes}"
