"""Who may import whom: `client -> common <- server`, `flockwatch ->` all; heavy libraries in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("client", "common", "flockwatch", "server")
MAY_IMPORT = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "flockwatch": set(PACKAGES),
}
PRIVATE = ("connection", "endpoints", "errors", "grid", "packing", "sockets", "stamps", "superlink")
ONLY_IN = {
    "flwr": {
        *(f"common/flwr_private/{name}.py" for name in PRIVATE),
        "client/app.py",
        "client/link.py",
        "server/aggregation.py",
        "server/app.py",
        "server/exchange.py",
        "server/memory_grid.py",
        "server/strategy.py",
        "flockwatch/quality/federation.py",
    },
    "keras": {"client/trainer.py"},
    "tensorflow": {"client/trainer.py"},
    "sklearn": {
        "flockwatch/quality/metrics.py",
        "flockwatch/quality/plots.py",
        "flockwatch/quality/rivals.py",
    },
    "matplotlib": {"flockwatch/quality/plots.py"},
    "cryptography": {
        "client/credentials.py",
        "client/link.py",
        "common/certificates.py",
        "common/flwr_private/connection.py",
        "common/keys.py",
        "flockwatch/certs.py",
        "server/roster.py",
    },
    "uvicorn": {"common/flwr_private/superlink.py", "server/web.py"},
    "datasketches": {"common/sketch.py", "client/drift.py"},
    "paho": {"client/mqtt.py", "client/sources/mqtt.py", "client/sinks/mqtt.py"},
    "prometheus_client": {"client/status.py", "server/site.py", "server/status.py"},
    "sqlalchemy": {"server/database.py", "server/history.py"},
    "starlette": {"common/flwr_private/superlink.py", "server/site.py", "server/web.py"},
}
FLWR_PUBLIC = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.exception",
    "flwr.serverapp.strategy",
}


def imports() -> Iterator[tuple[str, str]]:
    """Every import of the source: the file, and the module that it names."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = str(path.relative_to(ROOT))
                if isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert not node.level, f"{name}: relative import"
                    yield name, str(node.module)


def test_packages_import_only_along_the_arrows() -> None:
    wrong = [
        (file, module)
        for file, module in imports()
        if module.split(".")[0] in PACKAGES and module.split(".")[0] not in MAY_IMPORT[file.split("/")[0]]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = {file for file, module in imports() if module.split(".")[0] == library}
    assert users == ONLY_IN[library]


def test_private_names_of_flower_stand_in_one_room() -> None:
    users = {f for f, module in imports() if module.split(".")[0] == "flwr" and module not in FLWR_PUBLIC}
    assert users == {f"common/flwr_private/{name}.py" for name in PRIVATE}


def test_superlink_is_loaded_only_by_the_program_that_runs_it() -> None:
    users = {file for file, module in imports() if module == "common.flwr_private.superlink"}
    assert users == {"server/superlink.py"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("server.app", ("tensorflow", "keras", "sklearn")),
        ("client.link", ("tensorflow", "keras", "flwr.superlink", "sqlalchemy", "uvicorn")),
        ("client.launch", ("tensorflow", "keras", "sklearn", "flwr", "pyarrow", "paho")),
        ("flockwatch.cli", ("tensorflow", "keras", "flwr", "pyarrow")),
        ("common.scoring", ("tensorflow", "keras", "flwr", "pyarrow")),
        ("common.manifest", ("tensorflow", "keras", "flwr", "pyarrow")),
    ],
)
def test_importing_a_module_does_not_load_what_its_machine_may_lack(
    module: str, absent: tuple[str, ...]
) -> None:
    program = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
