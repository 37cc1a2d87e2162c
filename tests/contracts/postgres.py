"""A real PostgreSQL for tests: a cluster of its own in a temporary folder; can be stopped and started."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.flower.superlink_process import free_port

PASSWORD = "s3cret/word"
PROGRAMS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/opt/homebrew/bin")]


def _program(name: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([*map(str, PROGRAMS), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip(f"PostgreSQL's {name} is not installed: apt-get install postgresql")
    return path


class Postgres:
    """A cluster that listens on a free port of 127.0.0.1 and wants a password.

    PostgreSQL refuses to run as root, so that its processes are then another user's.
    """

    def __init__(self) -> None:
        self._initdb, self._ctl = _program("initdb"), _program("pg_ctl")
        self._databases = 0
        self.folder = Path(tempfile.mkdtemp(prefix="flockwatch-postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.port = free_port()
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            self._initdb, "-D", "data", "-U", "flock", "-A", "scram-sha-256", "--pwfile", "password",
            "--no-sync", "-E", "UTF8", "--locale", "C",
        )  # fmt: skip
        self.start()

    def new_database(self) -> str:
        """The URL of a database that is empty."""
        self._databases += 1
        name = f"t{self._databases}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str = "postgres", password: str = "s3cret%2Fword") -> str:
        """The URL of one of its databases."""
        return f"postgresql://flock:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._run(self._ctl, "start", "-w", "-D", "data", "-o", options, "-l", "log")

    def stop(self) -> None:
        """End it and all connections to it; what it holds stays on disk."""
        self._run(self._ctl, "stop", "-w", "-m", "fast", "-D", "data")

    def remove(self) -> None:
        """End it, without another start."""
        subprocess.run(
            [self._ctl, "stop", "-w", "-m", "immediate", "-D", "data"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, **self._as,
        )  # fmt: skip
        shutil.rmtree(self.folder)

    def _run(self, *command: str) -> None:
        with (self.folder / "output").open("w+") as output:
            done = subprocess.run(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                timeout=60, env={**os.environ, "LC_ALL": "C"}, **self._as,
            )  # fmt: skip
            output.seek(0)
            assert done.returncode == 0, f"{' '.join(command)}: {output.read()}"
