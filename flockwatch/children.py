"""Child processes of a local run: started with logs of their own, ended with all that they started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

END_WITHIN_S = 15.0
"""Time that a child has to finish its message and sign off before it is killed."""

LOG_TAIL = 8


class Children:
    """A context in which processes run; none of them outlives it."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(list(self._running))

    def start(self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start `python -m flockwatch ARGUMENTS`, its output appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "flockwatch", *arguments],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._logs[name] = log

    def exit_code(self, name: str) -> int | None:
        """How a child ended; None while it runs."""
        return self._running[name].poll()

    def log_tail(self, name: str) -> str:
        """The last lines that a child wrote."""
        return "\n".join(self._logs[name].read_text(errors="replace").splitlines()[-LOG_TAIL:])

    def end(self, names: list[str]) -> None:
        """Ask children to end, all at once; kill those that do not, with their descendants."""
        family: list[psutil.Process] = []
        for name in names:
            child = self._running[name]
            with suppress(psutil.NoSuchProcess):
                family += psutil.Process(child.pid).children(recursive=True)
            child.terminate()
        for name in names:
            try:
                self._running[name].wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._running[name].kill()
                self._running[name].wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
