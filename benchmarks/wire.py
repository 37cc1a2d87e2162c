"""`make bench-wire`: bytes of an update on the socket under each codec, and what it costs in detection.

Bytes come from real processes: a server and two clients on real servers' rows, counted by the clients on
their sockets. Average precision and final error come from the same strategy, gate, codecs and edges within
one process (`memory_grid`), where three seeds take minutes and not hours.

The parts are processes of their own (`python -m benchmarks.wire PART [CODEC...]` prints one as JSON lines),
so that on a shared machine they can be run apart; `python -m benchmarks.wire --from FILE...` makes the table.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import fleet
from benchmarks.results import publish
from client.data import Partition, files, read
from common.architecture import Architecture
from common.manifest import Manifest
from common.moments import Scaler
from common.scoring import scores
from common.settings import Settings
from flockwatch.quality.federation import SharingEdge, federate
from server.history import History

if TYPE_CHECKING:
    pass

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
SEEDS = (0, 1, 2)
CLIENTS, SOCKET_CLIENTS = 4, 2
SOCKET_ROUNDS = 5
"""As many updates as there are from one sketch of scores to the next."""
SOCKET_LIMIT_S = 240.0

MODELS: Mapping[str, tuple[int, ...]] = {"asd": (64, 16, 64), "large": (760, 142, 760)}
"""Hidden widths: 26,702 weights by default, and half a million."""

ROUNDS = {"asd": 20, "large": 10}

CODECS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "float16": {"up": "float16"},
    "int8": {"up": "int8"},
    "sign": {"up": "sign"},
    "lowrank 1": {"up": "lowrank", "up_rank": 1},
    "topk_int8 2 %": {"up": "topk_int8", "up_share": 0.02},
    "topk_int8 1 %": {"up": "topk_int8", "up_share": 0.01},
    "topk_int8 2 %, down 10 %": {
        "up": "topk_int8",
        "up_share": 0.02,
        "down": "topk_int8",
        "down_share": 0.1,
    },
}
CHOSEN = {
    "asd": tuple(CODECS),
    "large": ("none", "sign", "topk_int8 1 %"),
}
PARTS = tuple(f"{kind}-{model}" for model in MODELS for kind in ("socket", "quality"))


def main() -> None:
    """Run one part, or all of them, or make the table of parts that were run before."""
    if not DATA.is_dir():
        sys.exit(f"no real data: {DATA} does not exist; FLOCKWATCH_DATA can name the folder above it")
    given = sys.argv[1:]
    if given and given[0] in PARTS:
        kind, _, model = given[0].partition("-")
        codecs = given[1:] or CHOSEN[model]
        for codec in codecs:
            figures = _socket(model, codec) if kind == "socket" else _quality(model, codec)
            print(json.dumps({"part": given[0], "codec": codec, "figures": figures}), flush=True)
        return
    if given[:1] == ["--from"]:
        lines = [Path(name).read_text() for name in given[1:]]
    else:
        command = [sys.executable, "-m", "benchmarks.wire"]
        lines = [
            subprocess.run([*command, part], check=True, stdout=subprocess.PIPE, text=True).stdout
            for part in PARTS
        ]
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for line in "\n".join(lines).splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            found[one["part"]][one["codec"]] = one["figures"]
    _publish(found)


def _partitions(count: int) -> list[Partition]:
    return [read(file, Settings().data) for file in files(DATA)[:count]]


def _settings(model: str, codec: str, seed: int, rounds: int, clients: int) -> Settings:
    return Settings().with_values(
        model={"hidden": MODELS[model]},
        training={"seed": seed},
        federation={"max_rounds": rounds, "min_clients": clients, "patience": 0},
        compression=dict(CODECS[codec]),
    )


# Bytes, by real processes.


def _socket(model: str, codec: str) -> dict[str, float]:
    """Bytes of an update's request, payload down, and what a round moves in all."""
    chosen = _settings(model, codec, 0, SOCKET_ROUNDS, SOCKET_CLIENTS).dump()
    sections = ("model", "training", "federation", "compression")
    with tempfile.TemporaryDirectory(prefix="bench-wire-") as name:
        folder = Path(name) / "run"

        def command(number: int, data: Path, address: str, folder: Path = folder) -> list[str]:
            return [
                sys.executable, "-m", "flockwatch", "client", "--data", str(data), "--server", address,
                "--state", str(folder / f"state-{number}"),
            ]  # fmt: skip

        parts = _partitions(SOCKET_CLIENTS)
        fleet.run(folder, parts, {s: chosen[s] for s in sections}, command, SOCKET_LIMIT_S)
        rounds = History(folder / "server" / "history.sqlite").rounds()
    return _bytes(rounds)


