"""Mutations of packed model versions: of fields and arrays, in sound files with the right hash."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.formats import bundle
from common.model.histogram import ScoreHistogram
from common.model.weights import digest
from tests.fuzz.mutations import changed

Array = NDArray[Any]
Parts = tuple[dict[str, Any], dict[str, Array]]
"""The fields and the arrays of a packed version."""

VALUES = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-40, 1e30, -1e30, 3e38)
FACTORS = (0.0, -1.0, 1e-30, 1e-3, 30.0, 1e6, 1e30)
DTYPES = (np.float64, np.float16, np.int32, np.uint8, np.bool_)
SETTINGS: tuple[tuple[str, str, Any], ...] = (
    ("training", "epochs", 10**9), ("training", "batch_size", 2**62), ("training", "learning_rate", 1e300),
    ("training", "frozen", 10**9), ("training", "seed", 10**40), ("training", "holdout", 0.999),
    ("training", "proximal_mu", 1e300), ("scoring", "personal_epochs", 10**9), ("scoring", "prior", 10**300),
    ("scoring", "decay", 1e-300), ("scoring", "normalise", False), ("scaling", "clip", 1e-300),
    ("scaling", "clip", 1e300), ("scaling", "by", "none"), ("scaling", "by", "client"),
    ("threshold", "value", 1e300), ("threshold", "budget", "9" * 400 + " per day"),
    ("detector", "family", "pca"), ("detector", "family", "isolation_forest"),
    ("detector", "family", "ensemble"), ("model", "window", 10**9), ("model", "hidden", [10**9]),
)  # fmt: skip
"""Settings that are out of range, or that the fleet's other versions do not have."""


def lying_version(content: bytes, draw: random.Random) -> bytes:
    """Return a version with a mutation or two and, mostly, the right hash."""
    fields, arrays = bundle.unpack(content)
    try:
        for _ in range(draw.choice((1, 1, 2))):
            mutation: Callable[[Parts, random.Random], Parts] = draw.choice(_MUTATIONS)
            fields, arrays = mutation((fields, arrays), draw)
        if draw.random() < 0.95:
            fields["hash"] = hash_of(fields, arrays)
        return bundle.pack(fields, arrays)
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):  # it cannot be packed
        return lying_version(content, draw)


def hash_of(fields: dict[str, Any], arrays: dict[str, Array]) -> str:
    """Return the hash that a reader of a version expects."""
    covered = {name: value for name, value in fields.items() if name != "hash"}
    return hashlib.sha256(f"{json.dumps(covered, sort_keys=True)}{digest(arrays)}".encode()).hexdigest()


def _field(parts: Parts, draw: random.Random) -> Parts:
    fields = changed(parts[0], draw)
    return (fields if isinstance(fields, dict) else parts[0]), parts[1]


def _setting(parts: Parts, draw: random.Random) -> Parts:
    fields, arrays = parts
    section, name, value = draw.choice(SETTINGS)
    settings = {**fields["settings"], section: {**fields["settings"].get(section, {}), name: value}}
    if (section, name) == ("scaling", "by"):
        settings["scaling"].pop("clip", None)
    return {**fields, "settings": settings}, arrays


def _number(parts: Parts, draw: random.Random) -> Parts:
    name = draw.choice(("version", "count"))
    return {**parts[0], name: draw.choice((-1, 0, 1, 2**31, 2**63 - 1, 10**30))}, parts[1]


def _features(parts: Parts, draw: random.Random) -> Parts:
    fields, arrays = parts
    names = list(fields["features"])
    how = draw.randrange(5)
    if how == 0:
        draw.shuffle(names)
    elif how == 1:
        names[draw.randrange(len(names))] = draw.choice(("other", "", "\0\n\u202e", "x" * 5000, names[0]))
    elif how == 2:
        names = [*names, "one more"]
    elif how == 3:
        names = names[1:]
    else:
        names = draw.choice(([], [1], "abc"))
    return {**fields, "features": names}, arrays


def _personalised(parts: Parts, _: random.Random) -> Parts:
    return {**parts[0], "personalised": not parts[0]["personalised"]}, parts[1]


def _values(parts: Parts, draw: random.Random) -> Parts:
    """Replace or scale values of an array."""
    fields, arrays = parts
    name = draw.choice(sorted(arrays))
    array = arrays[name].copy()
    with np.errstate(all="ignore"):
        if draw.random() < 0.5 and array.size:
            some = array.reshape(-1)
            at = slice(None) if draw.random() < 0.3 else draw.randrange(some.size)
            value = draw.choice(VALUES)
            some[at] = value if array.dtype.kind == "f" else np.int64(draw.choice((0, 1, 127, 255)))
        elif array.dtype.kind == "f":
            array = (array * draw.choice(FACTORS)).astype(array.dtype)
    return fields, {**arrays, name: array}


def _shape(parts: Parts, draw: random.Random) -> Parts:
    """Give an array another shape or type, or another array's content; leave it out, or add one."""
    fields, arrays = parts
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    how = draw.randrange(7)
    if how == 0:
        array = array.T
    elif how == 1:
        array = array[:-1] if array.ndim else array[None]
    elif how == 2:
        array = array[None]
    elif how == 3:
        with np.errstate(all="ignore"):
            array = np.nan_to_num(array).astype(draw.choice(DTYPES))
    elif how == 4:
        array = arrays[draw.choice(sorted(arrays))]
    elif how == 5:
        return fields, {other: value for other, value in arrays.items() if other != name}
    else:
        more = draw.choice(("more", "moments/present", "moments/step", "residuals_present", "covariances",
                            "leaf_counts", "ensemble/tails", "weights/dense_9/bias"))  # fmt: skip
        return fields, {**arrays, more: array}
    return fields, {**arrays, name: array}


def _scores(parts: Parts, draw: random.Random) -> Parts:
    """Give it another fleet's scores, so that its threshold would be far too high or too low."""
    fields, arrays = parts
    level = draw.choice((1e-30, 1e-3, 1e3, 1e30))
    count = draw.choice((1, 1000))
    histogram = ScoreHistogram.of(np.full(count, level)) if draw.random() < 0.9 else ScoreHistogram.empty()
    return fields, {**arrays, "scores": np.frombuffer(histogram.pack(), np.uint8)}


def _blinding(parts: Parts, draw: random.Random) -> Parts:
    """Scale the weights of all layers, the spreads or the usual errors, by which faults could be hidden."""
    fields, arrays = parts
    prefix = draw.choice(("weights/", "moments/m2", "moments/within", "moments/", "residuals"))
    factor = draw.choice((0.0, 1e-12, 30.0, 1e6, 1e12, 1e30))
    with np.errstate(all="ignore"):
        scaled = {n: (a * factor).astype(a.dtype) for n, a in arrays.items() if n.startswith(prefix)}
    return fields, {**arrays, **scaled}


def _unknown(parts: Parts, draw: random.Random) -> Parts:
    """Say that no row has some features, or any."""
    fields, arrays = parts
    present = np.full(len(arrays["moments/mean"]), float(fields["count"]))
    present[: draw.choice((1, None))] = draw.choice((0.0, 1.0, np.nan))
    return fields, {**arrays, "moments/present": present}


_MUTATIONS = (
    _field, _field, _setting, _setting, _number, _features, _personalised, _values, _values, _shape, _shape,
    _scores, _blinding, _blinding, _unknown,
)  # fmt: skip
