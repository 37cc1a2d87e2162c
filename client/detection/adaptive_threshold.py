"""The threshold of a stream: it rises with incidents and falls between them, as the budget allows."""

from __future__ import annotations

import math

MAX_RISE = 4.0
"""Multiple of the upper bound of the evidence up to which incidents may raise the threshold."""
RISE = 0.2
"""Rise of the logarithm of the threshold with the start of an incident: 22 %."""
MAX_FIRST_RISE = 0.6
"""Largest such rise while there is little evidence: a factor of 1.8.

With more, an incident of one feature hides faults of others on a machine that sends an event a second.
"""
CAUSE_RISE = 0.7
"""Further rise of the logarithm for incidents with the same leading feature: a factor of two."""
CAUSE_FALL = 0.25
"""Fall of that further rise in the time of one allowed incident, as a share of `CAUSE_RISE`."""
MAX_CAUSE_RISE = 3.0
"""Largest further rise: a factor of 20."""
CLEAR_POWER = 1.0
"""Exponent of an incident's peak, in multiples of the threshold: the higher, the more is taken back."""
CAUSE_CLEAR_POWER = 0.5
"""The same exponent for its further rise."""

_ALLOWED = 4.5
"""Incidents that the budget allows in the time that enough own scores cover."""
_NO_EVIDENCE = 0.01
"""Allowed incidents in the time of so few own scores that they say hardly anything about the threshold."""


