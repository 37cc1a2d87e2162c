"""Run a server and clients as real processes, and compute the error of each version that they trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.files.partitions import write_partition
from client.data.partition import Partition
from common.config import save
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.schema import Schema
from common.model.scoring import scores
from common.processes.children import Processes
from common.processes.packages import python_module
from common.settings import DataSettings, Settings
from server.flower.superlink_process import flower_environment, free_port

FEATURES = 24
FACTORS = 6
HOLDOUT = 0.2
START_LIMIT_S = 120.0


def partitions(clients: int, rows: int) -> list[Partition]:
    """Generate non-IID partitions: clients share latent factors, in a mixture and at levels of their own."""
    rng = np.random.default_rng(7)
    mixing = rng.standard_normal((FACTORS, FEATURES))
    schema = Schema(tuple(f"f{i:02d}" for i in range(FEATURES)))
    partitions = []
    for client in range(clients):
        client_rng = np.random.default_rng((7, client))
        strength = client_rng.dirichlet(np.full(FACTORS, 0.7)) * FACTORS
        skewed = mixing + 0.4 * client_rng.standard_normal(mixing.shape)
        factors = client_rng.standard_normal((rows, FACTORS)) * np.sqrt(strength)
        values = np.tanh(factors @ skewed / np.sqrt(FACTORS) + 0.5 * client_rng.standard_normal(FEATURES))
        values += 0.15 * client_rng.standard_normal(values.shape)
        rows32 = values.astype(np.float32)
        partitions.append(Partition(f"client-{client}", schema, rows32, rows32[:0], None))
    return partitions


@dataclass(frozen=True)
class Curve:
    """The fleet's held-out error over time: `errors[i]` is that of version i, published at `times[i]`."""

    times: NDArray[np.float64]
    """Seconds since the first version."""
    errors: NDArray[np.float64]

    def reached(self, target: float) -> float | None:
        """Return the seconds until the error first was at the target or below; None if it never was."""
        below = np.flatnonzero(self.errors <= target)
        return float(self.times[below[0]]) if len(below) else None

    @property
    def final(self) -> float:
        """The error of the last version."""
        return float(self.errors[-1])


def run(
    folder: Path,
    parts: Sequence[Partition],
    values: Mapping[str, Mapping[str, object]],
    client: Callable[[int, Path, str], list[str]],
    budget_s: float,
    meanwhile: Callable[[Processes, Callable[[int], None], float], None] = lambda *_: None,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
) -> Curve:
    """Run a server and clients for `budget_s` seconds after version 0, or until the server ends.

    Args:
        folder: A new folder for all files of the run.
        parts: The data of each client.
        values: Settings that differ from the defaults, by section.
        client: Returns a client's command, from its number, its data file and the server's address.
        budget_s: How long to run, in seconds.
        meanwhile: Called every 0.1 s with the processes, a function that starts client i, and the seconds
            since version 0.
        host: The address that the server listens on.
        inside: A prefix of the server's command, such as `ip netns exec NAME`.

    Raises:
        RuntimeError: the server did not publish version 0 within `START_LIMIT_S`.
    """
    folder.mkdir(parents=True)
    files = [write_partition(part, folder / f"{part.name}.parquet", DataSettings()) for part in parts]
    port = free_port()
    sections = {name: dict(section) for name, section in values.items()}
    sections["server"] = {
        "host": host, "port": port, "state": folder / "server", "keep_versions": 100_000,
        "insecure": host != "127.0.0.1",
    }  # fmt: skip
    sections["federation"] = {"min_clients": len(parts), "max_rounds": 100_000, "patience": 0} | sections.get(
        "federation", {}
    )
    config = folder / "settings.yaml"
    save(Settings().with_values(**sections), config)
    with Processes(grace_s=10) as processes:
        command = [*inside, *python_module("flockwatch"), "server", "--config", str(config)]
        environment = flower_environment(folder / "server" / "flower")
        processes.start("server", command, folder / "server.log", environment)

        def start(number: int) -> None:
            name = parts[number].name
            processes.start(
                name,
                client(number, files[number], f"{host}:{port}"),
                folder / f"{name}.log",
                flower_environment(folder / name / "flower"),
            )

        for number in range(len(parts)):
            start(number)
        first = folder / "server" / "versions" / "v000000.safetensors"
        limit = time.monotonic() + START_LIMIT_S
        while not first.exists():
            if time.monotonic() > limit or processes.exit_code("server") is not None:
                raise RuntimeError(f"the run did not start; the log ends:\n{processes.log_tail('server')}")
            time.sleep(0.05)
        began = first.stat().st_mtime
        while (now := time.time() - began) < budget_s and processes.exit_code("server") is None:
            meanwhile(processes, start, now)
            time.sleep(0.1)
    return curve(folder / "server" / "versions", parts)


def curve(versions: Path, parts: Sequence[Partition]) -> Curve:
    """Return the mean over clients of each version's error on their held-out rows.

    Rows are scaled by each client's own moments: the benchmarks set `scaling.by: client`.
    """
    paths = sorted(versions.glob("v*.safetensors"))
    times = np.array([path.stat().st_mtime for path in paths])
    errors = []
    held_out = [Scaler.of(Moments.of(p.rows)).apply(p.rows[-round(len(p.rows) * HOLDOUT) :]) for p in parts]
    for path in paths:
        manifest = Manifest.unpack(path.read_bytes())
        errors.append(
            np.mean([scores(manifest.architecture, manifest.weights, rows).mean() for rows in held_out])
        )
    return Curve(times - times[0], np.array(errors, np.float64))
