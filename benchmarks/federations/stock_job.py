"""Run the training job of the round benchmark under stock Flower, as in its tutorial.

SuperLink, SuperNodes and `flwr run` use Flower's defaults: a new process per message, default polling
intervals.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.federations import job
from common.processes.children import Processes
from server.flower.superlink_process import flower_environment

_APP = Path(__file__).parent / "stock_app"
_READY_LIMIT_S = 120.0
_RUN_LIMIT_S = 180.0
_ROUND_LIMIT_S = 120.0


def run(rounds: int, folder: Path) -> list[float]:
    """Run the job and return the duration of each train and evaluate round, in seconds.

    The first round includes warm-up. Logs and Flower's files are written to `folder`.

    Raises:
        RuntimeError: a process failed, a time limit passed, or a round ended without every client's reply.
    """
    folder = folder.absolute()
    home = folder / "flower"
    home.mkdir(parents=True)
    # flockwatch's interval would make stock Flower faster.
    environment = flower_environment(home)
    environment.pop("FLWR_SUPEREXEC_TASK_POLL_INTERVAL")
    times = folder / "times.json"
    port, *node_ports = _free_ports(1 + job.CLIENTS)
    address = f"127.0.0.1:{port}"
    _connection(home / "config.toml", address)
    settings = _settings(folder / "settings.toml", rounds, times)
    bin_folder = Path(sys.executable).parent

    with Processes() as processes:

        def start(name: str, program: str, *arguments: str) -> None:
            command = [str(bin_folder / program), *arguments]
            processes.start(name, command, folder / f"{name}.log", environment)

        start(
            "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port),
            "--disable-runtime-dependency-installation", "--database", str(folder / "superlink.db"),
        )  # fmt: skip
        _wait(processes, _READY_LIMIT_S, lambda: _answers(address))
        for client, node_port in enumerate(node_ports):
            data = folder / f"rows-{client}.npy"
            np.save(data, job.rows(client))
            start(
                f"supernode-{client}", "flower-supernode", "--insecure", "--superlink", address,
                "--port", str(node_port), "--node-config", f'partition-id={client} rows="{data}"',
            )  # fmt: skip
        start("run", "flwr", "run", str(_APP), "local", "--run-config", str(settings), "--stream")
        limit_s = _RUN_LIMIT_S + _ROUND_LIMIT_S * rounds
        _wait(processes, limit_s, lambda: processes.exit_code("run") == 0)
        return _seconds(times, rounds)


def _wait(processes: Processes, limit_s: float, done: Callable[[], bool]) -> None:
    """Wait until `done()`.

    Raises:
        RuntimeError: a process failed, or `limit_s` seconds passed.
    """
    deadline = time.monotonic() + limit_s
    while not done():
        for name in processes.names:
            if processes.exit_code(name):
                raise RuntimeError(f"{name} failed; its log ends:\n{processes.log_tail(name)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not finished within {limit_s:.0f} s")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=5):
            return True
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _connection(file: Path, address: str) -> None:
    file.write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "{address}"\ninsecure = true\n'
    )


def _settings(file: Path, rounds: int, times: Path) -> Path:
    values = {
        "num-server-rounds": rounds,
        "num-clients": job.CLIENTS,
        "features": job.FEATURES,
        "hidden": " ".join(map(str, job.HIDDEN)),
        "local-epochs": job.EPOCHS,
        "batch-size": job.BATCH,
        "holdout": job.HOLDOUT,
        "times": str(times),
    }
    # JSON's strings and numbers are valid TOML.
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return file


def _seconds(times: Path, rounds: int) -> list[float]:
    if not times.exists():
        raise RuntimeError(f"the run ended without round times; see {times.with_name('run.log')}")
    report = json.loads(times.read_text())
    for verb in ("train", "evaluate"):
        if report[verb] != [job.CLIENTS] * rounds:
            raise RuntimeError(
                f"{verb}: replies per round were {report[verb]}, expected {job.CLIENTS} in each of {rounds}; "
                f"see {times.with_name('run.log')}"
            )
    return [after - before for before, after in itertools.pairwise(report["finished"])]
