"""Rounds of the benchmark job under stock Flower: SuperLink, SuperNodes and `flwr run`, as in its tutorial.

    python -m benchmarks.stock [ROUNDS]

Flower runs with its defaults: a new process for each message, its own polling intervals.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import job
from benchmarks.processes import Processes, free_ports

_APP = Path(__file__).parent / "stock_app"
_READY_LIMIT_S = 120.0
_RUN_LIMIT_S = 180.0
_ROUND_LIMIT_S = 120.0


def run(rounds: int, folder: Path) -> list[float]:
    """Seconds of each round, train and evaluate; the first one includes warming up.

    Logs and all of Flower's files stay in `folder`. Raises if a process fails, if a time limit passes,
    or if a round was finished without an answer from every client.
    """
    folder = folder.absolute()
    with Processes(folder) as processes:
        times = folder / "times.json"
        for old in (times, *folder.glob("superlink.db*")):
            old.unlink(missing_ok=True)
        port, *node_ports = free_ports(1 + job.CLIENTS)
        address = f"127.0.0.1:{port}"
        _connection(processes.flwr_home / "config.toml", address)
        settings = _settings(folder / "settings.toml", rounds, times)

        processes.start(
            "superlink",
            *("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)),
            *("--disable-runtime-dependency-installation", "--database", str(folder / "superlink.db")),
        )
        processes.wait_healthy("superlink", address, _READY_LIMIT_S)
        for client, node_port in enumerate(node_ports):
            data = folder / f"rows-{client}.npy"
            np.save(data, job.rows(client))
            processes.start(
                f"supernode-{client}",
                *("flower-supernode", "--insecure", "--superlink", address, "--port", str(node_port)),
                *("--node-config", f'partition-id={client} rows="{data}"'),
            )
        processes.start("run", "flwr", "run", str(_APP), "local", "--run-config", str(settings), "--stream")
        processes.wait("run", _RUN_LIMIT_S + _ROUND_LIMIT_S * rounds)
        return _seconds(times, rounds)


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
    # JSON's strings and numbers are TOML's too.
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return file


def _seconds(times: Path, rounds: int) -> list[float]:
    if not times.exists():
        raise RuntimeError(f"the run ended without writing its times; see {times.with_name('run.log')}")
    report = json.loads(times.read_text())
    for verb in ("train", "evaluate"):
        if report[verb] != [job.CLIENTS] * rounds:
            raise RuntimeError(
                f"{verb}: answers per round were {report[verb]}, expected {job.CLIENTS} in each of {rounds}; "
                f"see {times.with_name('run.log')}"
            )
    return [after - before for before, after in itertools.pairwise(report["finished"])]


def main() -> None:
    """Print the seconds of each round, and the median without the first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    if rounds < 2:
        sys.exit("rounds: expected 2 or more, as the first one is reported apart")
    folder = Path(tempfile.mkdtemp(prefix="stock-flower-"))  # kept for its logs if the run fails
    first, *others = run(rounds, folder)
    shutil.rmtree(folder)
    print(f"stock Flower: first round {first:.2f} s, then {' '.join(f'{s:.2f}' for s in others)} s")
    print(f"stock Flower: median {statistics.median(others):.2f} s per round ({len(others)} rounds)")


if __name__ == "__main__":
    main()
