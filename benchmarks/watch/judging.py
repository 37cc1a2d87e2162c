"""Judge a machine's notices by its labels, which the machine itself never sees. Nothing here does I/O."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flockwatch.quality.vus import runs

DAY_S = 86400.0
STARTS = ("incident_started",)
ENDS = ("incident_ended", "adapted")
"""Notices after which an incident is over."""
REST = ("regime_changed", "flapping", "sensor_silent", "stream_silent", "events_refused")
"""Notices that ask for attention too; not those with `ended`, which say that something is over."""
LEARNED_SHARE = 0.2
"""Share of a stress in a training buffer above which it counts as learned."""

Notice = Mapping[str, Any]
"""A notice as a sink wrote it, the JSON form of `common.protocol.alerts.Notice`."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """A machine's replayed stream, one event every `interval_s` seconds."""

    labels: NDArray[np.bool_]
    """Whether each event is part of a fault, shape (n,)."""
    start_s: float
    """Timestamp of the first event."""
    interval_s: float

    def index(self, time_s: float) -> int:
        """Return the number of the event with a timestamp; the nearest one if there is none."""
        return min(max(round((time_s - self.start_s) / self.interval_s), 0), len(self.labels) - 1)

    def time_s(self, index: int) -> float:
        """Return the timestamp of an event."""
        return self.start_s + index * self.interval_s

    @property
    def events_per_day(self) -> int:
        """Number of events in a day."""
        return round(DAY_S / self.interval_s)


@dataclass(frozen=True)
class Incident:
    """Events from an incident's first alert to its last, and the feature that explains it best."""

    span: slice
    cause: str | None = None


@dataclass(frozen=True)
class Judgement:
    """The notices that one machine's operator has seen, from the first verdict on."""

    first_day_false: float
    """False notices per day of normal events, within a day of the first verdict."""
    later_false: float
    """The same after that day."""
    alarm_hours: float
    """Hours in alarm on normal events, per day of normal events."""
    faults: int
    """Labelled faults; those before the first verdict count, and are not found."""
    detected: dict[int, tuple[str | None, ...]] = field(default_factory=dict)
    """Faults in which an incident of its own begins: its number, and the causes of these incidents."""
    inside: int = 0
    """Faults without an incident of their own that lie in one that was open before."""


def incidents(notices: Sequence[Notice], timeline: Timeline) -> list[Incident]:
    """Return the incidents that notices report; one without an end lasts to the end of the stream."""
    started: dict[str, Notice] = {}
    ended: dict[str, Notice] = {}
    for notice in notices:
        if notice["kind"] in STARTS:
            started.setdefault(notice["id"], notice)
        elif notice["kind"] in ENDS:
            ended.setdefault(notice["id"], notice)
    result = []
    for name, notice in started.items():
        end = ended.get(name)
        last_s = end["ended"] if end is not None else None
        last = timeline.index(last_s) if last_s is not None else len(timeline.labels) - 1
        first = timeline.index(notice["started"])
        result.append(Incident(slice(first, max(first, last) + 1), leading_cause(notice)))
    return sorted(result, key=lambda incident: incident.span.start)


def leading_cause(notice: Notice) -> str | None:
    """Return the feature with the largest share of a notice's alert; None if the notice has no alert."""
    alert = notice.get("alert")
    return alert["causes"][0]["feature"] if alert and alert["causes"] else None


def other_notices(notices: Sequence[Notice], timeline: Timeline) -> list[int]:
    """Return for each notice of `REST` the event at which its problem started."""
    return [timeline.index(n["started"]) for n in notices if n["kind"] in REST and n["ended"] is None]


def judge(reported: Sequence[Incident], others: Sequence[int], timeline: Timeline, first: int) -> Judgement:
    """Judge the notices of a machine.

    By the rules of `flockwatch.quality.metrics`: an incident is a false notice if it begins outside faults,
    and so is each other notice. A fault is found when an incident begins in it. All normal time of an
    incident is time in alarm, also if a fault lies in it.

    Args:
        reported: The incidents.
        others: Events at which other notices were sent.
        timeline: The stream.
        first: The event with the first verdict. Days are counted from there.
    """
    labels = timeline.labels
    watched = np.arange(len(labels)) >= first
    normal = watched & ~labels
    day_end = first + timeline.events_per_day
    starts = [*(incident.span.start for incident in reported), *others]
    false_at = [index for index in starts if not labels[index]]

    def per_day(begin: int, end: int | None) -> float:
        normal_events = int(normal[begin:end].sum())
        count = sum(begin <= index and (end is None or index < end) for index in false_at)
        return count * timeline.events_per_day / normal_events if normal_events else 0.0

    alarm = np.zeros(len(labels), np.bool_)
    for incident in reported:
        alarm[incident.span] = True
    faults = runs(labels)
    own: dict[int, tuple[str | None, ...]] = {}
    inside = 0
    for number, fault in enumerate(faults):
        causes = tuple(i.cause for i in reported if fault.start <= i.span.start < fault.stop)
        if causes:
            own[number] = causes
        elif alarm[fault].any():
            inside += 1
    hours = float((alarm & normal).sum()) / max(int(normal.sum()), 1) * 24
    return Judgement(per_day(first, day_end), per_day(day_end, None), hours, len(faults), own, inside)


