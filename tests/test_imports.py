"""Allowed imports: `client -> common <- server`, `flockwatch ->` all; heavy libraries in one place."""

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
ROOMS = {
    "client.buffers": {"client.data"},
    "client.data": set(),
    "client.detection": {"client.buffers", "client.data"},
    "client.versions": {"client.buffers"},
    "client.transport": set(),
    "client.training": {"client.buffers", "client.data", "client.transport", "client.versions"},
    "client.connectors": {"client.buffers", "client.data"},
    "client.maintenance": {"client.buffers", "client.detection", "client.versions"},
    "client.service": {
        "client.buffers",
        "client.connectors",
        "client.data",
        "client.detection",
        "client.maintenance",
        "client.versions",
    },
    "common.formats": set(),
    "common.processes": {"common.formats"},
    "common.security": set(),
    "common.flower": set(),
    "common.detectors": set(),
    "common.model": {"common.detectors", "common.formats"},
    "common.compression": {"common.formats", "common.model"},
    "common.protocol": {"common.compression", "common.formats", "common.model"},
    "server.coordination": set(),
    "server.storage": set(),
    "server.flower": set(),
    "server.access": {"server.flower", "server.http"},
    "server.versions": set(),
    "server.http": set(),
    "server.federation": {
        "server.access",
        "server.coordination",
        "server.flower",
        "server.storage",
        "server.versions",
    },
    "server.monitoring": {"server.federation", "server.http", "server.storage"},
    "flockwatch.quality": set(),
    "flockwatch.simulation": {"flockwatch.quality"},
}
"""Each room, and the other rooms of its package that it may import. Modules beside the rooms are free."""

PRIVATE = {
    "client/transport/errors.py",
    "client/transport/fleet_connection.py",
    "client/transport/signing.py",
    "client/transport/sockets.py",
    "common/flower/packing.py",
    "common/flower/stamps.py",
    "server/flower/endpoints.py",
    "server/flower/grid.py",
    "server/flower/superlink.py",
}
"""The files that may use names of Flower that are not public."""

ONLY_IN = {
    "flwr": {
        *PRIVATE,
        "client/app.py",
        "client/transport/resident_node.py",
        "flockwatch/quality/federation.py",
        "server/app.py",
        "server/versions/aggregation.py",
        "server/federation/exchange.py",
        "server/federation/replies.py",
        "server/federation/strategy.py",
    },
    "keras": {"client/training/trainer.py"},
    "tensorflow": {"client/training/trainer.py"},
    "sklearn": {
        "flockwatch/quality/metrics.py",
        "flockwatch/quality/plots.py",
        "flockwatch/quality/baselines.py",
    },
    "matplotlib": {"flockwatch/quality/plots.py"},
    "cryptography": {
        "client/transport/credentials.py",
        "client/transport/resident_node.py",
        "common/security/certificates.py",
        "client/transport/fleet_connection.py",
        "client/transport/signing.py",
        "common/security/keys.py",
        "flockwatch/certs.py",
        "server/access/roster.py",
    },
    "uvicorn": {"server/flower/superlink.py", "server/http/bounded_http.py", "server/http/web.py"},
    "paho": {
        "client/connectors/mqtt.py",
        "client/connectors/sources/mqtt.py",
        "client/connectors/sinks/mqtt.py",
    },
    "prometheus_client": {
        "client/service/status.py",
        "server/monitoring/status_server.py",
        "server/monitoring/status.py",
    },
    "sqlalchemy": {"server/storage/database.py", "server/storage/history.py"},
    "starlette": {"server/flower/superlink.py", "server/monitoring/status_server.py", "server/http/web.py"},
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


def room(module: str) -> str:
    """The package and folder that a module is in; its package alone, if it is beside the rooms."""
    name = ".".join(module.split(".")[:2])
    return name if (ROOT / name.replace(".", "/")).is_dir() else module.split(".")[0]


def test_rooms_import_only_along_the_arrows() -> None:
    rooms = {
        room(".".join(path.relative_to(ROOT).parts)) for p in PACKAGES for path in (ROOT / p).glob("*/*.py")
    }
    assert rooms == set(ROOMS)
    wrong = []
    for file, module in imports():
        here, there = room(file.removesuffix(".py").replace("/", ".")), room(module)
        same_package = here.split(".")[0] == there.split(".")[0]
        if here in ROOMS and there in ROOMS and same_package and there not in {here, *ROOMS[here]}:
            wrong.append((file, module))
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = {file for file, module in imports() if module.split(".")[0] == library}
    assert users == ONLY_IN[library]


def test_private_names_of_flower_stand_in_few_files() -> None:
    users = {f for f, module in imports() if module.split(".")[0] == "flwr" and module not in FLWR_PUBLIC}
    assert users == PRIVATE


def test_superlink_is_loaded_only_by_the_program_that_runs_it() -> None:
    assert "server.flower.superlink" not in {module for _, module in imports()}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("server.app", ("tensorflow", "keras", "sklearn")),
        (
            "client.transport.resident_node",
            ("tensorflow", "keras", "flwr.superlink", "sqlalchemy", "uvicorn"),
        ),
        ("client.launch", ("tensorflow", "keras", "sklearn", "flwr", "pyarrow", "paho")),
        ("flockwatch.cli", ("tensorflow", "keras", "flwr", "pyarrow")),
        ("common.model.scoring", ("tensorflow", "keras", "flwr", "pyarrow")),
        ("common.model.manifest", ("tensorflow", "keras", "flwr", "pyarrow")),
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
