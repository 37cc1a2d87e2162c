"""SuperLink as a child process: start it, know that it is ready, submit a run, end it with all it started."""

from __future__ import annotations

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

from common.packages import SAFE_PATH, python_module
from common.processes import Processes

log = logging.getLogger(__name__)

READY_WITHIN_S = 60.0
SUBMIT_WITHIN_S = 60.0
END_WITHIN_S = 5.0

ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""glibc gives threads heaps of their own, and SuperLink has forty, each as large as the most it ever held."""


class SuperLinkError(RuntimeError):
    """SuperLink could not be started, or would not take the run."""


def flower_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for any Flower process: its own home, no telemetry, this Python's commands first.

    No Python below it imports from its working directory.
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
    """A TCP port of the loopback address that nobody else is given while this process lives.

    On Linux a socket stays bound to it and never listens. Who names the port, and sets SO_REUSEADDR as
    servers do, may listen on it; who asks for any free port gets another. Elsewhere two sockets cannot be
    bound to one port, and it was only free a moment ago.
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
    """One `server.flower.superlink`.

    Args:
        folder: Where its log and Flower's home are kept.
        host: Address to listen on.
        port: Port to listen on.
    """

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self._folder = folder.resolve()
        self._host, self._port = host, port
        self._environment = flower_environment(self._folder / "flower") | ONE_HEAP
        self._processes = Processes(grace_s=END_WITHIN_S)
        self._started = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._started and self._processes.exit_code("superlink") is None

    def start(self) -> None:
        """Start it, and return once it answers.

        Raises:
            LinkError: the port is taken, or it does not become ready; the message has the end of its log.
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
            self._folder / "superlink.log",
            self._environment,
        )  # fmt: skip
        self._started = True
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
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
            LinkError: Flower refused it.
        """
        overrides = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
        try:
            done = subprocess.run(
                [self._command("flwr"), "run", str(self._write_app()), "here", "--run-config", overrides],
                env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=SUBMIT_WITHIN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SuperLinkError(f"the run was not taken within {SUBMIT_WITHIN_S:.0f} s") from None
        if done.returncode:
            raise SuperLinkError(f"Flower refused the run: {(done.stderr or done.stdout).strip()[-500:]}")

    def end(self) -> None:
        """End SuperLink and every process that it started, politely and then by force."""
        self._processes.end()
        self._started = False

    @property
    def _dial_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104

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

    def _answers(self) -> bool:
        try:
            url = f"http://{self._dial_host}:{self._port}/health"
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _command(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _write_app(self) -> Path:
        """An app bundle with no code in it: both sides run the flockwatch that is installed there."""
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