class AdaptiveThreshold:
    """The score above which an event is abnormal.

    The logarithm of the threshold rises by `rise` with each incident and falls by `rise * rate` with each
    event outside incidents. So it is constant on average if incidents come at the rate of the budget. It
    rises when the scores of normal events become larger, and falls when they become smaller. For incidents
    with the same leading feature it rises further, and falls more slowly, so that a feature that is often
    unusual does not prevent the detection of faults of others.

    While the evidence is short, `rise` is larger than `RISE` (`first_rise`).

    An incident whose peak was far above the threshold is evidence of a fault, and not of a threshold that is
    too low. When it ends, a part of its rise is taken back: `1 - peak ** -CLEAR_POWER`, the peak in multiples
    of the threshold, divided by the number of recent incidents beyond the budget.

    Source: Gibbs and Candes 2021, "Adaptive Conformal Inference Under Distribution Shift", equation 2, with
    the logarithm of the threshold in place of the quantile. The constants were chosen by the labels of ASD
    (`docs/decisions/0017-the-budget-binds-notices.md`).

    One thread calls the methods; any thread may read `value` and set `bounds`, `rate` and `covered`.

    Args:
        value: The threshold to begin with.
        bounds: Lower and upper bound that follow from the evidence, as `starting_threshold` returns them.
        rate: Incidents per event that the budget allows.
        fixed: Whether the threshold never changes.
        covered: Incidents that the budget allows in the time that the machine's own scores cover.

    >>> threshold = AdaptiveThreshold(1.0, rate=0.01)
    >>> ends_at = threshold.incident_started("heat")
    >>> round(ends_at, 2), round(threshold.value, 2), round(threshold.of_cause("heat"), 2)
    (1.22, 1.22, 2.46)
    >>> threshold.quiet(100)
    >>> round(threshold.value, 2), round(threshold.of_cause("heat"), 2)
    (1.0, 1.69)
    """

    def __init__(
        self,
        value: float,
        bounds: tuple[float, float] = (0.0, math.inf),
        rate: float = 0.0,
        fixed: bool = False,
        covered: float = math.inf,
    ) -> None:
        self.value = value
        self.bounds = bounds
        self.rate = rate
        self.fixed = fixed
        self.covered = covered
        self.raised = False
        """Whether an incident has raised it."""
        self._excess = 0.0
        """Number of recent incidents beyond those that the budget allows."""
        self._causes: dict[str, float] = {}
        """Further rise of the logarithm, by leading feature."""

    @property
    def rise(self) -> float:
        """Rise of its logarithm with the start of an incident."""
        return first_rise(self.covered)

    @property
    def doubt(self) -> float:
        """How little evidence there is for it, from 0, enough, to 1, hardly any."""
        return doubt_of(self.covered)

    def of_cause(self, feature: str) -> float:
        """Return the threshold for incidents that a feature leads."""
        return self.value * math.exp(self._causes.get(feature, 0.0))

    def incident_started(self, feature: str) -> float:
        """Rise, but not above `MAX_RISE` times the upper bound.

        Args:
            feature: The leading feature.

        Returns:
            The threshold of this incident until it ends: the one that it exceeded, raised by `rise`. Neither
            its further rise nor later incidents change it.
        """
        if self.fixed:
            return self.value
        ends_at = self.of_cause(feature) * math.exp(self.rise)
        self._excess += 1
        self._rise()
        self._causes[feature] = min(self._causes.get(feature, 0.0) + CAUSE_RISE, MAX_CAUSE_RISE)
        return ends_at

    def drifted(self) -> None:
        """Rise as with an incident, because normal events have slowly become more unusual."""
        if not self.fixed:
            self._rise()

    def incident_ended(self, feature: str, peak: float) -> None:
        """Take back a part of the incident's rise, but do not fall below the lower bound.

        Args:
            feature: The leading feature.
            peak: Its highest score, in multiples of the threshold at its start.
        """
        if self.fixed or not peak > 1:
            return
        taken_back = self.rise * (1 - peak**-CLEAR_POWER) / (1 + max(self._excess - 1, 0.0))
        self.value = min(self.value, max(self.value * math.exp(-taken_back), self.bounds[0]))
        self._lower(feature, CAUSE_RISE * (1 - peak**-CAUSE_CLEAR_POWER))

    def quiet(self, events: int) -> None:
        """Lower the threshold after events outside incidents, but not below the lower bound.

        A threshold above the upper bound that no incident has raised falls to this bound at once.

        Args:
            events: Number of events outside incidents since the last call.
        """
        if self.fixed:
            return
        allowed = self.rate * events
        self._excess = max(0.0, self._excess - allowed)
        fallen = self.value * math.exp(-self.rise * allowed)
        if not self.raised:
            fallen = min(fallen, self.bounds[1])
        self.value = min(self.value, max(fallen, self.bounds[0]))
        for feature in tuple(self._causes):
            self._lower(feature, CAUSE_FALL * CAUSE_RISE * allowed)

    def inherit(self, before: AdaptiveThreshold, raised: bool) -> AdaptiveThreshold:
        """Take over the incidents of the threshold before, of another version; return this threshold.

        Args:
            before: The threshold before.
            raised: Whether this one, too, counts as raised by an incident.
        """
        self._excess, self._causes, self.raised = before._excess, dict(before._causes), raised
        return self

    def _rise(self) -> None:
        """Rise once, but not above `MAX_RISE` times the upper bound."""
        self.raised = True
        self.value = max(self.value, min(self.value * math.exp(self.rise), MAX_RISE * self.bounds[1]))

    def _lower(self, feature: str, by: float) -> None:
        """Lower the further rise of a feature, and forget it when nothing is left."""
        left = self._causes.get(feature, 0.0) - by
        if left > 0:
            self._causes[feature] = left
        else:
            self._causes.pop(feature, None)


def first_rise(covered: float) -> float:
    """Return the rise for each incident while a threshold follows from few own scores.

    It falls with the square root of the evidence, to `RISE` when the own scores cover the time in which the
    budget allows four to five incidents. The first threshold is extrapolated from few scores, so that the
    first incidents say most about it.

    Source: Angelopoulos, Barber and Bates 2024, "Online conformal prediction with decaying step sizes".

    Args:
        covered: Incidents that the budget allows in the time that the own scores cover.

    >>> [round(first_rise(covered), 2) for covered in (0, 0.5, 1, 2, 35)]
    [0.6, 0.6, 0.42, 0.3, 0.2]
    """
    if covered >= _ALLOWED:
        return RISE
    return min(RISE * math.sqrt(_ALLOWED / max(covered, 1e-9)), MAX_FIRST_RISE)


def doubt_of(covered: float) -> float:
    """Return how little evidence there is for a threshold: 0 if the own scores cover one allowed incident.

    It grows with the logarithm of what is missing, to 1 for a hundredth of that.

    Args:
        covered: Incidents that the budget allows in the time that the own scores cover.

    >>> [round(doubt_of(covered), 2) for covered in (0, 0.01, 0.1, 1, 35)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return max(0.0, math.log(max(covered, _NO_EVIDENCE)) / math.log(_NO_EVIDENCE))
