"""Child processes end with all their descendants."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.processes.children import Processes, end_family
from tests.waiting import eventually

STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
    "child = subprocess.Popen(sleep, start_new_session=True)\n"
    "print(child.pid, flush=True); time.sleep(600)"
)


def start(processes: Processes, folder: Path, program: str, name: str = "child") -> Path:
    log = folder / f"{name}.log"
    processes.start(name, [sys.executable, "-c", program], log, os.environ)
    return log


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it can be reaped at any moment
        return False


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    with Processes(grace_s=0.3) as processes:
        log = start(processes, tmp_path, STUBBORN)
        eventually(lambda: "up" in log.read_text())
        pid = processes.pid("child")
    assert not alive(pid)


def test_a_grandchild_in_a_session_of_its_own_ends_too(tmp_path: Path) -> None:
    with Processes() as processes:
        log = start(processes, tmp_path, PARENT)
        grandchild = int(str(eventually(log.read_text)))
        assert alive(grandchild)
    assert not alive(grandchild)


def test_a_grandchild_ends_even_if_its_parent_was_killed_before(tmp_path: Path) -> None:
    with Processes() as processes:
        log = start(processes, tmp_path, PARENT)
        grandchild = int(str(eventually(log.read_text)))
        os.kill(processes.pid("child"), signal.SIGKILL)
        eventually(lambda: processes.exit_code("child") is not None)
    assert not alive(grandchild)


def test_an_error_in_the_block_ends_the_children(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Processes() as processes:
        start(processes, tmp_path, "import time; time.sleep(600)")
        pid = processes.pid("child")
        raise ZeroDivisionError
    assert not alive(pid)


def test_ending_one_leaves_the_others(tmp_path: Path) -> None:
    with Processes() as processes:
        for name in ("one", "two"):
            start(processes, tmp_path, "import time; time.sleep(600)", name)
        one, two = processes.pid("one"), processes.pid("two")
        processes.end(["one"])
        assert not alive(one)
        assert alive(two)
        assert processes.names == ["two"]


def test_exit_codes_and_the_last_lines_are_available(tmp_path: Path) -> None:
    with Processes() as processes:
        start(processes, tmp_path, "for i in range(20): print('line', i)\nraise SystemExit(3)")
        assert eventually(lambda: processes.exit_code("child")) == 3
        assert processes.log_tail("child").splitlines() == [f"line {i}" for i in range(12, 20)]


def test_the_number_of_descriptors_is_raised_for_this_process_and_its_children() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = (
        "import os, resource\n"
        "from common.processes.children import max_open_files, raise_open_files\n"
        "raise_open_files()\n"
        "print(max_open_files(), flush=True)\n"
        "os.execvp('sh', ['sh', '-c', 'ulimit -n'])"
    )
    command = f'ulimit -Sn 200; exec {sys.executable} -c "$0"'
    done = subprocess.run(
        ["sh", "-c", command, program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    if hard == resource.RLIM_INFINITY:
        assert int(done.stdout.split()[0]) > 200
    else:
        assert done.stdout.split() == [str(min(hard, 1_000_000)), str(hard)]


def test_all_descendants_of_a_process_that_is_killed_end(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from common.processes.children import Processes\n"
        "with Processes() as processes:\n"
        "    for name in ('one', 'two'):\n"
        "        command = [sys.executable, '-c', sys.argv[1]]\n"
        "        processes.start(name, command, Path(sys.argv[2]) / f'{name}.log', dict(os.environ))\n"
        "    time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, PARENT, str(tmp_path)],
        cwd=Path(__file__).parents[3], start_new_session=True,
    )  # fmt: skip
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    try:
        eventually(lambda: all(log.exists() and log.read_text() for log in logs))
        family = [*psutil.Process(parent.pid).children(recursive=True)]
        assert len(family) == 2 + 2 + 1, "two children, one child of each, and the guard"
        assert all(alive(int(log.read_text())) for log in logs)
    finally:
        parent.kill()
        parent.wait()
    eventually(lambda: not any(alive(process.pid) for process in family))


def test_a_family_of_a_known_name_can_be_ended_by_another_process(tmp_path: Path) -> None:
    with Processes(family="cf5e0c7b-one") as processes, Processes(family="cf5e0c7b-other") as others:
        start(processes, tmp_path, PARENT)
        start(others, tmp_path, PARENT, "other")
        eventually(lambda: all((tmp_path / f"{name}.log").read_text() for name in ("child", "other")))
        assert end_family("cf5e0c7b-one") == 2
        assert processes.exit_code("child") is not None
        assert others.exit_code("other") is None
        assert end_family("cf5e0c7b-one") == 0


def test_the_guard_ends_with_its_processes(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children()}
    with Processes() as processes:
        start(processes, tmp_path, PARENT)
    assert {process.pid for process in psutil.Process().children()} == before
