"""A live detector between versions of the two families: their scores are in different units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from client.buffers.training_buffer import read_buffer
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.own_detectors import with_own_detectors
from common.detectors.choice import FAMILIES
from common.model.manifest import Manifest
from common.model.version_settings import VersionSettings
from tests.client.maintenance.test_adaptation import DAY, Machine, kinds, leading, shifted, zero_version
from tests.client.sample_versions import SCHEMA, rows


def ensemble(number: int) -> Manifest:
    """A version with detectors of a machine's own rows."""
    normal = rows(2000, seed=11)
    settings = zero_version().settings.values | {"detector": {"family": "ensemble"}}
    made = replace(zero_version(), version=number, settings=VersionSettings.parse(settings))
    result = with_own_detectors(
        made, ClientRows(Partition("edge", SCHEMA, normal, normal[:0], None)).prepare(made)
    )
    assert result.ensemble is not None and len(result.ensemble.tails) == len(FAMILIES["ensemble"])
    return result


def machine_with(folder: Path, version: Manifest) -> Machine:
    made = Machine(folder)
    made.store.offer(version.pack())
    made.maintenance.tick(save=False)
    made.feed(rows(3 * DAY, seed=1))
    return made


def offer(machine: Machine, version: Manifest) -> None:
    machine.store.offer(version.pack())
    machine.maintenance.tick(save=False)


def active(machine: Machine) -> Manifest:
    assert machine.detector.active is not None
    return machine.detector.active.manifest


def test_a_detector_swaps_to_an_ensemble_and_back_within_its_budget(tmp_path: Path) -> None:
    machine = machine_with(tmp_path / "state", zero_version())
    for number, version in ((2, ensemble(2)), (3, replace(zero_version(), version=3))):
        offer(machine, version)
        assert active(machine).version == number
        quiet = machine.feed(rows(3 * DAY, seed=20 + number))
        assert kinds(quiet).count("incident_started") <= 5
        faulty = rows(100, seed=30 + number)
        faulty[50:60, 2] += 3
        assert "c" in leading(machine.feed(faulty), "incident_started")
        machine.feed(rows(DAY, seed=40 + number))


def test_an_ensemble_adapts_to_a_lasting_shift(tmp_path: Path) -> None:
    machine = machine_with(tmp_path / "state", ensemble(1))
    machine.notices.clear()
    notices = machine.feed(shifted(2 * DAY, seed=2))
    assert "adapted" in kinds(notices)
    assert machine.detector.incidents.open == ()
    assert active(machine).ensemble is not None
    kept = read_buffer(tmp_path / "state", SCHEMA)
    assert kept is not None and abs(float(np.median(kept.rows[:, 1])) - 85) < 4
    assert kinds(machine.feed(shifted(DAY, seed=3))).count("incident_started") <= 2
