"""An ensemble of one or several detectors, which vote in one unit: surprisal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.detectors.choice import AUTOENCODER, MEMBERS, PCA, RECONSTRUCTING
from common.detectors.contract import DetectorState, DetectorStateError, Floats, OwnDetector, WindowDetector
from common.detectors.tail import CalibratedTail

MIN_SHARE = 0.02
"""Smallest share that one part of the members has of the votes of both."""
AUTOENCODER_SHARE = 0.7
"""The autoencoder's share of the votes of the members that reconstruct, with many own windows."""


@dataclass(frozen=True, eq=False)
class EnsembleState:
    """Members of an ensemble, their tails and weights. The autoencoder is one of them if it has a tail."""

    tails: Mapping[str, CalibratedTail]
    """The tail of each member's scores on this machine's held-out windows, by name."""
    states: Mapping[str, DetectorState]
    """The state of each member but `AUTOENCODER`, by its name in `MEMBERS`."""
    weights: Mapping[str, float]
    """The weight of each member's surprisal, by name: above 0, their sum 1."""

    def restored(self, inputs: int, features: int) -> dict[str, OwnDetector]:
        """Return the members but `AUTOENCODER`, by name.

        Raises:
            DetectorStateError: a family is not known, or a state does not fit; the message names it.
        """
        if unknown := self.states.keys() - MEMBERS.keys():
            raise DetectorStateError(f"there is no detector '{min(unknown)}' in this program")
        if not self.tails or self.tails.keys() - {AUTOENCODER} != self.states.keys():
            raise DetectorStateError("the members of the ensemble have not one tail each")
        weights = self.weights.values()
        if self.weights.keys() != self.tails.keys() or not (
            min(weights) > 0 and abs(sum(weights) - 1) < 1e-3
        ):
            raise DetectorStateError("the members of the ensemble have not one weight each, with the sum 1")
        members = {}
        for name, state in self.states.items():
            try:
                members[name] = MEMBERS[name].restored(state, inputs, features)
            except DetectorStateError as error:
                raise DetectorStateError(f"detector '{name}': {error}") from None
        return members

    def take(self, inputs: NDArray[np.integer]) -> EnsembleState:
        """Return the ensemble for the inputs at these positions, in this order."""
        states = {name: state.take(inputs) for name, state in self.states.items()}
        return EnsembleState(self.tails, states, self.weights)

    def arrays(self) -> dict[str, Floats]:
        """Return all arrays by name, for a version file."""
        arrays = {f"tail/{name}": tail.packed() for name, tail in self.tails.items()}
        arrays |= {f"weight/{name}": np.array([weight], np.float32) for name, weight in self.weights.items()}
        for name, state in self.states.items():
            arrays |= {f"by_input/{name}/{key}": array for key, array in state.by_input.items()}
            arrays |= {f"other/{name}/{key}": array for key, array in state.other.items()}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Floats]) -> EnsembleState:
        """Return the ensemble that `arrays` returned. Where no member has a weight, all have the same.

        Raises:
            ValueError: an array is not part of an ensemble.
        """
        tails: dict[str, CalibratedTail] = {}
        weights: dict[str, float] = {}
        states: dict[str, DetectorState] = {}
        for path, array in sorted(arrays.items()):
            kind, _, rest = path.partition("/")
            name, _, key = rest.partition("/")
            if kind == "tail":
                tails[name] = CalibratedTail.unpacked(array)
                continue
            if kind == "weight":
                weights[name] = float(array.item())
                continue
            state = states.get(name, DetectorState())
            match kind:
                case "by_input":
                    states[name] = DetectorState({**state.by_input, key: array}, state.other)
                case "other":
                    states[name] = DetectorState(state.by_input, {**state.other, key: array})
                case _:
                    raise ValueError(f"'{path}' is no array of an ensemble")
        return cls(tails, states, weights or dict.fromkeys(tails, 1 / max(len(tails), 1)))


def voting_weights(
    members: Collection[str], states: Mapping[str, DetectorState], own: float
) -> dict[str, float]:
    """Return the weight of each member's vote.

    Where few principal components hold most of the variance of a machine's windows, its features depend on
    each other, and a window that few numbers do not reproduce is unusual. Where nearly as many components are
    needed as there are dimensions, reproduction says little, and the values themselves have to be compared.
    So the members that reconstruct share the cube of the share of the dimensions that the components of PCA
    leave out, and the others have the rest. Of the first, the autoencoder has less than PCA while its machine
    has few windows, as it takes more of them to adapt a network. Both rules were chosen by labels
    (`docs/decisions/0021-the-default-is-an-ensemble.md`).

    Args:
        members: Their names, at least one.
        states: Their states; without PCA among them all votes count the same.
        own: The weight of the machine's own windows beside the fleet's, 0 to 1.
    """
    kinds = [[name for name in members if (name in RECONSTRUCTING) == kind] for kind in (True, False)]
    components = next((states[name].by_input["components"] for name in PCA if name in states), None)
    if components is None or not all(kinds):
        return dict.fromkeys(members, 1 / len(members))
    left_out = 1 - len(components) / components.shape[1]
    share = min(max(left_out**3, MIN_SHARE), 1 - MIN_SHARE)
    reconstructing, others = kinds
    weights = dict.fromkeys(others, (1 - share) / len(others))
    if AUTOENCODER in reconstructing:
        weights[AUTOENCODER] = share * min(max(AUTOENCODER_SHARE * own, MIN_SHARE), 1 - MIN_SHARE)
        share -= weights[AUTOENCODER]
        reconstructing.remove(AUTOENCODER)
    weights |= dict.fromkeys(reconstructing, share / len(reconstructing))
    return {name: weights[name] for name in members}


class Ensemble:
    """Scores windows by the weighted mean of its members' surprisals (a `WindowDetector`).

    Source: Schubert, Wojdanowski, Zimek and Kriegel 2012, on combining scores after they are calibrated.

    Args:
        members: The detectors by name.
        tails: The tail of each.
        weights: The weight of each; their sum is 1.
    """

    def __init__(
        self,
        members: Mapping[str, WindowDetector],
        tails: Mapping[str, CalibratedTail],
        weights: Mapping[str, float],
    ) -> None:
        self._members = [(members[name], tails[name], weights[name]) for name in members]

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        total = 0.0
        for member, tail, weight in self._members:
            total += tail.surprisal(member.score_one(inputs)) * weight
        return total

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        total = np.zeros(len(inputs), np.float32)
        for member, tail, weight in self._members:
            total += tail.surprisals(member.score_many(inputs)) * np.float32(weight)
        return total

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return how much each input adds to the score of a window, shape (inputs,).

        A member's surprisal is divided among the inputs as its own score is.
        """
        total = np.zeros(len(inputs), np.float32)
        for member, tail, weight in self._members:
            parts = member.contributions(inputs, unclipped)
            whole = float(parts.sum(dtype=np.float64))
            surprisal = tail.surprisal(member.score_one(inputs)) * weight
            if whole > 0 and surprisal > 0:
                total += (parts / whole * surprisal).astype(np.float32)
        return total
