"""How a threshold continues from one model version to the next: pure functions."""

from __future__ import annotations

from client.detection.adaptive_threshold import MAX_RISE, RISE, AdaptiveThreshold, first_rise
from client.versions.trial import ThresholdRule
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest

LEVEL = 0.75
"""Quantile whose ratio, of the scores since a change to those before, scales the threshold."""


def next_threshold(
    before: AdaptiveThreshold | None,
    scale: float | None,
    rule: ThresholdRule,
    version: Manifest,
    own: ScoreHistogram,
) -> AdaptiveThreshold:
    """Return the threshold of a version: the last one, times `scale`, within the bounds of the own scores.

    Without a last threshold, or without a scale, it is the first threshold of a version. A fixed one is kept.

    The own scores are of rows that the version was trained on; scores of new rows are larger, the more so the
    fewer rows there are. So with little evidence, a threshold that an incident has raised stays raised.

    Args:
        before: The threshold in use; None: there is no version yet.
        scale: Ratio of the version's scores to those of the version before on the same events; None: unknown.
        rule: The rule for the first threshold of a version.
        version: It has the scores of the fleet.
        own: Its scores of this client's normal events.

    Raises:
        HistogramError: there are no scores.
    """
    if rule.value is not None:
        return AdaptiveThreshold(rule.value, fixed=True)
    start, lowest, highest = rule.start(version, own)
    covered = own.count * rule.rate
    if before is None or scale is None:
        return AdaptiveThreshold(start, (lowest, highest), rule.rate, covered=covered)
    raised = before.raised and first_rise(covered) > RISE
    value = min(max(before.value * scale, lowest), MAX_RISE * highest if raised else highest)
    return AdaptiveThreshold(value, (lowest, highest), rule.rate, covered=covered).inherit(before, raised)


def extended_threshold(
    before: AdaptiveThreshold, rule: ThresholdRule, version: Manifest, own: ScoreHistogram
) -> AdaptiveThreshold:
    """Return the threshold of the same version after more events of its client.

    With more scores it may be further in the tail: it rises to the first threshold that follows from all of
    them, and does not fall.

    Args:
        before: The threshold in use.
        rule: The rule for the first threshold of a version.
        version: It has the scores of the fleet.
        own: All scores of this client's normal events so far.

    Raises:
        HistogramError: there are no scores.
    """
    if rule.value is not None:
        return before
    start, lowest, highest = rule.start(version, own)
    value, covered = max(before.value, start), own.count * rule.rate
    return AdaptiveThreshold(value, (lowest, highest), rule.rate, covered=covered).inherit(
        before, before.raised
    )


def regime_scale(before: ScoreHistogram, after: ScoreHistogram) -> float | None:
    """Return the ratio of the scores since a lasting change to those before; None without scores before.

    It is the ratio of their quantiles of rank `LEVEL`, and 1 if one of these is 0.

    Args:
        before: Scores under the version before it was adapted to the change.
        after: Scores under the adapted version of the rows since the change, at least one.
    """
    if not before.count:
        return None
    old, new = before.quantile(LEVEL), after.quantile(LEVEL)
    return new / old if min(old, new) > 0 else 1.0
