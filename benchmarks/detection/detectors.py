"""flockwatch's detector and its peers, each timed on a stream of JSON lines in its own process.

`python -m benchmarks.detection.detectors NAME` prints one JSON line: `events`, `p50_us`, `p99_us`,
`events_per_s`, `alerts`, and for flockwatch `events_per_s_batched`. All of them decode with msgspec and are
trained on the same rows. Streaming peers could also learn from each event; here they only score it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import stream
from client.detection.detector import Detector
from common.detectors.choice import FAMILIES
from common.model.manifest import Manifest

Classifier = Callable[[bytes], bool]
"""Takes one JSON line; returns whether the event is anomalous."""

WARM_UP_EVENTS, MAX_EVENTS, MAX_S = 200, 100_000, 10.0
BATCH = 64
QUANTILE = 0.995
"""The threshold is this quantile of the scores of training rows."""


VERSIONS: dict[str, Callable[[], Manifest]] = {
    "flockwatch": lambda: stream.version(1),
    "flockwatch, window 10": lambda: stream.version(1, window=10),
    **{
        f"flockwatch, window 10, {family}": partial(stream.family_version, family, 10)
        for family in FAMILIES
        if family != "autoencoder"
    },
}
"""Versions that flockwatch's detector is timed with."""


def flockwatch(manifest: Manifest) -> Detector:
    """Return flockwatch's detector with a version."""
    detector = Detector("bench", stream.SCHEMA, stream.SETTINGS.data, stream.SETTINGS.live)
    detector.activate(manifest, manifest.scores.quantile(QUANTILE))
    return detector


def _classifier(score: Callable[[NDArray[np.float64]], float]) -> Classifier:
    """Return a classifier of JSON lines for a peer that scores rows of shape (38,)."""
    names = stream.SCHEMA.features
    fields = [(name, float) for name in names]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, array_like=False))
    threshold = float(np.quantile([score(row) for row in _rows(500)], QUANTILE))

    def classify(line: bytes) -> bool:
        event = decoder.decode(line)
        return bool(score(np.array([getattr(event, name) for name in names])) > threshold)

    return classify


def _rows(count: int | None = None) -> NDArray[np.float64]:
    return stream.training_rows()[:count].astype(np.float64)


def half_space_trees() -> Classifier:
    """Return River's HalfSpaceTrees, which expects a dict of features between 0 and 1."""
    from river.anomaly import HalfSpaceTrees

    rows = _rows()
    low, high = rows.min(axis=0), rows.max(axis=0)
    scale = dict(
        zip(stream.SCHEMA.features, zip(low.tolist(), (high - low).tolist(), strict=True), strict=True)
    )
    model = HalfSpaceTrees(seed=0)

    def scaled(event: dict[str, float]) -> dict[str, float]:
        return {name: (event[name] - minimum) / span for name, (minimum, span) in scale.items()}

    events = [scaled(dict(zip(stream.SCHEMA.features, row, strict=True))) for row in rows.tolist()]
    for event in events:
        model.learn_one(event)
    threshold = float(np.quantile([model.score_one(event) for event in events[:500]], QUANTILE))
    decoder = msgspec.json.Decoder(dict[str, float])
    return lambda line: bool(model.score_one(scaled(decoder.decode(line))) > threshold)


def kitnet() -> Classifier:
    """Return PySAD's KitNet: an ensemble of small autoencoders in NumPy."""
    from pysad.models import KitNet

    model = KitNet(grace_feature_mapping=500, grace_anomaly_detector=4500, random_state=0)
    for row in _rows():
        model.fit_partial(row)
    return _classifier(lambda row: float(model.score_partial(row)))


def loda() -> Classifier:
    """Return PySAD's LODA: histograms of random projections."""
    from pysad.models import LODA

    model = LODA(random_state=0)
    for row in _rows():
        model.fit_partial(row)
    return _classifier(lambda row: float(model.score_partial(row)))


def isolation_forest() -> Classifier:
    """Return scikit-learn's IsolationForest."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=0).fit(_rows())
    return _classifier(lambda row: -float(model.score_samples(row[None])[0]))


def hbos() -> Classifier:
    """Return PyOD's HBOS, its fastest detector: one histogram per feature."""
    from pyod.models.hbos import HBOS

    model = HBOS().fit(_rows())
    return _classifier(lambda row: float(model.decision_function(row[None])[0]))


def keras_predict() -> Classifier:
    """Return flockwatch's autoencoder, scored by `keras.Model.predict`."""
    from client.training.trainer import build_model

    model = build_model(stream.version(1).architecture)

    def score(row: NDArray[np.float64]) -> float:
        return float(np.square(model.predict(row[None], verbose=0)[0] - row).mean())

    return _classifier(score)


PEERS: dict[str, Callable[[], Classifier]] = {
    "river HalfSpaceTrees": half_space_trees,
    "pysad KitNet": kitnet,
    "pysad LODA": loda,
    "scikit-learn IsolationForest": isolation_forest,
    "PyOD HBOS": hbos,
    "keras.Model.predict": keras_predict,
}


def timed(classify: Classifier) -> dict[str, float]:
    """Measure how long each event takes, from the JSON line to the verdict."""
    events = itertools.cycle(stream.events())
    for line in itertools.islice(events, WARM_UP_EVENTS):
        classify(line)
    durations_ns: list[int] = []
    alerts, clock = 0, time.perf_counter_ns
    started = clock()
    end = started + MAX_S * 1e9
    before = started
    for line in itertools.islice(events, MAX_EVENTS):
        alerts += classify(line)
        now = clock()
        durations_ns.append(now - before)
        before = now
        if now > end:
            break
    p50, p99 = np.percentile(durations_ns, [50, 99]) / 1e3
    seconds = (before - started) / 1e9
    return {
        "events": len(durations_ns), "p50_us": float(p50), "p99_us": float(p99),
        "events_per_s": len(durations_ns) / seconds, "alerts": alerts,
    }  # fmt: skip


def _batched(detector: Detector) -> float:
    """Measure events per second when `BATCH` of them are scored in one step."""
    lines = stream.events()
    batches = [lines[i : i + BATCH] for i in range(0, len(lines), BATCH)]
    started, scored = time.perf_counter(), 0
    for batch in itertools.islice(itertools.cycle(batches), MAX_EVENTS // BATCH):
        detector.step(batch, 0.0)
        scored += len(batch)
    return scored / (time.perf_counter() - started)


def main(name: str) -> None:
    """Time one detector and print its figures as a JSON line."""
    warnings.simplefilter("ignore")
    if name in VERSIONS:
        detector = flockwatch(VERSIONS[name]())
        figures = timed(lambda line: detector.step((line,), 0.0).verdicts[0].anomaly)
        figures["events_per_s_batched"] = _batched(detector)
    else:
        figures = timed(PEERS[name]())
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
