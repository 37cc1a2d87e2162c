"""Child processes of a benchmark: started with one environment, ended together whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_GRACE_S = 10.0
_MARK = "FLOCKWATCH_BENCHMARK"


class ProcessFailed(RuntimeError):
    """A process ended early or was not ready in time; the message ends with the last lines of its log."""


class Processes:
    """Processes with logs and a FLWR_HOME in `folder`; leaving the block ends them and their descendants.

    Flower detaches some of its children into sessions of their own, where a signal to the parent's group
    does not reach them. So each process carries a mark in its environment, which all descendants inherit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.flwr_home = self.folder / "flwr"
        self.flwr_home.mkdir(parents=True, exist_ok=True)
        self._mark = uuid.uuid4().hex
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command of this Python environment in its own process group; NAME.log is its output."""
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started[name] = process
        return process

    def wait(self, name: str, limit_s: float) -> None:
        """Wait until this process has ended with code 0, while all the others keep running."""
        end = time.monotonic() + limit_s
        while (code := self._started[name].poll()) is None:
            self._check_running(but=name)
            if time.monotonic() > end:
                raise self._failed(name, f"did not end within {limit_s:.0f} s")
            time.sleep(0.2)
        if code != 0:
            raise self._failed(name, f"ended with code {code}")

    def wait_healthy(self, name: str, address: str, limit_s: float) -> None:
        """Wait until `GET http://ADDRESS/health` answers."""
        end = time.monotonic() + limit_s
        while True:
            self._check_running()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/health", timeout=5):
                return
            if time.monotonic() > end:
                raise self._failed(name, f"was not healthy within {limit_s:.0f} s")
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything that was started: SIGTERM to each group, then SIGKILL to what is left."""
        try:
            for process in reversed(self._started.values()):
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGTERM)
            end = time.monotonic() + _GRACE_S
            while time.monotonic() < end and any(self._alive()):
                time.sleep(0.2)
        finally:
            while left := list(self._alive()):
                for one in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                time.sleep(0.1)
            for process in self._started.values():
                process.wait()

    def _alive(self) -> Iterator[psutil.Process]:
        for process in self._started.values():
            process.poll()  # reaps it, if it has ended
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.status() != psutil.STATUS_ZOMBIE and one.environ().get(_MARK) == self._mark:
                    yield one

    def _check_running(self, but: str | None = None) -> None:
        for name, process in self._started.items():
            if name != but and (code := process.poll()) is not None:
                raise self._failed(name, f"ended early with code {code}")

    def _failed(self, name: str, what: str) -> ProcessFailed:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return ProcessFailed("\n".join([f"{name} {what}; the end of its log:", *lines[-20:]]))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _environment(self) -> dict[str, str]:
        # Not resolved: a virtual environment's python is a link out of its own bin folder.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return os.environ | {
            "PATH": path,
            "FLWR_HOME": str(self.flwr_home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            _MARK: self._mark,
        }


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
