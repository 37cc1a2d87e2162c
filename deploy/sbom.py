"""Writes a bill of materials (SBOM, CycloneDX 1.6) of the packages that a lock file pins.

Usage: python deploy/sbom.py requirements.lock build/sbom.json
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def components(lock: str) -> list[dict[str, Any]]:
    r"""Return the packages of a lock file, in its order, each with the hashes of its files.

    >>> listed = components("a-b==1.2 \\\n    --hash=sha256:" + "0" * 64)
    >>> listed[0]["purl"], len(listed[0]["hashes"])
    ('pkg:pypi/a-b@1.2', 1)
    """
    listed: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if match := _PINNED.match(line):
            name, version = match["name"].lower().replace("_", "-"), match["version"]
            purl = f"pkg:pypi/{name}@{version}"
            listed.append(
                {
                    "type": "library",
                    "name": name,
                    "version": version,
                    "purl": purl,
                    "bom-ref": purl,
                    "hashes": [],
                }
            )
        for digest in _HASH.findall(line):
            listed[-1]["hashes"].append({"alg": "SHA-256", "content": digest})
    return listed


def document(lock: str) -> dict[str, Any]:
    """Return the bill of materials of this project with the packages of a lock file."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    own = {"type": "application", "name": project["name"], "version": project["version"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": components(lock),
    }


def main() -> None:
    """Read the lock file of the first argument, and write the file of the second."""
    lock, target = map(Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    content = document(lock.read_text())
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{target}: {len(content['components'])} packages")


if __name__ == "__main__":
    main()