def _bytes(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    # What an update cost is told with the next answer; the first answer tells of the introduction.
    later = [reply for r in rounds[1:] for reply in r["replies"]]
    payloads = [reply["bytes_up"] for r in rounds if r["kind"] == "train" for reply in r["replies"]]
    downs = [r["bytes_down"] / max(1, r["answered"]) for r in rounds[1:] if r["kind"] == "train"]
    return {
        # Means, over as many versions as there are between two sketches of scores.
        "bytes_up": round(statistics.mean(reply["replies_bytes"] for reply in later)),
        "payload_up": round(statistics.mean(payloads)),
        "payload_down": round(statistics.median(downs)),
        "round_up": round(statistics.mean(reply["sent_bytes"] for reply in later)),
        "round_down": round(statistics.median(reply["received_bytes"] for reply in later)),
        "encode_ms": round(1000 * statistics.median(reply["encode_s"] for reply in later), 2),
    }


# Detection, in one process.


def _quality(model: str, codec: str) -> list[tuple[float, float]]:
    """Of each seed: average precision on labelled test rows, and the error on held-out ones."""
    logging.disable(logging.INFO)
    parts = _partitions(CLIENTS)
    found: list[tuple[float, float]] = []
    for seed in SEEDS:
        chosen = _settings(model, codec, seed, ROUNDS[model], CLIENTS)
        with tempfile.TemporaryDirectory(prefix="bench-wire-") as name:
            manifest = federate([SharingEdge(part, part.name) for part in parts], chosen, Path(name))
            error = History(Path(name) / "history.sqlite").rounds()[-1]["error"]
        found.append((_precision(manifest, parts), error))
    return found


def _precision(manifest: Manifest, parts: Sequence[Partition]) -> float:
    """Mean average precision over the clients whose test rows have labels of both kinds."""
    from sklearn.metrics import average_precision_score

    found = []
    for part in parts:
        rows = Scaler.of(manifest.moments).apply(part.test_rows)
        labels = part.test_labels
        if labels is None or len(set(labels.tolist())) < 2:
            continue
        judged = scores(manifest.architecture, manifest.weights, rows)
        found.append(average_precision_score(labels[manifest.architecture.window - 1 :], judged))
    return float(np.mean(found))


def _publish(found: Mapping[str, Any]) -> None:
    """The table and the JSON line."""
    rows, figures = [], []
    for model in MODELS:
        measured = found[f"socket-{model}"].keys() & found[f"quality-{model}"].keys()
        if "none" not in measured:
            continue
        features = len(_partitions(1)[0].schema)
        shape = Architecture.of(_settings(model, "none", 0, 1, 1).model, features)
        weights = sum(int(np.prod(s)) for s in shape.shapes.values())
        plain = found[f"socket-{model}"]["none"]["bytes_up"]
        base = np.array(found[f"quality-{model}"]["none"])
        for codec in (name for name in CHOSEN[model] if name in measured):
            wire, quality = found[f"socket-{model}"][codec], np.array(found[f"quality-{model}"][codec])
            ap, error = quality.mean(axis=0)
            # Seed by seed, since seeds differ more than codecs do.
            losses = 100 * (1 - quality[:, 0] / base[:, 0])
            figure = {
                "model": model, "weights": weights, "codec": codec, **wire,
                "ratio_up": round(plain / wire["bytes_up"], 1),
                "overhead_up": wire["bytes_up"] - wire["payload_up"],
                "ap": round(float(ap), 4), "ap_loss_percent": round(float(losses.mean()), 2),
                "ap_loss_spread": round(float(losses.std(ddof=1)), 2), "error": round(float(error), 5),
            }  # fmt: skip
            figures.append(figure)
            rows.append([
                f"{model}: {codec}", f"{wire['bytes_up']:,.0f}", f"{figure['ratio_up']:.1f}",
                f"{wire['payload_down']:,.0f}", f"{ap:.4f}",
                f"{losses.mean():+.2f} ± {losses.std(ddof=1):.2f}", f"{error:.4f}",
                f"{wire['encode_ms']:.1f}",
            ])  # fmt: skip
    publish(
        "wire",
        f"An update of asd's model and of one of half a million weights: bytes of its request on the socket; "
        f"average precision over {CLIENTS} servers and {len(SEEDS)} seeds after {ROUNDS['asd']} and "
        f"{ROUNDS['large']} rounds",
        ["", "bytes up", "ratio", "task, bytes", "AP", "AP loss %", "error", "encode ms"],
        rows,
        seeds=len(SEEDS),
        rounds=ROUNDS,
        measured=figures,
    )


if __name__ == "__main__":
    main()
