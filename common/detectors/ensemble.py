"""An ensemble of one or several detectors, which vote in one unit: surprisal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.detectors.choice import AUTOENCODER, MEMBERS
from common.detectors.contract import DetectorState, DetectorStateError, Floats, OwnDetector, WindowDetector
from common.detectors.tail import CalibratedTail


@dataclass(frozen=True, eq=False)
class EnsembleState:
    """The members of an ensemble, and their tails. The autoencoder is one of them if it has a tail."""

    tails: Mapping[str, CalibratedTail]
    """The tail of each member's scores on this machine's held-out windows, by name."""
    states: Mapping[str, DetectorState]
    """The state of each member but `AUTOENCODER`, by its name in `MEMBERS`."""

    def restored(self, inputs: int, features: int) -> dict[str, OwnDetector]:
        """Return the members but `AUTOENCODER`, by name.

        Raises:
            DetectorStateError: a family is not known, or a state does not fit; the message names it.
        """
        if unknown := self.states.keys() - MEMBERS.keys():
            raise DetectorStateError(f"there is no detector '{min(unknown)}' in this program")
        if not self.tails or self.tails.keys() - {AUTOENCODER} != self.states.keys():
            raise DetectorStateError("the members of the ensemble have not one tail each")
        members = {}
        for name, state in self.states.items():
            try:
                members[name] = MEMBERS[name].restored(state, inputs, features)
            except DetectorStateError as error:
                raise DetectorStateError(f"detector '{name}': {error}") from None
        return members

    def take(self, inputs: NDArray[np.integer]) -> EnsembleState:
        """Return the ensemble for the inputs at these positions, in this order."""
        return EnsembleState(self.tails, {name: state.take(inputs) for name, state in self.states.items()})

    def arrays(self) -> dict[str, Floats]:
        """Return all arrays by name, for a version file."""
        arrays = {f"tail/{name}": tail.packed() for name, tail in self.tails.items()}
        for name, state in self.states.items():
            arrays |= {f"by_input/{name}/{key}": array for key, array in state.by_input.items()}
            arrays |= {f"other/{name}/{key}": array for key, array in state.other.items()}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Floats]) -> EnsembleState:
        """Return the ensemble that `arrays` returned.

        Raises:
            ValueError: an array is not part of an ensemble.
        """
        tails: dict[str, CalibratedTail] = {}
        states: dict[str, DetectorState] = {}
        for path, array in sorted(arrays.items()):
            kind, _, rest = path.partition("/")
            name, _, key = rest.partition("/")
            if kind == "tail":
                tails[name] = CalibratedTail.unpacked(array)
                continue
            state = states.get(name, DetectorState())
            match kind:
                case "by_input":
                    states[name] = DetectorState({**state.by_input, key: array}, state.other)
                case "other":
                    states[name] = DetectorState(state.by_input, {**state.other, key: array})
                case _:
                    raise ValueError(f"'{path}' is no array of an ensemble")
        return cls(tails, states)


class Ensemble:
    """Scores windows by the mean of its members' surprisals (a `WindowDetector`).

    Source: Schubert, Wojdanowski, Zimek and Kriegel 2012, on combining scores after they are calibrated.

    Args:
        members: The detectors by name.
        tails: The tail of each.
    """

    def __init__(self, members: Mapping[str, WindowDetector], tails: Mapping[str, CalibratedTail]) -> None:
        self._members = [(members[name], tails[name]) for name in members]
        self._share = 1 / len(self._members)

    def score_one(self, inputs: Floats) -> float:
        """Return the score of one window, shape (inputs,)."""
        total = 0.0
        for member, tail in self._members:
            total += tail.surprisal(member.score_one(inputs)) * self._share
        return total

    def score_many(self, inputs: Floats) -> Floats:
        """Return the scores of windows of shape (n, inputs), shape (n,)."""
        total = np.zeros(len(inputs), np.float32)
        for member, tail in self._members:
            total += tail.surprisals(member.score_many(inputs)) * np.float32(self._share)
        return total

    def contributions(self, inputs: Floats, unclipped: Floats) -> Floats:
        """Return how much each input adds to the score of a window, shape (inputs,).

        A member's surprisal is divided among the inputs as its own score is.
        """
        total = np.zeros(len(inputs), np.float32)
        for member, tail in self._members:
            parts = member.contributions(inputs, unclipped)
            whole = float(parts.sum(dtype=np.float64))
            surprisal = tail.surprisal(member.score_one(inputs)) * self._share
            if whole > 0 and surprisal > 0:
                total += (parts / whole * surprisal).astype(np.float32)
        return total
