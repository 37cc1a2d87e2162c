"""Error feedback: what an encoding omits is added to the next update, so that nothing is lost for good.

Sources: Seide et al. 2014, section 3; Karimireddy et al. 2019, algorithm 1; Stich et al. 2018.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from common.model.weights import Weights, add, subtract


@dataclass(frozen=True, eq=False)
class Feedback:
    """The error of one encoding side.

    With d the true update and s its decoding on the other side, the error becomes e' = e + d - s. If the
    update is then rejected or lost, s - d is added back, so that the error is as it was before. At any time
    the sum of s over the updates that were not lost, plus the error, is the sum of their d.
    """

    error: Weights = field(default_factory=dict)
    """The values omitted so far; empty if none were."""
    pending: Mapping[int, Weights] = field(default_factory=dict)
    """s - d of updates whose outcome is not known yet, by serial number."""

    def corrected(self, update: Weights) -> Weights:
        """Return the values to encode: the update plus the error."""
        return add(self.error, update) if self.error else update

    def after_encoding(self, serial: int, update: Weights, decoded: Weights, max_pending: int) -> Feedback:
        """Return the feedback once an update was encoded.

        Args:
            serial: The update's serial number.
            update: The true update, without the error.
            decoded: What the other side decodes.
            max_pending: Updates that stay pending: the newest.
        """
        pending = {**self.pending, serial: subtract(decoded, update)}
        error = subtract(self.corrected(update), decoded)
        return Feedback(error, {n: pending[n] for n in sorted(pending)[-max_pending:]})

    def settled(self, used: Collection[int], waiting: Collection[int]) -> Feedback:
        """Return the feedback once the outcome of pending updates is known.

        Args:
            used: Serial numbers of updates that were aggregated.
            waiting: Serial numbers of updates that wait for aggregation; all others are lost.
        """
        error = self.error
        for serial, surplus in self.pending.items():
            if serial not in used and serial not in waiting:
                error = add(error, surplus) if error else surplus
        return Feedback(error, {n: s for n, s in self.pending.items() if n in waiting})
