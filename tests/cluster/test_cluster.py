"""The demo cluster on a real Docker Engine, started by `tests/cluster/run`; the tests run in order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually

if "CLUSTER" not in os.environ:
    pytest.skip("the cluster does not run; make cluster starts it and these tests", allow_module_level=True)
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PROJECT = os.environ["CLUSTER"]
COMPOSE = [*shlex.split(os.environ["COMPOSE"]), "--project-directory", PROJECT]
TRAINING = ("machine-1", "machine-2", "machine-3")
LONG_RUNNING = {*TRAINING, "server", "mqtt", "player", "prometheus"}
OURS = ("flockwatch-server", "flockwatch-edge", "flockwatch-detector", "flockwatch-setup")
DETECTOR_MB = 400
PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}")
SECRET_NAMES = re.compile(r"(\.key|\.env|roster\.json|passwords|/settings\.yaml|history\.sqlite)$")


def compose(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMPOSE, *arguments], check=check, capture_output=True, text=True, timeout=300, cwd=PROJECT
    )


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=300
    ).stdout


def container(service: str) -> str:
    return compose("ps", "--all", "--quiet", service).stdout.strip()


def inspect(service: str) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(docker("inspect", container(service)))[0]
    return details


def get(path: str, port: int = 8080) -> Any:
    """Return the JSON at a path of a published port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], Any], within_s: float, goal: str = "") -> Any:
    """Wait as `eventually` does, also while a service that the condition asks refuses connections."""

    def answer() -> Any:
        with suppress(OSError):
            return condition()
        return None

    return eventually(answer, within_s, goal, every_s=0.5)


def states() -> dict[str, str]:
    return {name: client["state"] for name, client in get("/status")["clients"].items()}


def client(value: str, name: str) -> Any:
    """Return a value of a client's status; None if the server does not have it."""
    return get("/status")["clients"].get(name, {}).get(value)


def version() -> int:
    newest = get("/status")["version"]
    return -1 if newest is None else int(newest)


def inside(service: str, program: str) -> str:
    """Run a Python program in a service's container and return what it prints."""
    return compose("exec", "-T", service, "python", "-c", program).stdout.strip()


ASK = """
import ssl, sys, urllib.error, urllib.request
try:
    context = ssl.create_default_context(cafile="/etc/flockwatch/ca.pem")
    request = urllib.request.Request("{url}", data=b"{{}}", method="POST")
    context = context if "{url}".startswith("https") else None
    print(urllib.request.urlopen(request, timeout=5, context=context).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(type(getattr(error, "reason", error)).__name__)
"""


def test_all_services_are_healthy_and_setup_has_ended() -> None:
    rows = [json.loads(line) for line in compose("ps", "--all", "--format", "json").stdout.splitlines()]
    running = {row["Service"]: row for row in rows}
    assert running.keys() == LONG_RUNNING | {"setup"}
    assert (running["setup"]["State"], running["setup"]["ExitCode"]) == ("exited", 0)
    assert {running[name]["State"] for name in LONG_RUNNING} == {"running"}
    assert {running[name]["Health"] for name in LONG_RUNNING - {"player"}} == {"healthy"}


def test_the_three_machines_train_together() -> None:
    wait_for(lambda: version() >= 3, 180, "three versions")
    wait_for(lambda: set(states()) == set(TRAINING), 60, "all machines known")
    wait_for(lambda: all(client("admitted", name) for name in TRAINING), 60, "an update of each")
    rounds = get("/rounds")["rounds"]
    errors = [r["error"] for r in rounds if r["kind"] == "train" and r["error"] is not None]
    assert errors[-1] < errors[0]


def test_a_fault_raises_an_incident_that_names_its_feature() -> None:
    def explained() -> bool:
        played = compose("logs", "--no-log-prefix", "player").stdout
        faults = set(re.findall(r"fault begins machine=(\S+) metric=(\S+)", played))
        incidents = get("/incidents")["incidents"]
        return any((i["client"], i["alert"]["causes"][0]["feature"]) in faults for i in incidents)

    wait_for(explained, 300, "an incident of a faulty machine, with the faulty metric first")


def test_prometheus_scrapes_all_targets_and_its_rules_fire() -> None:
    def scraped() -> set[tuple[str, str]]:
        up = get("/api/v1/query?query=up", 9090)["data"]["result"]
        return {(r["metric"]["instance"], r["value"][1]) for r in up}

    targets = {(name, "1") for name in ("status:8080", *TRAINING)}
    wait_for(lambda: scraped() == targets, 60, "every target is up, and no other")

    def fired() -> bool:
        query = "/api/v1/query?query=count_over_time(ALERTS%7Balertname=%22Incident%22%7D%5B10m%5D)"
        return bool(get(query, 9090)["data"]["result"])

    wait_for(fired, 120, "the alert Incident")


