"""A federation over TLS with enrolled clients."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from common.processes.children import Processes
from common.processes.packages import python_module
from common.security.keys import read_private_key, read_public_key
from flockwatch.certs import Certificates
from server.access.roster import Roster
from tests.scenarios.fleet import Federation
from tests.waiting import PATIENCE_S

PARTS = {"certificate": "pem", "key": "key"}


class Secured(Federation):
    """A federation with its own certificates in `certs`."""

    def __init__(
        self, folder: Path, processes: Processes, settings: dict[str, str], hosts: tuple[str, ...] = ()
    ) -> None:
        self.certs = folder / "certs"
        list(Certificates(self.certs).make(hosts, []))
        tls = {f"server.tls_{part}": str(self.certs / f"server.{end}") for part, end in PARTS.items()}
        super().__init__(folder, processes, settings | tls)
        self.roster = Roster(self.state)

    def key(self, name: str) -> Path:
        """Create a key that a client uses from now on, without enrolling it; return the public key."""
        list(Certificates(self.certs).make([], [name]))
        self.flags[name] = self.credentials(name)
        return self.certs / "clients" / f"{name}.pub"

    def private_key(self, name: str) -> EllipticCurvePrivateKey:
        return read_private_key(self.certs / "clients" / f"{name}.key")

    def credentials(self, name: str) -> list[str]:
        return ["--ca", str(self.certs / "ca.pem"), "--key", str(self.certs / "clients" / f"{name}.key")]

    def enroll(self, name: str) -> None:
        """Create a key for a client, and enroll it."""
        self.roster.enroll(name, read_public_key(self.key(name)))

    def run_command(self, *arguments: str) -> str:
        """Run a flockwatch command on the server's state folder, and return its output."""
        command = [*python_module("flockwatch"), *arguments, "--state", str(self.state)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
