"""Seeded chaos for a fleet of real processes: kills, pauses, clocks, and damage to state that nobody uses."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil

from common.processes.children import Processes
from server.flower.superlink_process import free_port
from tests.chaos.clock import COMPILER, JUMPS_S, ProcessClock
from tests.chaos.damage import damage, files
from tests.scenarios.fleet import Federation
from tests.waiting import eventually

CLIENTS = ("a", "b", "c")
ANSWER_WITHIN_S = 180.0
"""Time in which a fleet has to answer and make versions again after a step, on a busy machine too."""
NEVER_DAMAGED = ("roster.json", "settings.yaml", "flower", "config.toml")
"""Without its roster and settings a server does not know what is meant: it ends with a reason."""


class Chaos:
    """A server with a status page and three clients, to which things happen.

    Args:
        folder: For state and logs.
        processes: Starts and ends them.
        seed: Of the steps.
    """

    def __init__(self, folder: Path, processes: Processes, seed: int) -> None:
        (folder / "server").mkdir(exist_ok=True)
        self._draw = random.Random(seed)
        self._fleet = Federation(folder, processes, {"federation.max_rounds": "null"})
        self._status = free_port()
        self._fleet.flags["server"] = ["--status", f"127.0.0.1:{self._status}"]
        self._data = {name: self._fleet.rows(name, seed=i) for i, name in enumerate(CLIENTS)}
        names = ("server", *CLIENTS) if COMPILER is not None else ()
        self._clocks = {name: ProcessClock(folder, name) for name in names}
        self._fleet.command_prefixes = {name: clock.prefix for name, clock in self._clocks.items()}
        self._fleet.start_server()
        for data in self._data.values():
            self._fleet.start_client(data)
        self.newest = self._grown(-1)
        """The newest version so far."""

    def step(self) -> str:
        """Let one thing happen, and wait until the fleet works again; return what it was.

        Raises:
            AssertionError: the page does not answer, or no new version is made.
        """
        kinds = ("client", "client", "server", "family", "part", "pause", "client state", "state", "clock")
        return self.step_of(self._draw.choice(kinds))

    def step_of(self, kind: str) -> str:
        """Let a thing of a kind happen; as `step`."""
        what = self._do(kind)
        self._answers()
        self.newest = self._grown(self.newest)
        return what

    def descriptors(self) -> int:
        """Return the number of open files of the server's processes."""
        server = psutil.Process(self._fleet.processes.pid("server"))
        total = 0
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.num_fds()
        return total

    def _do(self, kind: str) -> str:
        fleet, draw = self._fleet, self._draw
        client = draw.choice(CLIENTS)
        match kind:
            case "client" | "client state":
                fleet.processes.kill(client)
                done = self._damage(fleet.folder / client) if kind == "client state" else ""
                fleet.start_client(self._data[client])
                return f"client {client} killed {done}"
            case "server" | "family" | "state":
                if kind == "server":  # what is below it has to end, too
                    fleet.processes.kill("server")
                else:
                    fleet.kill_server()
                    fleet.processes.end(["server"])
                done = self._damage(fleet.state) if kind == "state" else ""
                fleet.start_server()
                return f"server killed ({kind}) {done}"
            case "part":
                below = psutil.Process(fleet.processes.pid("server")).children(recursive=True)
                chosen = draw.choice(below)
                with suppress(psutil.Error):
                    name = " ".join(chosen.cmdline()[:6])
                    chosen.kill()
                    return f"killed {name}"
                return "nothing"
            case "clock":
                if not self._clocks:
                    return "nothing: no compiler"
                name = draw.choice(sorted(self._clocks))
                self._clocks[name].set(draw.choice((0, *JUMPS_S)))
                return f"clock of {name} {self._clocks[name].ahead_s:+d} s"
            case _:
                name = draw.choice(("server", *CLIENTS))
                pid = fleet.processes.pid(name)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(draw.uniform(0.5, 8.0))
                os.kill(pid, signal.SIGCONT)
                return f"{name} paused"

    def _damage(self, folder: Path) -> str:
        result = [
            path
            for path in files(folder)
            if not any(part in NEVER_DAMAGED for part in path.relative_to(folder).parts)
        ]
        chosen = self._draw.sample(result, min(len(result), self._draw.choice((1, 2, 5))))
        return ", ".join(f"{path.name} {damage(path, self._draw)}" for path in chosen)

    def _answers(self) -> None:
        def answered() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._status}/healthz", timeout=5) as answer:
                    return json.loads(answer.read())["status"] in ("ok", "degraded")
            except OSError:
                return False

        eventually(answered, ANSWER_WITHIN_S, "an answer of the page", every_s=0.2)

    def _grown(self, before: int) -> int:
        """Wait for a version after `before`, or after the newest that was not damaged; return its number."""
        start = min(before, self._fleet.version())
        eventually(
            lambda: self._fleet.version() > start, ANSWER_WITHIN_S, f"a version after {start}", every_s=0.2
        )
        return self._fleet.version()
