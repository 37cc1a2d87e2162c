"""`make bench-wire`: bytes of an update on the socket with each codec, and the loss in detection quality.

Bytes are counted on the sockets of two client processes that train on rows of real servers. Average precision
and final error come from the same strategy, admission, codecs and workers in one process for each seed
(`server.flower.grid`); precision is that of the live detector's scores by each client's personalised
version. Last, the same run is timed with and without compression, with one client behind a link of 128 kbit/s
and 100 ms.

Each part runs in its own process, as many at a time as there are processors. `python -m benchmarks.wire PART
[CODEC...]` prints the figures of one as JSON lines, and `python -m benchmarks.wire --from FILE...` makes the
table of such files.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.federations import fleet
from benchmarks.results import publish
from client.data.files.partitions import data_files, read_partition
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import ClientWorker
from common.model.manifest import Manifest
from common.model.weights import Architecture, size_of
from common.processes.packages import python_module
from common.settings import Settings
from flockwatch.quality.evaluation import ONE_THREAD
from flockwatch.quality.federation import federate, shared_trainer
from flockwatch.quality.stream import score_stream
from server.federation.compression import SCORES_INTERVAL
from server.storage.history import History
from tests.scenarios.link import SERVER_SIDE, Network, unavailable_reason

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "asd"
SEEDS = (0, 1, 2)
CLIENTS, SOCKET_CLIENTS = 4, 2
SOCKET_ROUNDS = 2 * SCORES_INTERVAL
"""Bytes are measured in the second half, in which one of a client's updates carries scores."""
SOCKET_LIMIT_S = 240.0

MODELS: Mapping[str, tuple[int, ...]] = {"asd": (64, 16, 64), "large": (760, 142, 760)}
"""Hidden widths: 26,702 weights by default, and half a million."""

ROUNDS = {"asd": 100, "large": 60}
ROWS = {"asd": 1, "large": 3}
"""Divisor of the number of training rows; the newest are used, so that the large model trains in time."""
EARLY = 20
"""Version that shows the loss after a short run: error feedback makes up for much of it later."""
EVALUATED = 3
"""Number of last versions over which average precision is averaged, since it varies by a percent."""

COMMON: Mapping[str, Mapping[str, Any]] = {
    "none": {"up": "none"},
    "int8": {"up": "int8"},
    "topk 2 %": {"up": "topk", "up_share": 0.02},
}
CODECS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "asd": {
        **COMMON,
        "ternary 8 %": {"up": "ternary", "up_share": 0.08},
        "ternary 8 %, down 20 %": {
            "up": "ternary", "up_share": 0.08, "down": "ternary", "down_share": 0.2,
        },
    },
    "large": {
        **COMMON,
        "ternary 4 %": {"up": "ternary", "up_share": 0.04},
        "ternary 4 %, down 20 %": {
            "up": "ternary", "up_share": 0.04, "down": "ternary", "down_share": 0.2,
        },
    },
}  # fmt: skip

LINK_ROUNDS, LINK_LIMIT_S = 8, 400.0
LINK_DELAY_S, LINK_BYTES_PER_S = 0.1, 128_000 / 8
LINK_CODECS = ("none", "ternary 8 %, down 20 %")

PARTS = (
    *(f"quality-{model}-{seed}" for model in ("large", "asd") for seed in SEEDS),
    *(f"socket-{model}" for model in MODELS),
)
LINK = "link"
"""The part that runs alone, because it is timed."""


def main() -> None:
    """Run one part or all of them, or make the table of parts that were run before."""
    if not DATA.is_dir():
        sys.exit(f"no real data: {DATA} does not exist; FLOCKWATCH_DATA can name the folder above it")
    arguments = sys.argv[1:]
    if arguments and arguments[0] in (*PARTS, LINK):
        _run(arguments[0], arguments[1:])
        return
    if arguments[:1] == ["--from"]:
        lines = [Path(name).read_text() for name in arguments[1:]]
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            lines = list(pool.map(_alone, PARTS))
        lines.append(_alone(LINK))
    figures: dict[str, dict[str, Any]] = {part: {} for part in (*PARTS, LINK)}
    for line in "\n".join(lines).splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            figures[one["part"]][one["codec"]] = one["figures"]
    _publish(figures)


def _alone(part: str) -> str:
    """Run a part as a process and return its output."""
    command = [*python_module("benchmarks.wire"), part]
    threads = os.environ | dict.fromkeys(ONE_THREAD, "1")
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=threads).stdout


