"""Runs the trainer as a child process, and restarts it when it ends or uses too much memory."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from common.backoff import retry_interval_s
from common.formats.files import turn_over
from common.processes.children import lower_priority
from common.settings import LogSettings

log = logging.getLogger(__name__)

CHECK_EVERY_S = 0.5
STEADY_S = 60.0
"""A trainer that has run for this long counts as healthy: it is restarted without delay when it ends."""
SAME_SIGNAL_S = 0.5
"""Time in which the client is stopped too, if the signal that ended the trainer went to both."""
TERMINATE_S = 15.0
"""Time between the signal to terminate and the one to kill."""


class TrainerSupervisor:
    """Keeps one child process running.

    Args:
        command: Starts the trainer, which ends when its standard input is closed.
        log_file: The trainer's output is appended to it.
        environment: Environment variables of the trainer.
        memory_bytes: Resident memory at which the trainer is restarted.
        logs: How large the log may become.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        environment: Mapping[str, str],
        memory_bytes: int,
        logs: LogSettings = LogSettings(),  # noqa: B008  settings are immutable
    ) -> None:
        self._command = command
        self._log_file = log_file
        self._environment = environment
        self._max_memory_bytes = memory_bytes
        self._max_log_bytes, self._max_log_days = logs.max_mb << 20, logs.max_days
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._failures = 0
        self.pid: int | None = None
        """Process id of the trainer; None while it does not run."""
        self.memory_bytes = 0
        """Resident memory of the trainer."""
        self.restarts = 0
        self.problem: str | None = None
        """The reason why the trainer was restarted, until it has run for `STEADY_S`."""

    def start(self) -> None:
        """Start the trainer and the thread that supervises it."""
        self._thread.start()

    def stop(self) -> None:
        """End the trainer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                child = self._spawn()
            except OSError as error:
                reason = f"cannot be started: {error}"
            else:
                reason = self._wait(child)
            if self._stop.wait(SAME_SIGNAL_S):
                return
            self._failures = 0 if time.monotonic() - started > STEADY_S else self._failures + 1
            wait_s = retry_interval_s(self._failures)
            self.problem = f"trainer {reason}; started again"
            self.restarts += 1
            log.warning("trainer ended reason=%s restart_in_s=%.1f", reason, wait_s)
            self._stop.wait(wait_s)

    def _spawn(self) -> subprocess.Popen[bytes]:
        turn_over(self._log_file, self._max_log_bytes, self._max_log_days)
        with self._log_file.open("ab") as output:
            child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        lower_priority(child.pid)
        self.pid = child.pid
        return child

    def _wait(self, child: subprocess.Popen[bytes]) -> str:
        """Wait until the trainer has ended, or end it; return the reason."""
        process = psutil.Process(child.pid)
        reason = None
        started = time.monotonic()
        while child.poll() is None and not self._stop.wait(CHECK_EVERY_S):
            with suppress(psutil.Error):
                self.memory_bytes = process.memory_info().rss
            turn_over(self._log_file, self._max_log_bytes, self._max_log_days, open_=True)
            if self.memory_bytes > self._max_memory_bytes:
                reason = f"used {self.memory_bytes >> 20} MB, more than {self._max_memory_bytes >> 20}"
                break
            if time.monotonic() - started > STEADY_S:
                self.problem = None
        _end(child)
        self.pid, self.memory_bytes = None, 0
        return reason or f"ended with code {child.returncode}"


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
