"""Fills the demo cluster's volumes, once: certificates, keys, passwords, settings, and a week of history.

Each volume goes to one service, which reads it and cannot write it; the CA's key goes to none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from common.formats.strict_yaml import dump
from common.security.keys import read_public_key
from flockwatch.certs import Certificates
from flockwatch.simulation.player import write_history
from server.access.roster import Roster

VOLUMES = Path("/volumes")
TRAINING = ("machine-1", "machine-2", "machine-3")
DETECTING = "machine-4"
SEED = 42
"""Of the machines, as `flockwatch play` has it."""
INSIDE = Path("/etc/flockwatch")
"""Where a service finds its volume."""
DONE = VOLUMES / "pki" / "done"
ITERATIONS = 10_000


def main() -> None:
    """Make what is not there yet, all of it or nothing."""
    os.umask(0o077)
    if DONE.exists():
        print("all is there already")
        return
    pki = VOLUMES / "pki"
    fleet, broker = Certificates(pki / "fleet"), Certificates(pki / "broker")
    for made in (*fleet.make(["server"], TRAINING), *broker.make(["mqtt"], [])):
        print(made)
    passwords = {name: secrets.token_urlsafe(24) for name in (*TRAINING, DETECTING, "player")}
    token = secrets.token_urlsafe(24)
    server(pki / "fleet", token)
    mosquitto(pki / "broker", passwords)
    player(pki / "broker", passwords["player"])
    files = write_history(len(TRAINING), SEED, pki / "history")
    for name, file in zip(TRAINING, files, strict=True):
        key = pki / "fleet" / "clients" / f"{name}.key"
        copied(name, key, file)
        own = {"server": "server:8000", "tls_ca": f"{INSIDE}/ca.pem", "key": f"{INSIDE}/{key.name}"}
        machine(name, own | {"data": f"{INSIDE}/{file.name}"}, pki, passwords[name], token)
    machine(DETECTING, {}, pki, passwords[DETECTING], token)
    DONE.touch()


def server(certificates: Path, token: str) -> None:
    """The server's certificate and its part of the settings; the machines' keys are registered."""
    copied("server", certificates / "server.pem", certificates / "server.key")
    write("server", "settings.yaml", dump({"server": {"alerts_token": token}}))
    roster = Roster(VOLUMES / "state")
    for name in TRAINING:
        roster.enroll(name, read_public_key(certificates / "clients" / f"{name}.pub"))


def mosquitto(certificates: Path, passwords: dict[str, str]) -> None:
    """The broker's certificate, and whom it lets in."""
    copied("broker", certificates / "server.pem", certificates / "server.key")
    write("broker", "passwords", "".join(f"{name}:{hashed(word)}\n" for name, word in passwords.items()))


def player(certificates: Path, password: str) -> None:
    """The address of the broker, for who plays the machines."""
    write("player", "broker", f"mqtts://player:{password}@mqtt/machines?ca={INSIDE}/ca.pem")
    copied("player", certificates / "ca.pem")


def machine(name: str, client: dict[str, str], pki: Path, password: str, token: str) -> None:
    """What every edge needs: whom it trusts, where its events come from, and where its alerts go."""
    copied(name, pki / "fleet" / "ca.pem")
    shutil.copy(pki / "broker" / "ca.pem", VOLUMES / name / "broker-ca.pem")
    source = f"mqtts://{name}:{password}@mqtt/machines/{name}?ca={INSIDE}/broker-ca.pem&client_id={name}"
    alerts = f"https://{name}:{token}@server:8000/alerts"
    settings = {
        "client": {"name": name, "state": "/var/lib/flockwatch", **client},
        "live": {"source": source, "status": "0.0.0.0:9100", "sinks": ["stdout:", alerts]},
    }
    write(name, "settings.yaml", dump(settings))


def copied(volume: str, *files: Path) -> None:
    """Copy files into a volume, with their modes."""
    for file in files:
        shutil.copy(file, VOLUMES / volume / file.name)


def write(volume: str, name: str, content: str) -> None:
    """A file that its service alone can read."""
    (VOLUMES / volume / name).write_text(content)


def hashed(password: str) -> str:
    """A password as mosquitto keeps it: PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


if __name__ == "__main__":
    main()