@pytest.mark.parametrize("service", sorted(LONG_RUNNING))
def test_services_have_no_unneeded_privileges(service: str) -> None:
    details = inspect(service)
    host = details["HostConfig"]
    assert details["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["Privileged"] is False
    assert host["Memory"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert docker("exec", container(service), "cat", "/proc/1/status").count("CapEff:\t0000000000000000") == 1


def test_each_volume_of_secrets_is_mounted_by_one_service() -> None:
    users: dict[str, set[str]] = {}
    for service in LONG_RUNNING:
        for mount in inspect(service)["Mounts"]:
            if mount["Type"] == "volume":
                users.setdefault(mount["Name"], set()).add(service)
                assert mount["RW"] is not mount["Name"].endswith("-settings"), mount
    assert {name: services for name, services in users.items() if len(services) > 1} == {}
    assert not any(name.endswith("_pki") for name in users)


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://server:8000/v1/control/start-run", "403"),
        ("https://server:8000/v1/control/register-node", "403"),
        ("https://server:8000/v1/runtime/pull-messages", "403"),
        ("https://server:8000/v1/fleet/pull-messages", "403"),  # names no key
        ("https://server:8000/alerts", "401"),  # shows no token
        ("https://server:8000/status", "403"),
        ("http://server:8000/v1/fleet/pull-messages", "RemoteDisconnected|ConnectionResetError"),
        ("http://server:8080/alerts", "ConnectionRefusedError"),
        ("http://status:8080/alerts", "gaierror"),
        ("https://prometheus:9090/", "SSLError"),
    ],
)
def test_an_edge_reaches_only_the_gateway_of_the_server(url: str, answer: str) -> None:
    assert re.fullmatch(answer, inside("machine-1", ASK.format(url=url)))


def test_machines_cannot_connect_to_other_networks() -> None:
    # 192.0.2.0/24 is for documentation: nobody has it.
    program = ASK.format(url="http://192.0.2.1:80/")
    assert inside("machine-1", program) == "OSError"
    assert inside("player", program) == "OSError"


def test_a_disconnected_edge_keeps_scoring_and_reconnects() -> None:
    name = "machine-2"
    network = next(n for n in inspect(name)["NetworkSettings"]["Networks"] if n.endswith("_fleet"))
    docker("network", "disconnect", network, container(name))
    try:
        wait_for(lambda: states()[name] == "gone", 120, "the server misses it")
        health = "import json, urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/healthz').read().decode())"
        events = json.loads(inside(name, health))["events"]
        wait_for(lambda: json.loads(inside(name, health))["events"] > events, 30, "it scores on")
        before = version()
        wait_for(lambda: version() > before, 90, "the others learn on")
    finally:
        docker("network", "connect", "--alias", name, network, container(name))
    wait_for(lambda: states()[name] != "gone", 120, "it is back")

    admitted = client("admitted", name)
    wait_for(lambda: client("admitted", name) > admitted, 120, "an update of it")


def test_a_restarted_server_continues_from_its_newest_version() -> None:
    before = version()
    compose("restart", "--timeout", "20", "server")
    wait_for(lambda: version() > before, 180, "a later version")
    assert set(states()) == set(TRAINING)
    numbers = [r["version"] for r in get("/rounds")["rounds"] if r["kind"] == "train"]
    assert numbers == sorted(set(numbers))


KILL = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    if open(f"/proc/{pid}/stat").read().rpartition(") ")[2].split()[1] == "1":
        os.kill(int(pid), 9)
"""
"""Kills the processes that the container's init process started."""


def test_a_killed_edge_is_restarted() -> None:
    compose("exec", "-T", "machine-3", "python", "-c", KILL, check=False)
    wait_for(lambda: inspect("machine-3")["RestartCount"] == 1, 60)
    wait_for(lambda: inspect("machine-3")["State"]["Health"]["Status"] == "healthy", 120)
    admitted = client("admitted", "machine-3")
    wait_for(lambda: client("admitted", "machine-3") > admitted, 120, "an update of it")


