"""Fills the volumes of the demo cluster once: certificates, keys, passwords, settings, training rows.

Each volume is mounted read-only by one service; the CA's key is in none of them.
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
from common.security.tokens import edge_token
from flockwatch.certs import Certificates
from flockwatch.simulation.player import write_history
from server.access.roster import Roster

VOLUMES = Path("/volumes")
TRAINING = ("machine-1", "machine-2", "machine-3")
DETECTING = "machine-4"
SEED = 42
"""Random seed of the machines, the default of `flockwatch play`."""
INSIDE = Path("/etc/flockwatch")
"""The folder where a service mounts its volume."""
DONE = VOLUMES / "pki" / "done"
ITERATIONS = 10_000


def main() -> None:
    """Fill all volumes, unless that has been done."""
    os.umask(0o077)
    if DONE.exists():
        print("the volumes are filled already")
        return
    pki = VOLUMES / "pki"
    fleet, broker = Certificates(pki / "fleet"), Certificates(pki / "broker")
    for line in (*fleet.make(["server"], TRAINING), *broker.make(["mqtt"], [])):
        print(line)
    passwords = {name: secrets.token_urlsafe(24) for name in (*TRAINING, DETECTING, "player")}
    secret = secrets.token_urlsafe(24)
    fill_server(pki / "fleet", secret)
    fill_broker(pki / "broker", passwords)
    fill_player(pki / "broker", passwords["player"])
    files = write_history(len(TRAINING), SEED, pki / "history")
    for name, file in zip(TRAINING, files, strict=True):
        key = pki / "fleet" / "clients" / f"{name}.key"
        copy(name, key, file)
        own = {"server": "server:8000", "tls_ca": f"{INSIDE}/ca.pem", "key": f"{INSIDE}/{key.name}"}
        fill_machine(name, own | {"data": f"{INSIDE}/{file.name}"}, pki, passwords[name], secret)
    fill_machine(DETECTING, {}, pki, passwords[DETECTING], secret)
    DONE.touch()


def fill_server(certificates: Path, secret: str) -> None:
    """Write the server's certificate and settings, and enroll the machines' keys."""
    copy("server", certificates / "server.pem", certificates / "server.key")
    write("server", "settings.yaml", dump({"server": {"alerts_token": secret}}))
    roster = Roster(VOLUMES / "state")
    for name in TRAINING:
        roster.enroll(name, read_public_key(certificates / "clients" / f"{name}.pub"))


def fill_broker(certificates: Path, passwords: dict[str, str]) -> None:
    """Write the broker's certificate and its passwords."""
    copy("broker", certificates / "server.pem", certificates / "server.key")
    write(
        "broker", "passwords", "".join(f"{name}:{hash_password(word)}\n" for name, word in passwords.items())
    )


def fill_player(certificates: Path, password: str) -> None:
    """Write the broker's address for `flockwatch play`."""
    write("player", "broker", f"mqtts://player:{password}@mqtt/machines?ca={INSIDE}/ca.pem")
    copy("player", certificates / "ca.pem")


def fill_machine(name: str, client: dict[str, str], pki: Path, password: str, secret: str) -> None:
    """Write the CAs and the settings of an edge.

    Args:
        name: The name of the edge.
        client: Further settings of the section `client`.
        pki: The folder of all certificates.
        password: The edge's password at the broker.
        secret: The secret that its token for notices follows from.
    """
    copy(name, pki / "fleet" / "ca.pem")
    shutil.copy(pki / "broker" / "ca.pem", VOLUMES / name / "broker-ca.pem")
    source = f"mqtts://{name}:{password}@mqtt/machines/{name}?ca={INSIDE}/broker-ca.pem&client_id={name}"
    alerts = f"https://{name}:{edge_token(secret, name)}@server:8000/alerts"
    settings = {
        "client": {"name": name, "state": "/var/lib/flockwatch", **client},
        "live": {"source": source, "status": "0.0.0.0:9100", "sinks": ["stdout:", alerts]},
    }
    write(name, "settings.yaml", dump(settings))


def copy(volume: str, *files: Path) -> None:
    """Copy files into a volume, with their modes."""
    for file in files:
        shutil.copy(file, VOLUMES / volume / file.name)


def write(volume: str, name: str, content: str) -> None:
    """Write a file into a volume; only its service can read it."""
    (VOLUMES / volume / name).write_text(content)


def hash_password(password: str) -> str:
    """Return a password as mosquitto stores it: PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


if __name__ == "__main__":
    main()
