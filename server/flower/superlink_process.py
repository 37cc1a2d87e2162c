"""SuperLink as a child process: starts it, submits runs to it, and ends it with all its child processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from common.processes.children import Processes, end_family
from common.processes.packages import SAFE_PATH, python_module

log = logging.getLogger(__name__)

READY_WITHIN_S = 60.0
SUBMIT_WITHIN_S = 60.0
END_WITHIN_S = 5.0

ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""Makes glibc use one heap: each of SuperLink's forty threads would have one that never shrinks."""


class SuperLinkError(RuntimeError):
    """SuperLink could not be started, or did not accept the run."""


def flower_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a Flower process: its own home, no telemetry, this Python's commands in PATH.

    Python processes below it do not import from their working directory.

    Args:
        home: Folder for Flower's own files.
        environ: The environment to extend.
    """
    return {
        **environ,
        **SAFE_PATH,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}",
    }


def free_port() -> int:
    """Return a free TCP port of the loopback address, reserved on Linux while this process lives.

    On Linux a socket stays bound to the port without listening. A server that names the port and sets
    SO_REUSEADDR can listen on it; a program that asks for any free port gets another. On other systems two
    sockets cannot be bound to one port, so the port is not reserved.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port = int(probe.getsockname()[1])
    if sys.platform == "linux":
        probe.detach()  # open until the process ends
    else:
        probe.close()
    return port


class SuperLinkProcess:
    """A child process that runs `server.flower.superlink`.

    Args:
        folder: Folder for its log and for Flower's home.
        host: Address to listen on.
        port: Port to listen on.
    """

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self._folder = folder.resolve()
        self.log = self._folder / "superlink.log"
        """The file that its output is appended to."""
        self._host, self._port = host, port
        self._environment = flower_environment(self._folder / "flower") | ONE_HEAP
        # The same family after a restart, which can thus end what an earlier process has left.
        self._family = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:32]
        self._processes = Processes(END_WITHIN_S, self._family)
        self._started = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._started and self._processes.exit_code("superlink") is None

    def end_orphans(self) -> None:
        """End the processes that an earlier server with this folder left running; call it before `start`."""
        if count := end_family(self._family):
            log.warning("ended processes that a killed server left count=%d", count)

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            SuperLinkError: the port is in use, or the process is not ready in time; the message ends with its
                log.
        """
        self._check_port()
        home = self._folder / "flower"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n\n'
            f'[superlink.here]\naddress = "{self._dial_host}:{self._port}"\ninsecure = true\n'
        )
        self._processes.start(
            "superlink",
            [
                *python_module("server.flower.superlink"), "--insecure",
                "--host", self._host, "--port", str(self._port),
                "--disable-runtime-dependency-installation",
            ],
            self.log,
            self._environment,
        )  # fmt: skip
        self._started = True
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if not self.alive or time.monotonic() > deadline:
                tail = self._processes.log_tail("superlink")
                self.end()
                raise SuperLinkError(f"SuperLink did not become ready; its log ends:\n{tail}")
            time.sleep(0.05)
        pid = self._processes.pid("superlink")
        log.info("superlink ready address=%s:%d pid=%d", self._host, self._port, pid)

    def submit(self, run_config: Mapping[str, str]) -> None:
        """Submit a run of the installed app.

        Raises:
            SuperLinkError: Flower refused it.
        """
        overrides = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
        try:
            done = subprocess.run(
                [self._command("flwr"), "run", str(self._write_app()), "here", "--run-config", overrides],
                env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=SUBMIT_WITHIN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SuperLinkError(f"the run was not accepted within {SUBMIT_WITHIN_S:.0f} s") from None
        if done.returncode:
            raise SuperLinkError(f"Flower refused the run: {(done.stderr or done.stdout).strip()[-500:]}")

    def end(self) -> None:
        """End SuperLink and its child processes: SIGTERM, then SIGKILL after `END_WITHIN_S`."""
        self._processes.end()
        self._started = False

    @property
    def _dial_host(self) -> str:
        every_interface = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  nothing is bound here
        return every_interface.get(self._host, self._host)

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise SuperLinkError(
                    f"cannot listen on {self._host}:{self._port}: {error.strerror}; "
                    "set server.host and server.port to a free address"
                ) from error

    def _is_ready(self) -> bool:
        try:
            url = f"http://{self._dial_host}:{self._port}/health"
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _command(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _write_app(self) -> Path:
        """Write a Flower app without code; server and clients run their installed flockwatch."""
        app, flower = self._folder / "flockwatch", version("flwr")
        app.mkdir(exist_ok=True)
        (app / "LICENSE").write_text("Apache-2.0\n")
        (app / "pyproject.toml").write_text(
            "[project]\n"
            f'name = "flockwatch"\nversion = "{version("flockwatch")}"\nlicense = {{ file = "LICENSE" }}\n'
            f'dependencies = ["flwr>={flower}"]\n\n'
            "[tool.flwr.app]\n"
            f'publisher = "flockwatch"\nfab-format-version = 1\nflwr-version-target = "{flower}"\n\n'
            "[tool.flwr.app.components]\n"
            'serverapp = "server.app:app"\nclientapp = "client.app:app"\n\n'
            '[tool.flwr.app.config]\nconfig = ""\nstate = ""\n'
        )
        return app