def test_a_detector_uses_a_version_that_was_copied_to_it() -> None:
    folder = "/var/lib/flockwatch/versions"
    newest = inside("server", f"import os; print(max(f for f in os.listdir({folder!r}) if f.endswith('rs')))")
    compose("cp", f"server:{folder}/{newest}", "version.safetensors")
    os.chmod(f"{PROJECT}/version.safetensors", 0o644)
    compose("--profile", "detector", "up", "--detach", "--no-build", "machine-4")
    wait_for(lambda: inspect("machine-4")["State"]["Health"]["Status"] == "healthy", 120)
    health = (
        "import json, urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/healthz').read().decode())"
    )
    wait_for(lambda: json.loads(inside("machine-4", health))["events"] > 20, 60)
    assert json.loads(inside("machine-4", health))["version"] == int(re.sub(r"\D", "", newest))

    def received() -> bool:
        return any(i["client"] == "machine-4" for i in get("/incidents")["incidents"])

    wait_for(received, 180, "its own alerts")


def test_a_revoked_machine_is_refused_and_its_detector_continues() -> None:
    compose("exec", "-T", "server", "flockwatch", "revoke", "machine-3", "--state", "/var/lib/flockwatch")
    wait_for(lambda: states()["machine-3"] == "gone", 120)
    health = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/healthz').status)"
    assert inside("machine-3", health) == "200"


def test_no_secret_is_in_a_log() -> None:
    logs = compose("--profile", "*", "logs", "--no-color").stdout
    program = (
        "import re, pathlib; t = pathlib.Path('/etc/flockwatch/settings.yaml').read_text(); "
        "print(*re.findall(r'//[^/:]+:([^@]+)@', t), *re.findall(r'alerts_token: (\\S+)', t))"
    )
    secrets = [s for name in (*TRAINING, "server") for s in inside(name, program).split()]
    assert len(secrets) == 2 * len(TRAINING) + 1
    assert [secret for secret in secrets if secret in logs] == []
    assert "PRIVATE KEY" not in logs


# What the images hold.


def layers(image: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of every file in every layer."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        with tarfile.open(fileobj=saving.stdout, mode="r|") as whole:
            for member in whole:
                blob = whole.extractfile(member)
                if blob is None or not (member.name.endswith("layer.tar") or "blobs/" in member.name):
                    continue
                with suppress(tarfile.ReadError), tarfile.open(fileobj=blob, mode="r|*") as layer:
                    for inner in layer:
                        file = layer.extractfile(inner) if inner.isfile() else None
                        if file is not None:
                            yield inner.name, file.read()


def distributions(image: str) -> set[str]:
    program = "from importlib.metadata import distributions as d; print(*(x.name.lower() for x in d()))"
    return set(docker("run", "--rm", "--entrypoint", "python", image, "-c", program).split())


def test_images_contain_only_the_packages_they_need() -> None:
    server, edge, detector = (distributions(f"flockwatch-{name}") for name in ("server", "edge", "detector"))
    assert {"flockwatch", "flwr", "uvicorn", "psycopg"} <= server
    assert {"flockwatch", "flwr", "keras"} <= edge
    assert {"flockwatch", "numpy", "paho-mqtt"} <= detector
    for installed in (server, detector):
        assert not installed & {"tensorflow", "tensorflow-cpu", "keras"}
    assert not detector & {"flwr", "pyarrow", "grpcio"}
    for installed in (server, edge, detector):
        assert not installed & {"pip", "setuptools", "hatchling", "pytest", "scikit-learn"}


def test_the_detectors_image_is_small() -> None:
    size_mb = int(docker("image", "inspect", "--format", "{{.Size}}", "flockwatch-detector")) / 1e6
    assert size_mb < DETECTOR_MB


@pytest.mark.parametrize("image", OURS)
def test_images_run_as_an_unprivileged_user(image: str) -> None:
    assert docker("image", "inspect", "--format", "{{.Config.User}}", image).strip() == "10001:10001"


@pytest.mark.parametrize("image", OURS)
def test_no_image_has_a_compiler(image: str) -> None:
    program = "import shutil; print([p for p in ('gcc', 'cc', 'g++', 'make', 'git') if shutil.which(p)])"
    output = docker("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", program)
    assert output.strip() == "[]"


def test_no_secret_is_in_a_layer_of_an_image() -> None:
    seen, wrong = 0, []
    for image in OURS:
        for name, content in layers(image):
            seen += 1
            of_debian = name.removeprefix("./").startswith(
                "usr/"
            )  # whose libraries test themselves with keys
            if SECRET_NAMES.search(name) or (PRIVATE.search(content) and not of_debian):
                wrong.append(f"{image}: {name}")
    assert seen > 1000
    assert wrong == []


def test_down_removes_everything() -> None:
    compose("--profile", "*", "down", "--volumes", "--timeout", "20")
    ours = ("--quiet", "--filter", f"label=com.docker.compose.project={Path(PROJECT).name}")
    assert docker("ps", "--all", *ours) + docker("volume", "ls", *ours) + docker("network", "ls", *ours) == ""
