"""Packages that are not beside `common` are refused before they are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.processes.packages import FOREIGN_PACKAGE, SAFE_PATH, check_packages, python_module


def test_packages_of_this_tree_pass() -> None:
    check_packages("client", "common", "flockwatch", "server")


@pytest.mark.parametrize(("name", "place"), [("json", "json/__init__.py"), ("no_such_package", "no place")])
def test_a_package_elsewhere_ends_the_process(
    name: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_packages("common", name)
    assert ended.value.code == FOREIGN_PACKAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Python finds the package '{name}' at" in line
    assert place in line


def test_a_module_that_is_started_does_not_import_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError")
    command = python_module("json.tool")
    subprocess.run(command, cwd=tmp_path, input=b"{}", check=True, capture_output=True)
    grandchild = [sys.executable, "-c", "import json"]
    subprocess.run(grandchild, cwd=tmp_path, env=SAFE_PATH, check=True, capture_output=True)
