"""A worker whose client still gathers events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.buffers.training_buffer import TrainingBuffer, read_wanted
from client.data.files.csv_text import DataError
from client.training.worker import ClientWorker
from client.versions.version_store import VersionStore
from common.protocol.messages import Task
from tests.client.training.samples import ROWS, SCHEMA, partition, version


class Growing:
    """A client without a data file, whose training buffer the test fills."""

    def __init__(self, folder: Path, rows: np.ndarray = ROWS[:0], min_rows: int | None = None) -> None:
        self.buffer = TrainingBuffer(folder, SCHEMA, 1000)
        self.store = VersionStore(folder)
        self.worker = ClientWorker(partition(rows), "instance", folder=folder, min_rows=min_rows)

    def gather(self, count: int) -> None:
        self.buffer.append(ROWS[:count], np.zeros(count, np.bool_))


def test_a_worker_without_a_row_describes_itself(tmp_path: Path) -> None:
    described = Growing(tmp_path).worker.describe(10)
    assert (described.rows, described.wanted, described.moments) == (0, 100, None)
    assert not described.can_train


def test_a_worker_describes_its_rows_again_until_it_has_enough(tmp_path: Path) -> None:
    edge = Growing(tmp_path, min_rows=50)
    edge.worker.describe(3)
    edge.gather(20)
    described = edge.worker.describe(3)
    assert (described.rows, described.wanted, described.can_train) == (20, 50, False)
    edge.gather(30)
    described = edge.worker.describe(3)
    assert (described.rows, described.can_train) == (50, True)
    edge.gather(40)
    assert edge.worker.describe(3).moments is described.moments  # versions are scaled by these from now on


def test_a_worker_that_can_train_describes_its_rows_again_when_they_have_doubled(tmp_path: Path) -> None:
    edge = Growing(tmp_path, min_rows=20)
    edge.gather(20)
    assert edge.worker.describe(3).rows == 20
    edge.gather(19)
    assert edge.worker.describe(3).rows == 20
    edge.gather(1)
    described = edge.worker.describe(3)
    assert described.rows == 40
    assert described.moments is not None and described.moments.count == 40


def test_how_many_rows_are_wanted_follows_from_the_window_of_the_fleet(tmp_path: Path) -> None:
    edge = Growing(tmp_path)
    assert edge.worker.describe(30).wanted == 300
    assert read_wanted(tmp_path) == 300


def test_the_rows_of_a_data_file_count(tmp_path: Path) -> None:
    edge = Growing(tmp_path, rows=ROWS[:60])
    described = edge.worker.describe(3)
    assert (described.rows, described.wanted) == (60, 100)
    assert read_wanted(tmp_path) == 40  # of the stream


def test_a_client_with_a_data_file_only_has_as_many_rows_as_it_will_have() -> None:
    described = ClientWorker(partition(ROWS[:20]), "instance").describe(10)
    assert (described.rows, described.wanted, described.can_train) == (20, 0, True)


def test_while_it_learns_a_version_of_the_fleet_is_offered_as_it_is(tmp_path: Path) -> None:
    edge, given = Growing(tmp_path), version()
    edge.worker.describe(3)
    edge.worker.receive(given)
    offered = edge.store.candidate()
    assert offered is not None and offered.hash == given.hash
    edge.store.accept(offered)
    edge.worker.receive(given)
    assert edge.store.candidate() is None
    edge.worker.receive(replace(given, version=given.version + 1))
    assert edge.store.candidate() is not None


def test_a_restarted_trainer_does_not_offer_again_what_is_in_use(tmp_path: Path) -> None:
    edge, given = Growing(tmp_path), version()
    edge.worker.receive(given)
    offered = edge.store.candidate()
    assert offered is not None
    edge.store.accept(offered)
    Growing(tmp_path).worker.receive(given)
    assert edge.store.candidate() is None


def test_with_enough_rows_a_version_is_personalised_before_it_is_offered(tmp_path: Path) -> None:
    edge, given = Growing(tmp_path, rows=ROWS), version(scaling={"by": "client", "clip": 10.0})
    edge.worker.receive(given)
    assert edge.store.candidate() is None
    edge.worker.offer_version()
    offered = edge.store.candidate()
    assert offered is not None
    assert offered.moments.mean == pytest.approx(ROWS.mean(axis=0), rel=1e-5)


def test_a_client_without_a_detector_keeps_no_version() -> None:
    worker = ClientWorker(partition(), "instance")
    worker.receive(version())
    worker.offer_version()


def test_a_task_without_rows_fails_with_the_clients_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="edge: no rows"):
        Growing(tmp_path).worker.evaluate(Task(version(scaling={"by": "client", "clip": 10.0})))
