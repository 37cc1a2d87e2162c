"""Two networks in one version, each score turned into its rarity so that both can be added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.model.residuals import Residuals
from common.model.tail import ScoreTail
from common.model.weights import Weights


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A version's second network, and what the scores of both come to.

    That is minus the logarithm of the weighted geometric mean of both tail probabilities. However the two
    depend on each other, normal events with a score of `t` or more are at most `e` times as frequent as
    `exp(-t)`; where both agree they are as frequent.

    Source: Vovk and Wang 2020, "Combining p-values via averaging".
    """

    weights: Weights
    residuals: Residuals
    share: float
    """What the second network's part weighs, 0 to 1; the first one's weighs the rest."""
    tails: tuple[ScoreTail, ScoreTail]

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"an ensemble's share is {self.share}; expected 0 to 1")

    def parts(self, first: float, second: float) -> tuple[float, float]:
        """What both networks' scores of an event add to the score of the two together."""
        own, tails = self.share, self.tails
        return (1 - own) * tails[0].rarity(first), own * tails[1].rarity(second)

    def score(self, first: float, second: float) -> float:
        """Both networks' scores of one event as one score: finite and at least 0."""
        return sum(self.parts(first, second))

    def scores(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float32]:
        """The same of many events, all of shape (n,)."""
        rarities = [tail.rarities(found) for tail, found in zip(self.tails, (first, second), strict=True)]
        mixed: NDArray[np.float32] = ((1 - self.share) * rarities[0] + self.share * rarities[1]).astype(
            np.float32
        )
        return mixed
