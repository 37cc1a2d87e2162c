"""Writes a compose file that pins every image of the demonstration cluster by its digest.

Usage: python deploy/pin.py compose.digests.yml
Then:  docker compose -f docker-compose.yml -f compose.digests.yml up --build

The digests are those that the registry has now for the tags in docker-compose.yml and Dockerfile. They are
not in the repository, because a build without a registry, such as `make cluster`, knows images only by tags.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FROM = re.compile(r"^FROM (\S+:\S+)", re.MULTILINE)


def digest(image: str) -> str:
    """Return the digest that the registry has for an image.

    Raises:
        SystemExit: it has none.
    """
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer = str(json.loads(done.stdout)["digest"])
    except (ValueError, KeyError, TypeError):
        answer = ""
    if not _DIGEST.fullmatch(answer):
        sys.exit(f"{image}: no digest: {done.stderr.strip()[:300]}")
    return answer


def override(compose: dict[str, Any], dockerfile: str) -> dict[str, Any]:
    """Return the content of the compose file.

    Args:
        compose: The content of docker-compose.yml.
        dockerfile: The content of Dockerfile, whose base images are replaced by named build contexts.
    """
    bases = {image: f"docker-image://{image}@{digest(image)}" for image in _FROM.findall(dockerfile)}
    services: dict[str, Any] = {}
    built = {service["image"] for service in compose["services"].values() if "build" in service}
    for name, service in compose["services"].items():
        if "build" in service:
            services[name] = {"build": {"additional_contexts": bases}}
        elif service["image"] not in built:
            services[name] = {"image": f"{service['image']}@{digest(service['image'])}"}
    return {"services": services}


def main() -> None:
    """Write the file named on the command line."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    content = override(compose, (ROOT / "Dockerfile").read_text())
    Path(sys.argv[1]).write_text(yaml.safe_dump(content))


if __name__ == "__main__":
    main()