def open_hours(looks: Sequence[tuple[int, bool]], timeline: Timeline, first: int) -> float:
    """Return the hours with an open incident on normal events, per day of normal events, by samples.

    Unlike the time in alarm by notices, this has the incidents that are not reported, such as those of a
    flapping feature. Whatever a look sees counts for all events since the look before.

    Args:
        looks: Number of events read so far and whether an incident was open, at each look.
        timeline: The stream.
        first: The event with the first verdict.
    """
    alarm = np.zeros(len(timeline.labels), np.bool_)
    before = 0
    for events, is_open in looks:
        alarm[before:events] |= is_open
        before = events
    normal = ~timeline.labels
    normal[:first] = False
    return float((alarm & normal).sum()) / max(int(normal.sum()), 1) * 24


def summary(judgements: Sequence[Judgement]) -> dict[str, float | None]:
    """Return the figures of a fleet: the median and the worst machine, and the share of all faults found."""
    faults = sum(j.faults for j in judgements)
    detected = sum(len(j.detected) for j in judgements)
    figures: dict[str, float | None] = {}
    for name, key in (
        ("first_day_false", "day1_false"), ("later_false", "later_false"), ("alarm_hours", "alarm_hours"),
    ):  # fmt: skip
        values = [float(getattr(j, name)) for j in judgements]
        figures[f"{key}_median"] = round(statistics.median(values), 3) if values else None
        figures[f"{key}_worst"] = round(max(values), 3) if values else None
    figures["faults_found"] = round(detected / faults, 3) if faults else None
    return figures


def lost(without: Judgement, with_change: Judgement, changed: str) -> list[int]:
    """Return the faults that a machine found before a change of one feature, and not with it.

    Faults that only incidents of the changed feature have found do not count: it can no longer find them.

    Args:
        without: The machine as it is.
        with_change: The same stream with one changed feature.
        changed: Name of that feature.
    """
    return [
        number
        for number, causes in without.detected.items()
        if any(cause != changed for cause in causes) and number not in with_change.detected
    ]


@dataclass(frozen=True)
class ShiftAnswer:
    """The notices about a lasting shift of one feature."""

    beginnings: int
    """Notices of its beginning: incidents that the feature leads, until its values count as normal."""
    regimes: int
    """Notices of a changed regime in that time."""
    adapted_s: float | None
    """Seconds from the shift to the notice that it counts as normal; None: there was none."""


def shift_answer(notices: Sequence[Notice], changed: str, at_s: float) -> ShiftAnswer:
    """Return what notices say about a shift.

    Args:
        notices: The machine's notices.
        changed: Name of the feature.
        at_s: When its values changed, in seconds.
    """
    later = [n for n in notices if n["started"] >= at_s and leading_cause(n) == changed]
    adapted_s = min((n["ended"] for n in later if n["kind"] == "adapted"), default=None)
    before_adapted = [n for n in later if adapted_s is None or n["started"] <= adapted_s]
    return ShiftAnswer(
        beginnings=sum(n["kind"] in (*STARTS, "flapping") for n in before_adapted),
        regimes=sum(n["kind"] == "regime_changed" for n in before_adapted),
        adapted_s=None if adapted_s is None else adapted_s - at_s,
    )


def silence_notice_s(notices: Sequence[Notice], feature: str, at_s: float, interval_s: float) -> float | None:
    """Return the seconds from a sensor's silence to the notice that names it; None without one.

    Args:
        notices: The machine's notices.
        feature: Name of the silent feature.
        at_s: Timestamp of the first event without its value.
        interval_s: Time between two events.
    """
    for notice in notices:
        named = f"'{feature}'" in (notice["text"] or "")
        if notice["kind"] == "sensor_silent" and named and notice["ended"] is None:
            return float(notice["started"] + notice["events"] * interval_s - at_s)
    return None


def learned(
    stored: NDArray[np.floating], normal: NDArray[np.floating], stressed: NDArray[np.floating]
) -> bool | None:
    """Return whether values of a stress are in a training buffer.

    Normal values can lie as high as those of a stress for a moment, and belong into the buffer. So there
    have to be more such values in it than there were without the stress.

    Args:
        stored: The metric in the training buffer, shape (n,).
        normal: The metric without the stress, since the buffer was empty, shape (m,).
        stressed: The metric during the stress, shape (k,).

    Returns:
        Whether more than `LEARNED_SHARE` of the stress was stored; None if it does not stand out.
    """
    if not len(normal) or not len(stressed):
        return None
    usual, level = float(np.median(normal)), float(np.median(stressed))
    low, high = np.quantile(normal, [0.01, 0.99])
    if low <= level <= high:
        return None
    middle, sign = (usual + level) / 2, np.sign(level - usual)
    extra = int((sign * (stored - middle) > 0).sum()) - int((sign * (normal - middle) > 0).sum())
    return extra > LEARNED_SHARE * len(stressed)
