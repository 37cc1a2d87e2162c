"""A federation of the real server and clients, in one process, sums the leaf counts of all clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.detection.scorer import Scorer
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import ClientWorker
from common.detectors.choice import FLEET_FOREST
from common.model.leaf_counts import trees_of
from common.model.manifest import Manifest
from common.model.scoring import windows_at
from common.settings import Settings
from flockwatch.quality.federation import federate, shared_trainer
from flockwatch.simulation import telemetry

SETTINGS = Settings().with_values(
    model={"window": 3, "hidden": (4,)},
    detector={"family": "isolation_forest"},
    federation={"max_rounds": 2, "patience": 0},
)


def test_the_version_has_the_forest_of_all_rows_and_a_client_scores_by_it(tmp_path: Path) -> None:
    parts = telemetry.fleet(3, 200, 50, seed=1)
    workers = [ClientWorker(part, part.name, get_trainer=shared_trainer) for part in parts]
    made = federate(workers, SETTINGS, tmp_path)
    prepared = [ClientRows(part).prepare(made) for part in parts]
    pooled = np.concatenate(
        [np.nan_to_num(windows_at(rows.rows, rows.training_starts, 3)) for rows in prepared]
    )
    assert made.leaf_counts is not None and made.leaf_counts.count == len(pooled)
    expected = trees_of(made.settings, made.architecture).counts(pooled)
    assert made.leaf_counts.values.tobytes() == expected.tobytes()
    own = personalise(Manifest.unpack(made.pack()), ClientRows(parts[0]), shared_trainer)
    assert own.ensemble is not None and list(own.ensemble.tails) == [FLEET_FOREST]
    usual = parts[0].test_rows[:3]
    far = usual.copy()
    far[-1] += 20 * parts[0].rows.std(axis=0)
    scorer = Scorer(Manifest.unpack(own.pack()))
    assert scorer.score_window(far) > scorer.score_window(usual) + 1
