"""Benchmarks are not part of `make test`; at least, each of them must import."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for pattern in ("*.py", "*/*.py")
    for path in (ROOT / "benchmarks").glob(pattern)
    if path.stem not in {"__init__", "__main__"}
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports(name: str) -> None:
    importlib.import_module(name)
