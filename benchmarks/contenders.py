"""Detectors to choose from, each judging one JSON line after the other in a process of its own.

`python -m benchmarks.contenders NAME` prints one JSON line: `events`, `p50_us`, `p99_us`, `events_per_s`,
`alerts`, and for flockwatch `events_per_s_batched`. All decode with msgspec and learn from the same rows. The
streaming ones among the peers would learn from each event, too; here they are only asked to score it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import stream
from client.detection.detector import Detector

Judge = Callable[[bytes], bool]
"""From a line of JSON to whether it is an anomaly."""

WARM_EVENTS, MAX_EVENTS, MAX_S = 200, 100_000, 10.0
BATCH = 64
RANK = 0.995
"""Of the scores of training rows: a peer's threshold."""


def flockwatch() -> Detector:
    """Ours, with a threshold at the budget that it has by default."""
    detector = Detector("bench", stream.SCHEMA, stream.SETTINGS.data, stream.SETTINGS.live)
    manifest = stream.version(1)
    detector.activate(manifest, manifest.scores.quantile(RANK))
    return detector


def _judge(score: Callable[[NDArray[np.float64]], float]) -> Judge:
    """A peer that scores rows of shape (38,), made to judge lines."""
    names = stream.SCHEMA.features
    fields = [(name, float) for name in names]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, array_like=False))
    threshold = float(np.quantile([score(row) for row in _rows(500)], RANK))

    def judge(line: bytes) -> bool:
        event = decoder.decode(line)
        return bool(score(np.array([getattr(event, name) for name in names])) > threshold)

    return judge


def _rows(most: int | None = None) -> NDArray[np.float64]:
    return stream.training_rows()[:most].astype(np.float64)


def half_space_trees() -> Judge:
    """River's, which wants its features between 0 and 1 and takes them as a dict."""
    from river.anomaly import HalfSpaceTrees

    rows = _rows()
    low, high = rows.min(axis=0), rows.max(axis=0)
    scale = dict(
        zip(stream.SCHEMA.features, zip(low.tolist(), (high - low).tolist(), strict=True), strict=True)
    )
    model = HalfSpaceTrees(seed=0)

    def scaled(event: dict[str, float]) -> dict[str, float]:
        return {name: (event[name] - least) / span for name, (least, span) in scale.items()}

    named = [scaled(dict(zip(stream.SCHEMA.features, row, strict=True))) for row in rows.tolist()]
    for row in named:
        model.learn_one(row)
    threshold = float(np.quantile([model.score_one(row) for row in named[:500]], RANK))
    decoder = msgspec.json.Decoder(dict[str, float])
    return lambda line: bool(model.score_one(scaled(decoder.decode(line))) > threshold)


def kitnet() -> Judge:
    """PySAD's: an ensemble of small autoencoders in NumPy."""
    from pysad.models import KitNet

    model = KitNet(grace_feature_mapping=500, grace_anomaly_detector=4500, random_state=0)
    for row in _rows():
        model.fit_partial(row)
    return _judge(lambda row: float(model.score_partial(row)))


def loda() -> Judge:
    """PySAD's: histograms of random projections."""
    from pysad.models import LODA

    model = LODA(random_state=0)
    for row in _rows():
        model.fit_partial(row)
    return _judge(lambda row: float(model.score_partial(row)))


def isolation_forest() -> Judge:
    """scikit-learn's."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=0).fit(_rows())
    return _judge(lambda row: -float(model.score_samples(row[None])[0]))


def hbos() -> Judge:
    """PyOD's fastest: a histogram for each feature."""
    from pyod.models.hbos import HBOS

    model = HBOS().fit(_rows())
    return _judge(lambda row: float(model.decision_function(row[None])[0]))


def keras_predict() -> Judge:
    """The same autoencoder, asked as Keras' tutorials do it."""
    from client.training.trainer import build_model

    model = build_model(stream.version(1).architecture)

    def score(row: NDArray[np.float64]) -> float:
        return float(np.square(model.predict(row[None], verbose=0)[0] - row).mean())

    return _judge(score)


PEERS: dict[str, Callable[[], Judge]] = {
    "river HalfSpaceTrees": half_space_trees,
    "pysad KitNet": kitnet,
    "pysad LODA": loda,
    "scikit-learn IsolationForest": isolation_forest,
    "PyOD HBOS": hbos,
    "keras.Model.predict": keras_predict,
}


def timed(judge: Judge) -> dict[str, float]:
    """How long each of many events takes, from a line to its verdict."""
    events = itertools.cycle(stream.events())
    for line in itertools.islice(events, WARM_EVENTS):
        judge(line)
    taken: list[int] = []
    alerts, clock = 0, time.perf_counter_ns
    started = clock()
    end = started + MAX_S * 1e9
    before = started
    for line in itertools.islice(events, MAX_EVENTS):
        alerts += judge(line)
        now = clock()
        taken.append(now - before)
        before = now
        if now > end:
            break
    p50, p99 = np.percentile(taken, [50, 99]) / 1e3
    seconds = (before - started) / 1e9
    return {
        "events": len(taken), "p50_us": float(p50), "p99_us": float(p99),
        "events_per_s": len(taken) / seconds, "alerts": alerts,
    }  # fmt: skip


def _batched(detector: Detector) -> float:
    """Events a second when `BATCH` of them wait at a time."""
    lines = stream.events()
    batches = [lines[i : i + BATCH] for i in range(0, len(lines), BATCH)]
    started, seen = time.perf_counter(), 0
    for batch in itertools.islice(itertools.cycle(batches), MAX_EVENTS // BATCH):
        detector.step(batch, 0.0)
        seen += len(batch)
    return seen / (time.perf_counter() - started)


def main(name: str) -> None:
    """Time one contender."""
    warnings.simplefilter("ignore")
    if name == "flockwatch":
        detector = flockwatch()
        found = timed(lambda line: detector.step((line,), 0.0).verdicts[0].anomaly)
        found["events_per_s_batched"] = _batched(detector)
    else:
        found = timed(PEERS[name]())
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
