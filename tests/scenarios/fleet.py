"""A federation for the scenario tests: real processes, real sockets, small data."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from client.data.files.partitions import write_partition
from client.data.partition import Partition
from common.model.manifest import Manifest
from common.model.schema import Schema
from common.processes.children import Processes
from common.processes.packages import python_module
from common.settings import DataSettings
from server.federation import status_file
from server.flower.superlink_process import flower_environment, free_port
from server.storage.database import DatabaseError
from server.storage.history import History
from server.storage.registry import Registry
from tests.waiting import eventually

SMALL = {
    "model.window": "2",
    "model.hidden": "[4]",
    "training.batch_size": "32",
    "federation.max_rounds": "5",
    "federation.patience": "0",
    "federation.min_clients": "2",
}


class Federation:
    """A server and clients in separate processes, with their state under one folder."""

    def __init__(self, folder: Path, processes: Processes, settings: dict[str, str]) -> None:
        self.folder = folder
        self.processes = processes
        self.state = folder / "server"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.overrides = ["=".join(item) for item in (SMALL | settings).items()]
        self._flags = [flag for item in self.overrides for flag in ("--set", item)]
        self.config: Path | None = None
        """Settings file of the server."""
        self.command_prefixes: dict[str, list[str]] = {}
        """By process: words before its command, such as those that run it in a network namespace."""

        self.flags: dict[str, list[str]] = {}
        """By process: additional flags."""

    def start_server(self, name: str = "server") -> None:
        config = ["--config", str(self.config)] if self.config else []
        flags = [*config, "--port", str(self.port), "--state", str(self.state), *self._flags]
        self._start(name, ["server", *flags])

    def start_client(
        self, data: Path, name: str | None = None, state: str | None = None, server: str | None = None
    ) -> None:
        key = state or name or data.stem
        flags = ["--data", str(data), "--server", server or self.address, "--state", str(self.folder / key)]
        self._start(key, ["client", *flags, *(["--name", name] if name else [])])

    def rows(self, name: str, rows: int = 300, features: int = 3, seed: int = 0, prefix: str = "f") -> Path:
        """Write a data file of random rows, a third of them test rows with labels; return it.

        Args:
            name: Name of the client.
            rows: Number of training rows.
            features: Number of features.
            seed: Random seed.
            prefix: Beginning of the features' names.
        """
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((rows, features)).astype(np.float32)
        test = rng.standard_normal((rows // 2, features)).astype(np.float32)
        labels = (rng.random(len(test)) < 0.2).astype(np.int8)
        schema = Schema(tuple(f"{prefix}{i}" for i in range(features)))
        return write_partition(
            Partition(name, schema, values, test, labels), self.folder / f"{name}.parquet", DataSettings()
        )

    def descendants_of_server(self, program: str) -> list[psutil.Process]:
        """Return the processes below the server that run a program."""
        server = psutil.Process(self.processes.pid("server"))
        return [p for p in server.children(recursive=True) if any(program in word for word in p.cmdline())]

    def kill_server(self) -> None:
        """Kill the server and all processes below it."""
        server = psutil.Process(self.processes.pid("server"))
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # some end when another one has ended
                process.kill()
        eventually(lambda: self.processes.exit_code("server") is not None)

    def finish(self) -> None:
        """Wait until the server has ended without an error."""
        eventually(lambda: self.processes.exit_code("server") is not None)
        assert self.processes.exit_code("server") == 0, self.log("server")

    def rounds(self) -> list[dict[str, Any]]:
        try:
            with closing(History(self.state / "history.sqlite")) as history:
                return history.rounds()
        except DatabaseError:  # it does not exist yet
            return []

    def notes(self) -> list[tuple[str, str]]:
        try:
            with closing(sqlite3.connect(self.state / "history.sqlite")) as database:
                return database.execute("SELECT kind, text FROM notes").fetchall()
        except sqlite3.OperationalError:
            return []

    def clients(self) -> dict[str, dict[str, Any]]:
        """Return the clients of `/status`."""
        shown = status_file.read(self.state / "fleet.json")
        return shown["clients"] if shown else {}

    def trouble(self) -> dict[str, str]:
        """Return what the server cannot read or write, of `/status`."""
        shown = status_file.read(self.state / "fleet.json")
        return shown["trouble"] if shown else {}

    def stored_versions(self) -> list[int]:
        """Return the numbers of the versions on disk."""
        return sorted(int(path.stem[1:]) for path in (self.state / "versions").glob("v*.safetensors"))

    def has_all_versions(self) -> bool:
        """Return whether every version up to the newest is on disk; newer ones may be added meanwhile."""
        newest = self.version()
        return self.stored_versions()[: newest + 1] == list(range(newest + 1))

    def version(self) -> int:
        newest = self.newest()
        return -1 if newest is None else newest.version

    def newest(self) -> Manifest | None:
        newest = Registry(self.state / "versions", keep=10).latest()
        return newest[0] if newest else None

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start(self, name: str, arguments: list[str]) -> None:
        environment = flower_environment(self.folder / f"{name}-flower")
        command = [*self.command_prefixes.get(name, []), *python_module("flockwatch"), *arguments]
        command += self.flags.get(name, [])
        self.processes.start(name, command, self.folder / f"{name}.log", environment)
