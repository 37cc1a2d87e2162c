"""The files for deployment, checked with Compose, hadolint, promtool and systemd."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from client.service import status as edge_status
from client.service.status import SinkQueue, Status
from common.config import load
from common.learning import Learning
from common.processes.packages import python_module
from server.monitoring.status import metrics as server_metrics

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "fleet.json"
OPERATE = (ROOT / "docs" / "operate.md").read_text()
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
METRIC = re.compile(r"\bflockwatch_[a-z_]+\b")
SUFFIXES = r"_(bucket|sum|count)$"


def tool(name: str) -> str:
    """Return a program installed by `make deploy-tools`, or on this machine; skip the test without it."""
    own = Path(sys.executable).parent / name
    program = str(own) if own.is_file() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: make deploy-tools")
    return program


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def composed(*arguments: str) -> dict[str, Any]:
    """Return the compose file as Compose reads it."""
    package = importlib.util.find_spec("compose")  # its console script drops the exit code
    binary = Path(package.origin).parent / "docker-compose" if package and package.origin else None
    if binary is None or not binary.is_file():
        pytest.skip("docker-compose is not installed: make deploy-tools")
    done = run(
        binary, "--project-directory", ROOT, "--profile", "*", *arguments, "config", "--format", "json"
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def names(families: Any) -> set[str]:
    """Return the names that Prometheus gives to metrics."""
    result: set[str] = set()
    for family in families:
        assert isinstance(family, Metric)
        result.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return result


def exposed() -> set[str]:
    """Return the names of all metrics of clients and servers."""
    edge = Status(
        client="a", version=1, pinned=False, threshold=1.0, score=0.5, events=1, refused={"not_json": 1},
        alerts=1, incidents=1, open_incidents=(), flapping=(), moved=(),
        evidence=edge_status.Evidence("1 per day", 10, 60.0),
        warm_up=None, drifted=False, swaps=1, refusals=0, trainer_restarts=0,
        trainer_memory_bytes=1, buffered=1, since_turn_s=0.0, queues=(SinkQueue("stdout:", 0, 1, 0),),
        learning=Learning(312, 500, per_s=1.0),
    )  # fmt: skip
    client = {
        "state": "idle", "error": 0.1, "behind": 0, "mean_s": 1.0, "cosine": 0.9, "distance": 0.1,
        "admitted": 1, "refused": {"norm": 1},
    }  # fmt: skip
    server = {
        "superlink": "up", "restarts": 0, "silent_s": 0.0, "notices": {"incident_started": 1}, "version": 1,
        "error": 0.1, "held": 0, "clients": {"a": client},
    }  # fmt: skip
    return names(edge_status.metrics(edge)) | names(server_metrics(server))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Return the queries of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


# Containers.


def test_compose_accepts_the_compose_file_alone_and_with_the_override_of_ci() -> None:
    services = composed()["services"]
    assert {"server", "mqtt", "player", "prometheus", "grafana", "machine-4"} <= services.keys()
    override = ROOT / "tests" / "cluster" / "ci.override.yml"
    changed = composed("--file", str(COMPOSE), "--file", str(override))["services"]
    differing = {
        name: {key for key in service | changed[name] if service.get(key) != changed[name].get(key)}
        for name, service in services.items()
    }
    assert {name: keys for name, keys in differing.items() if keys} == {
        "setup": {"build"},
        "server": {"build"},
        "machine-1": {"build"},
        "machine-4": {"build", "profiles"},
    }


def test_every_service_has_limits_and_a_health_check_and_cannot_become_root() -> None:
    for name, service in composed()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert "privileged" not in service, name
        if name != "setup":
            assert service["restart"] == "unless-stopped", name
        if name not in ("setup", "player", "grafana"):
            assert service["healthcheck"]["test"], name


def test_only_the_operators_network_is_external_and_ports_are_local() -> None:
    result = composed()
    assert {name for name, n in result["networks"].items() if not n.get("internal")} == {"operator"}
    on_it = {name for name, s in result["services"].items() if "operator" in (s.get("networks") or {})}
    assert on_it == {"server", "prometheus", "grafana"}
    ports = [port for service in result["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_settings_of_the_cluster_are_valid() -> None:
    for name, service in composed()["services"].items():
        environ = service.get("environment") or {}
        if name.startswith("machine") or name == "server":
            loaded = load(None, [], environ)
            assert loaded.threshold.budget == ("1 per hour" if name != "server" else "1 per day")


def test_prometheus_scrapes_an_edge_by_its_host_name_which_its_status_address_answers() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in jobs if job["job_name"] == "edges" for target in job["static_configs"]]
    names = [address.partition(":")[0] for target in targets for address in target["targets"]]
    assert names and [services[name].get("hostname") for name in names] == names


def test_hadolint_accepts_the_dockerfile() -> None:
    run(tool("hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile")


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", lock.read_text(), re.MULTILINE))


def required(*lines: str) -> set[str]:
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}


@pytest.mark.parametrize("image", ["server", "edge", "detector", "build"])
def test_images_have_the_tested_versions_of_libraries(image: str) -> None:
    tested, own = pins(ROOT / "requirements.lock"), pins(ROOT / "deploy" / f"{image}.lock")
    assert {name: version for name, version in own.items() if tested.get(name) != version} == {}


def test_images_have_all_required_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required_by_all, extras = required(*project["dependencies"]), project["optional-dependencies"]
    locks = {name: set(pins(ROOT / "deploy" / f"{name}.lock")) for name in ("server", "edge", "detector")}
    assert required_by_all | required(*extras["postgres"]) <= locks["server"]
    assert required_by_all | required(*extras["train"]) <= locks["edge"]
    wanted = (ROOT / "deploy" / "detector.in").read_text().splitlines()
    assert (
        required(*(line for line in wanted if not line.startswith("#")))
        <= required_by_all & locks["detector"]
    )


# Prometheus and Grafana.


def test_the_alert_rules_pass_their_tests() -> None:
    promtool = tool("promtool")
    run(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    run(promtool, "test", "rules", PROMETHEUS / "rules_test.yml")


def test_the_queries_of_the_dashboard_are_valid_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    assert recorded
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    run(tool("promtool"), "check", "rules", file)


def test_the_dashboard_is_provisioned_with_its_source() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dashboards.yml").read_text())["providers"]
    dashboard = json.loads(DASHBOARD.read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    mounted = [v["target"] for v in composed()["services"]["grafana"]["volumes"] if v["type"] == "bind"]
    assert provider["options"]["path"] in mounted


def test_rules_dashboard_and_guide_name_existing_metrics_and_the_guide_names_all() -> None:
    known = exposed()
    asked = "\n".join([*expressions(), *(rule["expr"] for rule in rules())])
    assert {re.sub(SUFFIXES, "", name) for name in METRIC.findall(asked)} - known == set()
    assert set(METRIC.findall(OPERATE)) == known


def test_the_guide_has_a_row_for_each_alert_rule() -> None:
    documented = re.findall(r"^\| ([A-Z][A-Za-z]+) \|", OPERATE.partition("## Alert rules")[2], re.MULTILINE)
    assert documented == [rule["alert"] for rule in rules()]


# systemd, and the guide.


def test_the_settings_in_the_guide_are_valid(tmp_path: Path) -> None:
    shown = re.findall(r"```yaml\n(.*?)```", OPERATE, re.DOTALL)
    assert shown
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        load(file, [], {})


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "flockwatch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/flockwatch/bin/flockwatch", str(program)))
    done = run(tool("systemd-analyze"), "verify", "--man=no", copy)
    assert done.stderr == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_an_existing_command(unit: Path) -> None:
    (words,) = re.findall(r"^ExecStart=\S+ (.*)$", unit.read_text(), re.MULTILINE)
    (variable, value), *_ = re.findall(r"^Environment=(\w+)=(\S+)$", unit.read_text(), re.MULTILINE)
    section, key = variable.removeprefix("FLOCKWATCH_").lower().split("__")
    loaded = load(None, [], {variable: value})
    assert str(getattr(getattr(loaded, section), key)) == value
    assert value == "/var/lib/" + re.findall(r"^StateDirectory=(.*)$", unit.read_text(), re.MULTILINE)[0]
    known = run(*python_module("flockwatch"), words.split()[0], "--help").stdout
    assert all(flag in known for flag in words.split() if flag.startswith("--"))
