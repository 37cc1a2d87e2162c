"""Fixtures of the scenario tests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from common.processes.children import Processes
from tests.scenarios import link, report
from tests.scenarios.fleet import Federation
from tests.scenarios.link import Network
from tests.scenarios.secured import Secured


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as running:
        yield running


@pytest.fixture
def federation(tmp_path: Path, processes: Processes) -> Callable[..., Federation]:
    """Return a function that creates a federation: `federation({"federation.quorum": "0.5"})`."""
    tmp_path.joinpath("server").mkdir()
    return lambda settings=None: Federation(tmp_path, processes, settings or {})


@pytest.fixture
def secured(tmp_path: Path, processes: Processes) -> Callable[..., Secured]:
    """Like `federation`, over TLS: `secured({"server.host": "0.0.0.0"}, hosts=("198.18.99.1",))`."""
    tmp_path.joinpath("server").mkdir()
    return lambda settings=None, hosts=(): Secured(tmp_path, processes, settings or {}, hosts)


@pytest.fixture
def network() -> Iterator[Network]:
    if (reason := link.unavailable_reason()) is not None:
        pytest.skip(reason)
    network = Network()
    yield network
    network.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test what the processes of its scenario did last."""
    made = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if made.when == "call" and made.failed and folder is not None:
        made.sections += report.sections(folder)
    return made
