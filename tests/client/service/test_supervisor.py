from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from client.service import supervisor as supervisor_module
from client.service.supervisor import TrainerSupervisor
from common.processes.children import NICENESS
from tests.waiting import eventually

WORKS = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "retry_interval_s", lambda failures: 0.01)
    monkeypatch.setattr(supervisor_module, "CHECK_EVERY_S", 0.02)


@contextmanager
def supervised(program: str, folder: Path, memory_mb: int = 2000) -> Iterator[TrainerSupervisor]:
    made = TrainerSupervisor(
        [sys.executable, "-c", program], folder / "trainer.log", dict(os.environ), memory_mb << 20
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()


def logged(folder: Path) -> str:
    path = folder / "trainer.log"
    return path.read_text() if path.exists() else ""


def up(one: TrainerSupervisor, folder: Path) -> int:
    """The first trainer's process id. It may print before its supervisor knows that it runs."""
    eventually(lambda: "up" in logged(folder) and one.pid is not None)
    assert one.pid is not None
    return one.pid


def test_the_trainer_runs_at_a_lower_priority_and_ends_with_the_supervisor(tmp_path: Path) -> None:
    with supervised(WORKS, tmp_path) as one:
        eventually(lambda: "up" in logged(tmp_path) and one.memory_bytes > 0)
        assert one.pid is not None
        process = psutil.Process(one.pid)
        assert process.nice() == psutil.Process().nice() + NICENESS
        assert (one.restarts, one.problem) == (0, None)
    assert not process.is_running()
    assert one.pid is None


def test_a_killed_trainer_is_started_again(tmp_path: Path) -> None:
    with supervised(WORKS, tmp_path) as one:
        first = up(one, tmp_path)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: logged(tmp_path).count("up") == 2)
        assert one.restarts == 1
        eventually(lambda: one.pid not in (None, first))
        assert "ended with code -9; started again" in str(one.problem)


def test_a_signal_to_the_client_and_its_trainer_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "SAME_SIGNAL_S", 60.0)
    with supervised(WORKS, tmp_path) as one:
        os.kill(up(one, tmp_path), signal.SIGTERM)
        eventually(lambda: one.pid is None)
    assert (one.restarts, one.problem, caplog.messages) == (0, None, [])


def test_a_trainer_that_grows_is_started_again(tmp_path: Path) -> None:
    grows = "import sys; print('up', flush=True); kept = bytearray(150 << 20); sys.stdin.read()"
    with supervised(grows, tmp_path, memory_mb=100) as one:
        eventually(lambda: one.restarts >= 1)
        assert "MB, more than 100; started again" in str(one.problem)


def test_a_trainer_that_cannot_be_started_is_a_problem(tmp_path: Path) -> None:
    one = TrainerSupervisor(["/nowhere/python"], tmp_path / "trainer.log", {}, 1 << 30)
    one.start()
    eventually(lambda: one.restarts >= 2)
    one.stop()
    assert "cannot be started" in str(one.problem)


def test_a_problem_is_over_once_the_trainer_has_run_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervised(WORKS, tmp_path) as one:
        os.kill(up(one, tmp_path), signal.SIGKILL)
        eventually(lambda: one.problem is not None)
        monkeypatch.setattr(supervisor_module, "STEADY_S", 0.0)
        eventually(lambda: one.problem is None)


def test_a_trainer_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "TERMINATE_S", 0.2)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\n"
        "while True: time.sleep(1)"
    )
    with supervised(deaf, tmp_path) as one:
        process = psutil.Process(up(one, tmp_path))
    assert not process.is_running()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_the_trainer_does_not_outlive_its_parent_however_that_ends(
    tmp_path: Path, kill: signal.Signals
) -> None:
    trainer = (
        "import threading; from common.processes.children import end_with_parent\n"
        "stopped = threading.Event(); end_with_parent(stopped.set)\n"
        "print('up', flush=True); stopped.wait(); print('stopped', flush=True)"
    )
    parent = (
        "import sys, os, time; from pathlib import Path\n"
        "from client.service.supervisor import TrainerSupervisor\n"
        "command = [sys.executable, '-c', sys.argv[1]]\n"
        "one = TrainerSupervisor(command, Path(sys.argv[2]), dict(os.environ), 1 << 31)\n"
        "one.start()\n"
        "while one.pid is None: time.sleep(0.01)\n"
        "print(one.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, trainer, str(tmp_path / "trainer.log")],
        cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        process = psutil.Process(int(child.stdout.readline()))
        eventually(lambda: "up" in logged(tmp_path))
        child.send_signal(kill)
    process.wait(30)
    assert "stopped" in logged(tmp_path)
