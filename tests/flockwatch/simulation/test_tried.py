"""What the last part of `local` waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flockwatch.simulation import telemetry
from flockwatch.simulation.live import MonitoredMachine


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ({"version": 7, "problems": []}, True),
        ({"version": 6, "problems": []}, False),
        ({"version": 6, "problems": ["refused version 7: its scores are 9 times as large"]}, True),
        ({"version": 5, "problems": ["refused version 6: its scores are 9 times as large"]}, False),
        ({"version": None, "problems": ["refused version 7: damaged"]}, False),
    ],
)
def test_a_machine_has_tried_a_version_once_it_has_taken_or_refused_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: dict[str, Any], expected: bool
) -> None:
    machine = MonitoredMachine.of(telemetry.fleet(1, 20, 20, seed=0)[0], tmp_path)
    monkeypatch.setattr(MonitoredMachine, "health", lambda self: health)
    assert machine.has_tried(7) is expected


def test_a_machine_that_does_not_listen_yet_has_tried_nothing(tmp_path: Path) -> None:
    assert not MonitoredMachine.of(telemetry.fleet(1, 20, 20, seed=0)[0], tmp_path).has_tried(1)
