"""Child processes that are ended together with all their descendants."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from common.formats.files import turn_over
from common.processes.packages import SAFE_PATH, python_module

MARKS = "FLOCKWATCH_PROCESSES"
"""Environment variable that identifies the descendants of a child process: they inherit it.

Flower starts some processes in sessions of their own, and these outlive a parent that is killed.
"""

POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 8
EXIT_GRACE_S = 15.0
"""Time in which a child has to end after its parent has ended."""
NICENESS = 10
"""Added to the niceness of this process for a child of lower priority."""
LOWEST_PRIORITY = 19
MAX_FILES = 1_000_000
MACOS_FILES = 10_240
"""macOS says that the limit is infinite, and refuses more than this."""


class Processes:
    """Named child processes; leaving the `with` block ends them and all their descendants.

    If this process is killed, another one (`common.processes.guard`) kills them.

    Args:
        grace_s: Time in which a process has to end after SIGTERM, before it is killed.
        family: Identifies the children and their descendants for `end_family`; None: a new one.
    """

    def __init__(self, grace_s: float = 15.0, family: str | None = None) -> None:
        self._grace_s = grace_s
        self._family = family or uuid.uuid4().hex
        self._guard: subprocess.Popen[bytes] | None = None
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start a command in a session of its own.

        Args:
            name: Identifies the process.
            command: The command and its arguments.
            log: File to which the output is appended.
            environment: Environment variables. `SAFE_PATH` is added.
        """
        if self._guard is None:
            self._guard = _start_guard(self._family)
        log.parent.mkdir(parents=True, exist_ok=True)
        turn_over(log)
        with log.open("ab") as output:
            self._started[name] = subprocess.Popen(
                command,
                env={**environment, **SAFE_PATH, MARKS: f"{environment.get(MARKS, '')} {self._mark(name)}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._logs[name] = log

    @property
    def names(self) -> list[str]:
        """Names of the processes that were started and not yet ended by `end` or `kill`."""
        return list(self._started)

    def pid(self, name: str) -> int:
        """Return the id of a process."""
        return self._started[name].pid

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of a process; None while it runs."""
        return self._started[name].poll()

    def kill(self, name: str) -> None:
        """Kill a process without its descendants, as a crash would; its name can be used again."""
        self._started[name].kill()
        self._started.pop(name).wait()

    def log_tail(self, name: str) -> str:
        """Return the last lines of a process's output."""
        return "\n".join(self._logs[name].read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def end(self, names: Iterable[str] | None = None) -> None:
        """End processes, all by default: send SIGTERM, then kill those that remain and their descendants."""
        chosen = list(self._started) if names is None else [name for name in names if name in self._started]
        try:
            for name in chosen:
                self._started[name].terminate()
            deadline = time.monotonic() + self._grace_s
            while any(self.exit_code(name) is None for name in chosen) and time.monotonic() < deadline:
                time.sleep(POLL_INTERVAL_S)
        finally:
            while left := list(self._alive(chosen)):
                _kill(left)
                time.sleep(POLL_INTERVAL_S)
            for name in chosen:
                self._started.pop(name).wait()
            if names is None and self._guard is not None:
                self._guard.communicate()  # closes its input: it finds nobody, and ends
                self._guard = None

    def _mark(self, name: str) -> str:
        return f"{self._family}/{name}"

    def _alive(self, names: Sequence[str]) -> Iterator[psutil.Process]:
        for name in names:
            self._started[name].poll()  # reaps the process if it has ended
        yield from _marked({self._mark(name) for name in names}.__contains__)


def end_family(family: str) -> int:
    """Kill all processes of a family, as `Processes` names them; return how many there were."""
    own, members = os.getpid(), dict[int, psutil.Process]()
    while left := [p for p in _marked(lambda mark: mark.startswith(f"{family}/")) if p.pid != own]:
        members |= {process.pid: process for process in left}
        _kill(left)
        time.sleep(POLL_INTERVAL_S)
    # A process that is ending has no environment any more, and may still have its ports and locks.
    while any(map(_runs, members.values())):
        time.sleep(POLL_INTERVAL_S)
    return len(members)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _marked(matches: Callable[[str], bool]) -> Iterator[psutil.Process]:
    """Yield the running processes with a mark that matches."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(
                map(matches, process.environ().get(MARKS, "").split())
            ):
                yield process


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _start_guard(family: str) -> subprocess.Popen[bytes]:
    """Start the process that kills a family when this process has died, and wait until it is ready."""
    guard = subprocess.Popen(
        python_module("common.processes.guard", family),
        env={**os.environ, **SAFE_PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdout is not None  # noqa: S101  it is a pipe
    guard.stdout.readline()
    return guard


def max_open_files() -> int:
    """Return how many descriptors this process may have open, at most a million."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_FILES)


def raise_open_files() -> None:
    """Raise the descriptors that this process and its children may open to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        for limit in (hard, min(hard, MACOS_FILES) if hard >= 0 else MACOS_FILES):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                return


def lower_priority(pid: int) -> None:
    """Lower the priority of a child, so that this process runs first."""
    with suppress(OSError):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, pid, min(own + NICENESS, LOWEST_PRIORITY))


def end_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input ends, which is a pipe that closes when the parent process ends."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop()
        time.sleep(EXIT_GRACE_S)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
