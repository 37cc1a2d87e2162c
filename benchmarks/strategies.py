"""`make bench-strategies`: final error when 2 of 8 clients send poisoned updates, with and without a gate."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federations import fleet
from benchmarks.results import publish
from client.training.worker import ClientWorker
from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments, Scaler
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture, Weights, add, scale
from common.protocol.messages import Task, Update
from common.settings import Settings
from flockwatch.quality.federation import federate, shared_trainer

CLIENTS, POISONED = 8, 2
ROWS = 1_200
ROUNDS = 60
STRATEGIES = ("fedavg", "fedmedian", "fedtrimmedavg", "multikrum")
BROKEN_RATIO = 1.5
"""A model counts as broken if its error exceeds this many times that of an unattacked FedAvg run."""


def _random(difference: Weights) -> Weights:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in difference.items()}


ATTACKS: dict[str, Callable[[Weights], Weights]] = {
    "scaled x 100": lambda difference: scale(difference, 100.0),
    "sign-flipped": lambda difference: scale(difference, -1.0),
    "sign-flipped x 5": lambda difference: scale(difference, -5.0),
    "random": _random,
    "NaN": lambda difference: {n: np.full_like(a, np.nan) for n, a in difference.items()},
}


class Poisoner(ClientWorker):
    """A client that sends a manipulated update."""

    attack: Callable[[Weights], Weights]

    def train(self, task: Task) -> Update:
        """Train, and apply the attack to the update."""
        update = super().train(task)
        update.difference.update(self.attack(update.difference))
        return update


def main() -> None:
    """Run every attack under every strategy and publish the table."""
    for name in ("server", "flwr"):  # hundreds of refused updates would each log a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    parts = fleet.partitions(CLIENTS, ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-strategies-") as name:
        folder = Path(name)
        honest_only = slice(CLIENTS - POISONED)
        clean = {s: _guarded(folder / f"clean-{s}", _workers(parts), s, parts) for s in STRATEGIES}
        honest = {
            s: _guarded(folder / f"honest-{s}", _workers(parts)[honest_only], s, parts) for s in STRATEGIES
        }
        rows = [
            ["honest updates", _text(_bare(_workers(parts), parts)), *map(_text, clean.values())],
            ["no update", _text(_bare(_workers(parts)[honest_only], parts)), *map(_text, honest.values())],
        ]
        figures = {}
        worst = dict.fromkeys(STRATEGIES, 0.0)
        for i, (name, attack) in enumerate(ATTACKS.items()):
            bare = _bare(_workers(parts, attack), parts)
            broken = not bare <= BROKEN_RATIO * clean["fedavg"]
            errors = {s: _guarded(folder / f"{i}-{s}", _workers(parts, attack), s, parts) for s in STRATEGIES}
            worst = {s: max(worst[s], errors[s] / clean[s]) for s in STRATEGIES}
            cells = [f"{_text(errors[s])} ({100 * (errors[s] / clean[s] - 1):+.0f} %)" for s in STRATEGIES]
            rows.append([name, f"{_text(bare)}{' !' if broken else ''}", *cells])
            figures[name] = {
                "fedavg_no_gate": round(bare, 5) if math.isfinite(bare) else None, "broken": broken,
                **{s: round(errors[s], 5) for s in STRATEGIES},
            }  # fmt: skip
    publish(
        "strategies",
        f"Final error after {ROUNDS} rounds on the held-out rows of the {CLIENTS - POISONED} honest clients; "
        f"in brackets: change from the same strategy without attack; !: above {BROKEN_RATIO} x clean fedavg",
        [f"{POISONED} of {CLIENTS} clients send", "fedavg, no gate", *(f"gate, {s}" for s in STRATEGIES)],
        rows,
        clean={s: round(error, 5) for s, error in clean.items()},
        honest_alone={s: round(error, 5) for s, error in honest.items()},
        worst_vs_own_clean={s: round(ratio, 4) for s, ratio in worst.items()},
        attacks=figures,
    )


def _settings(strategy: str, clients: int = CLIENTS) -> Settings:
    return Settings().with_values(
        model={"window": 1, "hidden": (12,)},
        training={"batch_size": 32, "holdout": fleet.HOLDOUT},
        scaling={"by": "client"},
        federation={
            "strategy": strategy, "max_rounds": ROUNDS, "min_clients": clients, "patience": 0,
            "quorum": 0.5, "deadline_s": 60.0,
        },
        gate={"norm_limit": 3.0, "norm_action": "refuse"},
        aggregation={"trim": POISONED / CLIENTS, "malicious": POISONED, "select": CLIENTS - POISONED},
    )  # fmt: skip


def _workers(
    parts: list[fleet.Partition], attack: Callable[[Weights], Weights] | None = None
) -> list[ClientWorker]:
    """Return a worker per partition; the last `POISONED` of them attack, if an attack is given."""
    workers: list[ClientWorker] = []
    for i, part in enumerate(parts):
        if attack is None or i < CLIENTS - POISONED:
            workers.append(ClientWorker(part, part.name, get_trainer=shared_trainer))
        else:
            poisoner = Poisoner(part, part.name, get_trainer=shared_trainer)
            poisoner.attack = attack
            workers.append(poisoner)
    return workers


def _guarded(folder: Path, workers: list[ClientWorker], strategy: str, parts: list[fleet.Partition]) -> float:
    """Return the final error of a flockwatch run, with its gate."""
    return _error(federate(workers, _settings(strategy, len(workers)), folder), parts)


def _bare(workers: list[ClientWorker], parts: list[fleet.Partition]) -> float:
    """Return the final error of plain federated averaging of the same updates, without a gate."""
    manifest = _first(parts)
    for _ in range(ROUNDS):
        updates = [worker.train(Task(manifest)) for worker in workers]
        rows = sum(update.rows for update in updates)
        moved = manifest.weights
        with np.errstate(all="ignore"):
            for update in updates:
                moved = add(moved, scale(update.difference, update.rows / rows))
            try:
                manifest = Manifest(
                    manifest.version + 1, manifest.schema, manifest.architecture, moved, manifest.moments,
                    manifest.settings,
                )  # fmt: skip
            except ManifestError:
                return math.nan
    return _error(manifest, parts)


def _first(parts: list[fleet.Partition]) -> Manifest:
    """Return version 0, as the server would make it."""
    settings = _settings("fedavg")
    architecture = Architecture.from_settings(settings.model, len(parts[0].schema))
    return Manifest(
        version=0,
        schema=parts[0].schema,
        architecture=architecture,
        weights=architecture.initial_weights(settings.training.seed),
        moments=Moments.merge_all(Moments.of(part.rows) for part in parts),
        settings=VersionSettings.of(settings),
    )


def _error(manifest: Manifest, parts: list[fleet.Partition]) -> float:
    """Return the mean error on the held-out rows of the honest clients."""
    errors: list[Any] = []
    for part in parts[: CLIENTS - POISONED]:
        held_out = part.rows[-round(len(part.rows) * fleet.HOLDOUT) :]
        rows = Scaler.of(Moments.of(part.rows)).apply(held_out)
        with np.errstate(all="ignore"):
            errors.append(scores(manifest.architecture, manifest.weights, rows).mean(dtype=np.float64))
    return float(np.mean(errors))


def _text(error: float) -> str:
    return f"{error:.4g}" if math.isfinite(error) else "not finite"


if __name__ == "__main__":
    main()
