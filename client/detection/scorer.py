"""One version, made ready to score a stream event by event without allocating anything."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.model.ensemble import Ensemble
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.scoring import activate, reconstruct, windows
from common.settings import ScalingSettings

Floats = NDArray[np.float32]

MAX_ERROR = float(np.finfo(np.float32).max)
"""The error of an event so far off that it is no number any more."""
_ROOM = 4096
"""Scaled rows written one after the other before the last window is moved to the front again."""


class Explanation(NamedTuple):
    """What is unusual about a window, feature by feature, each of shape (features,)."""

    share: Floats
    """Of the error, each feature weighed as in the score; they sum to 1."""
    expected: Floats
    """The last event's values as the model reconstructs them, in the features' own units."""


class _Network:
    """One network and what its errors weigh."""

    def __init__(self, manifest: Manifest) -> None:
        self._architecture, self._weights = manifest.architecture, manifest.weights
        self._layers = [
            (
                np.ascontiguousarray(manifest.weights[f"dense_{i}/kernel"]),
                manifest.weights[f"dense_{i}/bias"],
                np.empty(width, np.float32),
                np.zeros(width, np.float32),
                activation,
            )
            for i, (width, activation) in enumerate(
                zip(manifest.architecture.widths[1:], manifest.architecture.activations, strict=True)
            )
        ]
        # A score is the mean of squares, each times its input's precision.
        self.weight = manifest.precision / manifest.architecture.inputs
        self._root = np.sqrt(self.weight)

    def one(self, inputs: Floats) -> float:
        """The weighed error of a scaled window of shape (inputs,)."""
        hidden = inputs
        for kernel, bias, output, zeros, activation in self._layers:
            np.dot(hidden, kernel, out=output)
            np.add(output, bias, out=output)
            if activation == "relu":
                np.maximum(output, zeros, out=output)
            elif activation != "linear":
                output[:] = activate(activation, output)
            hidden = output
        np.subtract(hidden, inputs, out=hidden)
        np.multiply(hidden, self._root, out=hidden)
        error = float(np.dot(hidden, hidden))
        return error if error <= MAX_ERROR else MAX_ERROR

    def many(self, inputs: Floats) -> Floats:
        """The same of windows of shape (n, inputs); shape (n,)."""
        difference = self.reconstructed(inputs) - inputs
        difference *= self._root
        found = np.einsum("ij,ij->i", difference, difference)
        return np.where(found <= MAX_ERROR, found, np.float32(MAX_ERROR))

    def reconstructed(self, inputs: Floats) -> Floats:
        """What it makes of windows of shape (n, inputs), the same shape."""
        return reconstruct(self._architecture, self._weights, inputs)

    def leading(self, inputs: Floats) -> _Network:
        """The network whose errors explain the score of one window, shape (1, inputs)."""
        return self


class _Pair:
    """The two networks of an ensemble."""

    def __init__(self, ensemble: Ensemble, first: _Network, second: _Network) -> None:
        self._ensemble, self._first, self._second = ensemble, first, second

    def one(self, inputs: Floats) -> float:
        """What both errors of a scaled window of shape (inputs,) come to."""
        return self._ensemble.score(self._first.one(inputs), self._second.one(inputs))

    def many(self, inputs: Floats) -> Floats:
        """The same of windows of shape (n, inputs); shape (n,)."""
        return self._ensemble.scores(self._first.many(inputs), self._second.many(inputs))

    def leading(self, inputs: Floats) -> _Network:
        """The network that adds more to the score of one window, shape (1, inputs)."""
        first, second = self._ensemble.parts(self._first.one(inputs[0]), self._second.one(inputs[0]))
        return self._first if first >= second else self._second


class Scorer:
    """Scores events in their order: the error of the window that each one ends.

    The score of an ensemble is what the errors of both networks come to (`common.model.ensemble`).

    Rows are float32 in the features' own units and in the order of the manifest's schema. Overflow is not an
    error here: call it inside `np.errstate(over="ignore", invalid="ignore")`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.version = manifest.version
        self.window = manifest.architecture.window
        networks = [_Network(member) for member in manifest.members]
        ensemble = manifest.ensemble
        self._model = networks[0] if ensemble is None else _Pair(ensemble, *networks)
        scaling = ScalingSettings.model_validate(manifest.settings["scaling"])
        # A client that scales by its own moments was given them with the version (see `Edge.adopted`).
        self._scaler = Scaler.chosen(scaling, manifest.moments, manifest.moments)
        self._mean = self._scaler.mean
        self._inverse = (1 / self._scaler.std).astype(np.float32)
        self._limits = (np.float32(-scaling.clip), np.float32(scaling.clip)) if scaling.clip else None
        features = manifest.architecture.features
        self._rows = np.zeros((self.window - 1 + _ROOM, features), np.float32)
        self._end = 0
        """One after the newest of `_rows`."""

    def follow(self, rows: Floats) -> None:
        """Go on after these rows of shape (n, features): what matters of them is the last `window - 1`."""
        tail = rows[len(rows) - min(len(rows), self.window - 1) :]
        self._rows[: len(tail)] = self._scaler.apply(tail)
        self._end = len(tail)

    def one(self, row: Floats) -> float:
        """The score of the next event, of shape (features,); NaN until there is a whole window."""
        end = self._end
        if end == len(self._rows):
            end = self._make_room()
        scaled = self._rows[end]
        self._scale(row, scaled)
        self._end = end = end + 1
        if end < self.window:
            return math.nan
        inputs = scaled if self.window == 1 else self._rows[end - self.window : end].reshape(-1)
        return self._model.one(inputs)

    def many(self, rows: Floats) -> Floats:
        """The scores of the next n <= MOST events, shape (n, features), NaN as in `one`; shape (n,)."""
        if self._end + len(rows) > len(self._rows):
            self._make_room()
        first, self._end = self._end, self._end + len(rows)
        self._scale(rows, self._rows[first : self._end])
        scores = np.full(len(rows), np.nan, np.float32)
        start = max(0, first - self.window + 1)
        if self._end - start >= self.window:
            inputs = windows(self._rows[start : self._end], self.window)
            found = self._model.many(inputs)
            scores[-len(found) :] = found
        return scores

    def explain(self, rows: Floats) -> Explanation:
        """What makes the last of `rows`, shape (window, features), unusual.

        The model sees what it is scored by, cut off at the scaler's limits; how far off a feature is, is
        measured without them, or the one that leads the others astray could not be told from them. Of an
        ensemble, the network that adds more to the score tells.
        """
        limit = np.float32(1e12)  # beyond it squares overflow, and shares are no numbers
        scaled = np.clip(np.nan_to_num((rows - self._mean) * self._inverse), -limit, limit).reshape(1, -1)
        inputs = scaled if self._limits is None else np.clip(scaled, *self._limits)
        network = self._model.leading(inputs)
        output = network.reconstructed(inputs)
        error = (np.square(output - scaled) * network.weight).reshape(rows.shape).sum(axis=0)
        total = error.sum()
        expected = output.reshape(rows.shape)[-1] * self._scaler.std + self._scaler.mean
        return Explanation(error / total if total > 0 else error, expected)

    def _scale(self, rows: Floats, out: Floats) -> None:
        """What `Scaler.apply` does, without allocating."""
        np.subtract(rows, self._mean, out=out)
        np.multiply(out, self._inverse, out=out)
        if self._limits is not None:
            np.maximum(out, self._limits[0], out=out)
            np.minimum(out, self._limits[1], out=out)

    def _make_room(self) -> int:
        kept = min(self._end, self.window - 1)
        self._rows[:kept] = self._rows[self._end - kept : self._end]
        self._end = kept
        return kept