def _run(part: str, codecs: Sequence[str]) -> None:
    kind, model, seed = (*part.split("-"), "asd", "0")[:3]
    if part == LINK and (reason := unavailable_reason()) is not None:
        print(f"no link of 128 kbit/s: {reason}", file=sys.stderr)
        return
    for codec in codecs or (LINK_CODECS if part == LINK else CODECS[model]):
        figures: Any
        match kind:
            case "quality":
                figures = _quality(model, codec, int(seed))
            case "socket":
                figures = _socket(model, codec)
            case _:
                figures = _over_the_link(codec)
        print(json.dumps({"part": part, "codec": codec, "figures": figures}), flush=True)


def _partitions(model: str, count: int) -> list[Partition]:
    whole = [read_partition(file, Settings().data) for file in data_files(DATA)[:count]]
    return [
        part.take(
            part.name,
            np.arange(len(part.rows) - len(part.rows) // ROWS[model], len(part.rows)),
            np.arange(len(part.test_rows)),
        )
        for part in whole
    ]


def _settings(model: str, codec: str, seed: int, rounds: int, clients: int) -> Settings:
    return Settings().with_values(
        model={"hidden": MODELS[model]},
        training={"seed": seed},
        federation={"max_rounds": rounds, "min_clients": clients, "patience": 0},
        server={"keep_versions": rounds + 1},
        compression=dict(CODECS[model][codec]),
    )


# Bytes, measured on real processes.


def _socket(model: str, codec: str) -> dict[str, float]:
    """Return the bytes of an update's request, of a task's payload, and of a whole round."""
    with tempfile.TemporaryDirectory(prefix="bench-wire-") as name:
        folder = Path(name) / "run"
        _processes(model, folder, _settings(model, codec, 0, SOCKET_ROUNDS, SOCKET_CLIENTS), SOCKET_LIMIT_S)
        return _bytes(History(folder / "server" / "history.sqlite").rounds())


def _over_the_link(codec: str) -> dict[str, float]:
    """Return the seconds from the first task to the last version, one of two clients being on a slow link."""
    settings = _settings("asd", codec, 0, LINK_ROUNDS, SOCKET_CLIENTS)
    network = Network()
    try:
        network.set(delay_s=LINK_DELAY_S, bytes_per_s=LINK_BYTES_PER_S)
        with tempfile.TemporaryDirectory(prefix="bench-wire-") as name:
            curve = _processes("asd", Path(name) / "run", settings, LINK_LIMIT_S, network)
    finally:
        network.close()
    return {"run_s": round(float(curve.times[-1]), 1)}


def _processes(
    model: str, folder: Path, settings: Settings, limit_s: float, network: Network | None = None
) -> fleet.Curve:
    """Run a server and clients until the last round; with a network, the last client is on its far side."""
    sections = {name: settings.dump()[name] for name in ("model", "training", "federation", "compression")}
    near = network.command_prefix(network.server) if network is not None else []
    far = network.command_prefix(network.client_side) if network is not None else []

    def command(number: int, data: Path, address: str) -> list[str]:
        return [
            *(far if number == SOCKET_CLIENTS - 1 else near),
            *python_module("flockwatch"), "client", "--data", str(data), "--server", address,
            "--state", str(folder / f"state-{number}"),
        ]  # fmt: skip

    host = SERVER_SIDE if network is not None else "127.0.0.1"
    parts = _partitions(model, SOCKET_CLIENTS)
    curve = fleet.run(folder, parts, sections, command, limit_s, host=host, inside=near)
    made, rounds = len(curve.times) - 1, settings.federation.max_rounds
    if made < rounds:
        raise RuntimeError(f"{made} of {rounds} rounds in {limit_s:.0f} s")
    return curve


def _bytes(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    measured = [r for r in rounds if r["kind"] == "train"][-SCORES_INTERVAL:]
    # The bytes of an update are reported with the next answer; those of the last one, with its evaluation.
    later = [reply for r in rounds[-SCORES_INTERVAL:] for reply in r["replies"]]
    payloads = [reply["bytes_up"] for r in measured for reply in r["replies"]]
    downs = [r["bytes_down"] / max(1, r["answered"]) for r in measured]
    return {
        # Means over as many updates as there are from one histogram of scores to the next.
        "bytes_up": round(statistics.mean(reply["replies_bytes"] for reply in later)),
        "payload_up": round(statistics.mean(payloads)),
        "payload_down": round(statistics.median(downs)),
        "round_up": round(statistics.mean(reply["sent_bytes"] for reply in later)),
        "round_down": round(statistics.median(reply["received_bytes"] for reply in later)),
        "encode_ms": round(1000 * statistics.median(reply["encode_s"] for reply in later), 2),
    }


# Detection quality, in one process.


def _quality(model: str, codec: str, seed: int) -> dict[str, float]:
    """Return the average precision on labelled test rows, and the last version's error on held-out rows."""
    logging.disable(logging.INFO)
    parts = _partitions(model, CLIENTS)
    settings = _settings(model, codec, seed, ROUNDS[model], CLIENTS)
    workers = [ClientWorker(part, part.name, get_trainer=shared_trainer) for part in parts]
    with tempfile.TemporaryDirectory(prefix="bench-wire-") as name:
        federate(workers, settings, Path(name))
        versions = sorted(Path(name, "versions").glob("v*.safetensors"))

        def precision(version: Path) -> float:
            manifest = Manifest.unpack(version.read_bytes())
            own = [_precision(personalise(manifest, ClientRows(p), shared_trainer), p) for p in parts]
            return float(np.mean(own))

        history = History(Path(name, "history.sqlite"))
        error = history.rounds()[-1]["error"]
        history.close()
        return {
            "ap_early": precision(versions[EARLY]),
            "ap": float(np.mean([precision(version) for version in versions[-EVALUATED:]])),
            "error": error,
        }


def _precision(manifest: Manifest, part: Partition) -> float:
    """Return the average precision of a client's personalised version over its test rows."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(part.test_labels, score_stream(manifest, part).test))


def _losses(seeds: Sequence[Mapping[str, Any]], codec: str, figure: str) -> NDArray[np.float64]:
    """Return the percent lost compared with no compression, by seed: seeds differ more than codecs."""
    kept = np.array([seed[codec][figure] / seed["none"][figure] for seed in seeds])
    return 100 * (1 - kept)


def _publish(parts: Mapping[str, Any]) -> None:
    """Print and write the table and the figures."""
    rows, figures = [], []
    for model in MODELS:
        seeds = [parts[f"quality-{model}-{seed}"] for seed in SEEDS]
        complete = parts[f"socket-{model}"].keys() & set.intersection(*(set(seed) for seed in seeds))
        if "none" not in complete:
            continue
        features = len(_partitions(model, 1)[0].schema)
        shape = Architecture.from_settings(_settings(model, "none", 0, 1, 1).model, features)
        plain = parts[f"socket-{model}"]["none"]["bytes_up"]
        for codec in (name for name in CODECS[model] if name in complete):
            measured = parts[f"socket-{model}"][codec]
            losses, early = (_losses(seeds, codec, figure) for figure in ("ap", "ap_early"))
            figure = {
                "model": model, "weights": size_of(shape.shapes), "codec": codec,
                "rounds": ROUNDS[model], "seeds": len(SEEDS), **measured,
                "ratio_up": round(plain / measured["bytes_up"], 1),
                "overhead_up": measured["bytes_up"] - measured["payload_up"],
                "ap": round(float(np.mean([seed[codec]["ap"] for seed in seeds])), 4),
                "ap_loss_percent": round(float(losses.mean()), 2),
                "ap_loss_spread": round(float(losses.std(ddof=1)), 2),
                f"ap_loss_percent_after_{EARLY}": round(float(early.mean()), 2),
                "error": round(float(np.mean([seed[codec]["error"] for seed in seeds])), 5),
            }  # fmt: skip
            figures.append(figure)
            rows.append([
                f"{model}: {codec}", f"{measured['bytes_up']:,.0f}", f"{figure['ratio_up']:.1f}",
                f"{measured['payload_down']:,.0f}", f"{figure['ap']:.4f}",
                f"{losses.mean():+.2f} ± {losses.std(ddof=1):.2f}", f"{early.mean():+.2f}",
                f"{figure['error']:.4f}",
                f"{measured['encode_ms']:.1f}",
            ])  # fmt: skip
    title = (
        f"An update of asd's model and of one of half a million weights: bytes of its request on the socket; "
        f"average precision over {CLIENTS} servers and {len(SEEDS)} seeds, mean of the last {EVALUATED} of "
        f"{ROUNDS['asd']} and {ROUNDS['large']} versions"
    )
    timed = {codec: one["run_s"] for codec, one in parts[LINK].items()}
    if set(LINK_CODECS) <= timed.keys():
        plain_s, compressed_s = (timed[codec] for codec in LINK_CODECS)
        title += (
            f". Over 128 kbit/s and 100 ms {LINK_ROUNDS} rounds take {plain_s:.1f} s without compression and "
            f"{compressed_s:.1f} s with {LINK_CODECS[1]}: {plain_s / compressed_s:.1f} times sooner"
        )
        for figure in figures:
            if figure["model"] == "asd" and figure["codec"] in timed:
                figure["link_s"] = timed[figure["codec"]]
                figure["link_ratio"] = round(plain_s / figure["link_s"], 1)
    publish(
        "wire",
        title,
        ["", "bytes up", "ratio", "task, bytes", "AP", "AP loss %", f"after {EARLY}", "error", "encode ms"],
        rows,
        figures,
    )


if __name__ == "__main__":
    main()
