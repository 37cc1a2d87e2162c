"""The live part of `flockwatch local`: when a client has tried a version, and which rows are played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.partition import Partition
from common.config import ConfigError
from common.model.schema import Schema
from flockwatch.simulation import telemetry
from flockwatch.simulation.live import MAX_EVENTS, MIN_EVENTS, MonitoredClient, select_rows


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
def test_a_client_has_tried_a_version_once_it_uses_or_has_refused_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: dict[str, Any], expected: bool
) -> None:
    client = MonitoredClient.on_free_ports(telemetry.fleet(1, 20, 20, seed=0)[0], tmp_path)
    monkeypatch.setattr(MonitoredClient, "health", lambda self: health)
    assert client.has_tried(7) is expected


def test_a_client_that_does_not_listen_yet_has_tried_nothing(tmp_path: Path) -> None:
    assert not MonitoredClient.on_free_ports(telemetry.fleet(1, 20, 20, seed=0)[0], tmp_path).has_tried(1)


def test_the_rows_that_are_played_are_normal_and_most_like_the_training_rows() -> None:
    rows = np.concatenate([np.full((300, 1), 9.0), np.zeros((10, 1)), np.full((MIN_EVENTS, 1), 1.0)])
    labels = (rows[:, 0] == 0).astype(np.int8)
    training = np.random.default_rng(0).normal(1, 0.1, (50, 1)).astype(np.float32)
    partition = Partition("edge", Schema(("a",)), training, rows.astype(np.float32), labels)
    assert select_rows(partition).tolist() == [[1.0]] * MIN_EVENTS
    partition = Partition("edge", Schema(("a",)), training + 8, rows.astype(np.float32), labels)
    assert select_rows(partition).tolist() == [[9.0]] * MAX_EVENTS


def test_too_few_normal_rows_are_refused() -> None:
    rows = np.zeros((MIN_EVENTS - 1, 1), np.float32)
    with pytest.raises(ConfigError, match=r"'local.live' needs 120 consecutive test rows .*; edge has none"):
        select_rows(Partition("edge", Schema(("a",)), rows, rows, None))
