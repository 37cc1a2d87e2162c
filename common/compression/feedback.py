"""Error feedback: what an encoding left out is added to the next update, so that nothing is lost for good.

Sources: Seide et al. 2014, section 3; Karimireddy et al. 2019, algorithm 1; Stich et al. 2018.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from common.model.weights import Weights, add, subtract


@dataclass(frozen=True, eq=False)
class Feedback:
    """The error of one encoding side.

    With d the true update and s what the other side decodes, the error is e' = e + d - s. If the update is
    then refused or lost, neither d nor s has happened, and the error is what it was: s - d is given back.
    At any time: the sum of s over updates that were not lost, plus the error, is the sum of their d.
    """

    error: Weights = field(default_factory=dict)
    """What was left out so far; empty: nothing."""
    pending: Mapping[int, Weights] = field(default_factory=dict)
    """s - d of updates whose fate is not known yet, by their serial number."""

    def carried(self, update: Weights) -> Weights:
        """What to encode: the update and the error."""
        return add(self.error, update) if self.error else update

    def after(self, serial: int, update: Weights, decoded: Weights, most: int) -> Feedback:
        """Once the update has been encoded, and decodes so. At most `most` stay pending, the newest."""
        surplus = subtract(decoded, update)
        left = subtract(self.carried(update), decoded)
        pending = {**self.pending, serial: surplus}
        return Feedback(left, {n: pending[n] for n in sorted(pending)[-most:]})

    def settled(self, used: Collection[int], waiting: Collection[int]) -> Feedback:
        """Now that it is known which updates were used and which still wait to be: the others are lost."""
        error = self.error
        for serial, surplus in self.pending.items():
            if serial not in used and serial not in waiting:
                error = add(error, surplus) if error else surplus
        return Feedback(error, {n: s for n, s in self.pending.items() if n in waiting})
