"""A server that is killed leaves no processes, and can be started again at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from common.processes.packages import python_module
from server.flower.superlink_process import free_port
from server.storage.lease import Lease
from tests.waiting import eventually

WITHIN_S = 120.0


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Return True; fail the test if the process has ended."""
    assert process.poll() is None, "the server ended"
    return True


def server(folder: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = python_module("flockwatch", "server", "--state", str(folder), "--port", str(port))
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ})


@pytest.mark.parametrize("guarded", [True, False])
def test_a_killed_server_leaves_no_orphans_and_is_started_again_at_once(
    tmp_path: Path, guarded: bool
) -> None:
    """Without the guard, which is killed too, the next server ends what the earlier one has left."""
    folder, port = tmp_path / "state", free_port()
    folder.mkdir()
    lease, first = Lease(folder), server(folder, port, tmp_path / "first.log")
    family: list[psutil.Process] = []
    second = None
    try:
        eventually(lambda: is_alive(first) and lease.held, WITHIN_S)
        parent = psutil.Process(first.pid)
        family = parent.children(recursive=True)
        assert len(family) >= 4, "SuperLink, SuperExec, the ServerApp and the guard"
        if not guarded:
            for process in family:
                if "common.processes.guard" in process.cmdline():
                    process.kill()
        first.kill()
        first.wait()
        if guarded:
            eventually(lambda: not any(process.is_running() for process in family), WITHIN_S)
            assert not lease.held
        second = following = server(folder, port, tmp_path / "second.log")
        eventually(
            lambda: (
                is_alive(following) and lease.held and not any(process.is_running() for process in family)
            ),
            WITHIN_S,
        )
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)
        for orphan in family:
            if orphan.is_running():
                orphan.kill()
