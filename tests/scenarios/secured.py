"""A federation over TLS, whose clients the operator has registered."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from common.packages import python_module
from common.processes import Processes
from common.security.keys import read_private_key, read_public_key
from flockwatch.certs import Certificates
from server.access.roster import Roster
from tests.scenarios.fleet import PATIENCE_S, Federation

PARTS = {"certificate": "pem", "key": "key"}


class Secured(Federation):
    """A federation with certificates of its own in `certs`."""

    def __init__(
        self, folder: Path, processes: Processes, settings: dict[str, str], hosts: tuple[str, ...] = ()
    ) -> None:
        self.certs = folder / "certs"
        list(Certificates(self.certs).make(hosts, []))
        tls = {f"server.tls_{part}": str(self.certs / f"server.{end}") for part, end in PARTS.items()}
        super().__init__(folder, processes, settings | tls)
        self.roster = Roster(self.state)

    def key(self, name: str) -> Path:
        """A new key for a client that nobody has registered yet; the client uses it from now on."""
        list(Certificates(self.certs).make([], [name]))
        self.flags[name] = self.credentials(name)
        return self.certs / "clients" / f"{name}.pub"

    def private(self, name: str) -> EllipticCurvePrivateKey:
        return read_private_key(self.certs / "clients" / f"{name}.key")

    def credentials(self, name: str) -> list[str]:
        return ["--ca", str(self.certs / "ca.pem"), "--key", str(self.certs / "clients" / f"{name}.key")]

    def enroll(self, name: str) -> None:
        """Make a key, and register it as the operator does in this program."""
        self.roster.enroll(name, read_public_key(self.key(name)))

    def operate(self, *arguments: str) -> str:
        """Run a command of the operator's."""
        command = [*python_module("flockwatch"), *arguments, "--state", str(self.state)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
