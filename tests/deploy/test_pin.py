"""`deploy/pin.py`, with a docker that answers as one that reaches a registry."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = f"""#!{sys.executable}
import hashlib, json, sys
assert sys.argv[1:4] == ["buildx", "imagetools", "inspect"], sys.argv
print(json.dumps({{"digest": "sha256:" + hashlib.sha256(sys.argv[4].encode()).hexdigest()}}))
"""


def pinned(image: str) -> str:
    return f"{image}@sha256:{sha256(image.encode()).hexdigest()}"


def run(folder: Path, docker: str) -> subprocess.CompletedProcess[str]:
    program = folder / "docker"
    program.write_text(docker)
    program.chmod(0o755)
    command = [sys.executable, "deploy/pin.py", str(folder / "compose.digests.yml")]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_image_has_its_digest(tmp_path: Path) -> None:
    assert run(tmp_path, DOCKER).returncode == 0
    services = yaml.safe_load((tmp_path / "compose.digests.yml").read_text())["services"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    built = {service["image"] for service in compose.values() if "build" in service}
    for name, service in compose.items():
        if "build" in service:
            contexts = services[name]["build"]["additional_contexts"]
            assert contexts == {"python:3.11-slim": f"docker-image://{pinned('python:3.11-slim')}"}
        elif service["image"] not in built:
            assert services[name]["image"] == pinned(service["image"])
    assert {"mqtt", "prometheus", "grafana"} <= services.keys()


@pytest.mark.parametrize("docker", ["#!/bin/sh\necho no such image >&2\nexit 1\n", "#!/bin/sh\necho '{}'\n"])
def test_an_image_without_a_digest_ends_the_command(tmp_path: Path, docker: str) -> None:
    done = run(tmp_path, docker)
    assert done.returncode == 1
    assert "python:3.11-slim: no digest" in done.stderr
    assert not (tmp_path / "compose.digests.yml").exists()
