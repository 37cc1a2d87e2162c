from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_bill_of_materials_has_every_pinned_package_with_its_hashes(tmp_path: Path) -> None:
    target = tmp_path / "build" / "sbom.json"
    command = [sys.executable, "deploy/sbom.py", "requirements.lock", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "flockwatch")
    components = bill["components"]
    pinned = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    assert len(components) == len(pinned)
    assert ("numpy", version("numpy")) in {(c["name"], c["version"]) for c in components}
    assert all(component["hashes"] for component in components)


def test_names_are_those_of_the_index() -> None:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None and spec.loader is not None
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    (result,) = sbom.components("Typing_Extensions[all]==4.1 ; python_version < '3.12'")
    assert result["purl"] == "pkg:pypi/typing-extensions@4.1"
