"""No secret is in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}")
SECRET_NAMES = {".key", ".pem", ".p12", ".pfx", ".env"}


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_holds_a_private_key() -> None:
    assert [path for path in files() if path.is_file() and PRIVATE.search(path.read_bytes())] == []


def test_no_file_is_named_as_keys_and_certificates_are() -> None:
    assert [path for path in files() if path.suffix in SECRET_NAMES or path.name == "roster.json"] == []
