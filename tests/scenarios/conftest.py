"""Fixtures of the scenario tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import Federation

from common.processes import Processes


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as running:
        yield running


@pytest.fixture
def federation(tmp_path: Path, processes: Processes) -> Callable[..., Federation]:
    """Makes a federation with some settings changed: `federation({"federation.quorum": "0.5"})`."""
    tmp_path.joinpath("server").mkdir()
    return lambda settings=None: Federation(tmp_path, processes, settings or {})
