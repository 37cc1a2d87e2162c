"""`flockwatch evaluate` in one process makes the same versions as a federation of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.files.partitions import read_partition
from client.training.worker import ClientWorker
from common import config
from common.settings import DataSettings
from flockwatch.quality.federation import federate, shared_trainer
from tests.scenarios.fleet import SMALL, Federation


@pytest.mark.e2e
def test_processes_and_one_process_make_the_same_versions(federation, tmp_path: Path) -> None:
    changes = {"training.seed": "7", "federation.strategy": "fedadam", "federation.min_clients": "3"}
    run: Federation = federation(changes)
    files = [run.rows(name, seed=i) for i, name in enumerate(("a", "b", "c"))]
    run.start_server()
    for file in files:
        run.start_client(file)
    run.finish()
    by_processes = run.newest()
    assert by_processes is not None

    settings = config.load(None, ["=".join(item) for item in (SMALL | changes).items()])
    edges = [
        ClientWorker(read_partition(file, DataSettings()), file.stem, get_trainer=shared_trainer)
        for file in files
    ]
    in_process = federate(edges, settings, tmp_path / "one")
    assert (in_process.version, by_processes.version) == (5, 5)
    for name, array in by_processes.weights.items():
        # Updates are summed as they come, and sums of floats depend on their order.
        np.testing.assert_allclose(in_process.weights[name], array, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(in_process.moments.mean, by_processes.moments.mean)
    assert in_process.scores.count == by_processes.scores.count
    assert in_process.settings == by_processes.settings
