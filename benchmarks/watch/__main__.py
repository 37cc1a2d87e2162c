"""`make bench-watch`: whether a fleet keeps watch from an empty state folder on, with default settings.

Part a: twelve machines (ASD) are replayed live, all from nothing. Ten start together; two come when the fleet
has a version. Part b: copies of five of them, each with one change that is no fault, beside the originals
in one fleet. Part c: `host:` on this machine, one client alone and a fleet of three, with two stresses.

`--part a` (or `a,c`) runs some parts. `--quick` tries them on three machines, a few days and a quiet minute.
Parts a and b are compared with labels that no client sees; `benchmarks/watch/replay.py` says how time passes.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import publish
from benchmarks.watch import changes
from benchmarks.watch.changes import Recording
from benchmarks.watch.host import STRESSES, watch_host
from benchmarks.watch.judging import (
    Judgement,
    incidents,
    judge,
    lost,
    open_hours,
    other_notices,
    shift_answer,
    silence_notice_s,
    summary,
)
from benchmarks.watch.replay import INTERVAL_S, START_S, Machine, Pace, recordings, replay
from benchmarks.watch.rivals import replay_rival
from common.settings import Settings
from flockwatch.quality.baselines import BASELINES

DATA = Path(os.environ.get("FLOCKWATCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "asd"
RIVALS = {"pca": "pca", "iforest": "isolation_forest"}
"""Names in the figures, and in `BASELINES`."""
LATE = 2
"""Machines of part a that come when the fleet has a version."""
CHANGED = 5
"""Machines of part b that are replayed as they are and as a copy with a change."""
DAY = round(86400 / INTERVAL_S)
BEFORE_TEST = 7 * DAY
"""Rows before the test rows in part b. The shift and the silence begin with the first test row."""
QUIET_S = 900.0

Rows = list[list[str]]


@dataclass(frozen=True)
class Scale:
    """The amount of data that is replayed, and the time for which this machine is watched."""

    machines: int | None
    late: int
    changed: int
    rows: slice
    """Rows of part a, counted from a machine's first test row."""
    changed_rows: slice
    quiet_s: float
    pace: Pace

    @classmethod
    def whole(cls) -> Scale:
        """Return the scale of the published figures."""
        return cls(None, LATE, CHANGED, slice(None), slice(-BEFORE_TEST, None), QUIET_S, Pace())

    @classmethod
    def quick(cls) -> Scale:
        """Return a scale on which one sees in minutes that all of it works."""
        rows = slice(-3 * DAY, 5 * DAY)
        return cls(3, 1, 1, rows, rows, 60.0, Pace(slow_events=DAY, slow_rate=4.0))


def main() -> None:
    """Run the parts and publish their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description="Watch from nothing on.")
    parser.add_argument("--part", default="a,b,c", help="parts to run: a, b, c, or several with commas")
    parser.add_argument("--quick", action="store_true", help="a short trial, whose figures are not kept")
    parser.add_argument("--keep", type=Path, help="a new folder in which all logs and states stay")
    arguments = parser.parse_args()
    parts = arguments.part.split(",")
    if not set(parts) <= {"a", "b", "c"}:
        parser.error(f"unknown part in '{arguments.part}'; expected a, b, c")
    if not DATA.is_dir() and set(parts) & {"a", "b"}:
        sys.exit(f"no data: {DATA} does not exist; set FLOCKWATCH_DATA to the folder that contains asd/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the processes are ended
    scale = Scale.quick() if arguments.quick else Scale.whole()
    rows: Rows = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as place:
        folder = arguments.keep or Path(place)
        for part in parts:
            part_rows, part_figures = PARTS[part](folder / part, scale)
            rows += part_rows
            figures |= part_figures
    name = "watch" if set(parts) == set(PARTS) else f"watch_{''.join(parts)}"
    publish(
        name, "Keeping watch from nothing on, default settings", ["part", "", "flockwatch", "PCA", "iforest"],
        rows, keep=not arguments.quick, **figures,
    )  # fmt: skip


def fleet(folder: Path, scale: Scale) -> tuple[Rows, dict[str, Any]]:
    """Run part a: all machines from an empty state folder, judged beside the rivals."""
    folder.mkdir(parents=True)
    data = recordings(DATA, scale.rows)[: scale.machines]
    machines = [Machine(r, folder, late=i >= len(data) - scale.late) for i, r in enumerate(data)]
    replay(machines, folder, scale.pace)
    own = [_judged(machine) for machine in machines]
    totals = {"flockwatch": summary(own)}
    for name, judgements in _rivals(machines).items():
        totals[name] = summary(judgements)
    cold = [m for m in machines if not m.late]
    first = {
        "first_verdict_events": _worst([m.first_verdict for m in machines if m.late]),
        "first_verdict_hours": _hours([m.first_verdict for m in cold]),
        "ready_hours": _hours([m.ready for m in cold]),
    }
    hours = [open_hours(m.looks, m.timeline, m.first_verdict or 0) for m in machines]
    rest = {
        "faults_inside": sum(j.inside for j in own),
        "open_hours_median": round(statistics.median(hours), 3),
        "open_hours_worst": round(max(hours), 3),
    }
    figures: dict[str, Any] = {**first, **totals["flockwatch"], **rest}
    for name in RIVALS:
        figures |= {f"{key}_{name}": value for key, value in totals[name].items()}
    figures["machines"] = {m.name: _shown(m, j) for m, j in zip(machines, own, strict=True)}
    table: Rows = [["a", key, _cell(value), "", ""] for key, value in first.items()]
    table += [["a", key, *(_cell(total[key]) for total in totals.values())] for key in totals["flockwatch"]]
    table += [["a", key, _cell(value), "", ""] for key, value in rest.items()]
    return table, figures


def changed(folder: Path, scale: Scale) -> tuple[Rows, dict[str, Any]]:
    """Run part b: machines as they are, and copies of them with one change each, in one fleet."""
    folder.mkdir(parents=True)
    kinds = ("shift", "silent", "constant", "counter", "tag")
    sources = changes.most_faults(recordings(DATA, scale.changed_rows), scale.changed)
    machines: dict[str, Machine] = {}
    pairs: dict[str, tuple[str, str, str]] = {}
    for number, kind in enumerate(kinds):
        source = sources[number % len(sources)]
        feature = changes.usual_feature(source)
        copy = _copy(kind, source, feature)
        for recording in (source, copy):
            machines.setdefault(recording.name, Machine(recording, folder))
        pairs[kind] = source.name, copy.name, feature
    replay(list(machines.values()), folder, scale.pace)
    judged = {name: _judged(machine) for name, machine in machines.items()}
    shift, silence = machines[pairs["shift"][1]], machines[pairs["silent"][1]]
    answer = shift_answer(shift.notices(), pairs["shift"][2], _test_from_s(shift))
    figures: dict[str, Any] = {
        "shift_told": answer.beginnings, "shift_regimes": answer.regimes, "shift_adapted_s": answer.adapted_s,
        "silent_told_s": silence_notice_s(
            silence.notices(), pairs["silent"][2], _test_from_s(silence), INTERVAL_S
        ),
    }  # fmt: skip
    for kind, (source_name, copy_name, feature) in pairs.items():
        without, with_change = judged[source_name], judged[copy_name]
        figures[f"{kind}_faults_lost"] = len(lost(without, with_change, feature))
        figures[f"{kind}_faults_found"] = [len(without.detected), len(with_change.detected), without.faults]
        figures[f"{kind}_later_false"] = [round(j.later_false, 3) for j in (without, with_change)]
        figures[f"{kind}_alarm_hours"] = [round(j.alarm_hours, 3) for j in (without, with_change)]
        figures[f"{kind}_refused"] = sum(machines[copy_name].health.get("refused", {}).values())
    return [["b", key, _cell(value), "", ""] for key, value in figures.items()], figures


def host(folder: Path, scale: Scale) -> tuple[Rows, dict[str, Any]]:
    """Run part c: this machine, watched by one client alone and by a fleet of three at the same time."""
    results = watch_host(folder, (1, 3), scale.quiet_s)
    answers = [result.stresses[stress.name] for result in results for stress in STRESSES]
    figures = {
        "quiet_false": max(max(result.quiet_false) for result in results),
        "stress_alerted_s": [answer.alerted_s for answer in answers],
        "stress_cause_first": [answer.cause_first for answer in answers],
        "stress_learned": [answer.learned for answer in answers],
        "host_first_verdict_s": [result.first_verdict_s for result in results],
        "host_quiet_false": [result.quiet_false for result in results],
        "host_quiet_causes": [result.causes for result in results],
    }
    return [["c", key, _cell(value), "", ""] for key, value in figures.items()], figures


PARTS = {"a": fleet, "b": changed, "c": host}


def _copy(kind: str, source: Recording, feature: str) -> Recording:
    """Return the copy of a recording with one kind of change."""
    match kind:
        case "shift":
            return changes.shifted(source, feature, source.test_from)
        case "silent":
            return changes.silent(source, feature, source.test_from)
        case "constant":
            return changes.near_constant(source, feature)
        case "counter":
            return changes.counter(source, feature)
        case _:
            return changes.tagged(source)


def _judged(machine: Machine) -> Judgement:
    notices, timeline = machine.notices(), machine.timeline
    first = machine.first_verdict or 0
    return judge(incidents(notices, timeline), other_notices(notices, timeline), timeline, first)


def _rivals(machines: Sequence[Machine]) -> dict[str, list[Judgement]]:
    """Replay each machine's stream to each rival, from the machine's own first verdict on."""
    seen = [machine for machine in machines if machine.first_verdict is not None]
    jobs = [(name, machine.recording, machine.first_verdict) for name in RIVALS for machine in seen]
    with ProcessPoolExecutor() as pool:
        judgements = list(pool.map(_rival, *zip(*jobs, strict=True))) if jobs else []
    return {
        name: [j for (other, *_), j in zip(jobs, judgements, strict=True) if other == name] for name in RIVALS
    }


def _rival(name: str, recording: Recording, first: int) -> Judgement:
    baseline = BASELINES[RIVALS[name]]
    incidents_of_rival = replay_rival(baseline, recording, first, Settings(), INTERVAL_S)
    timeline = Machine(recording, Path()).timeline
    return judge(incidents_of_rival, [], timeline, first)


def _test_from_s(machine: Machine) -> float:
    return START_S + INTERVAL_S * machine.recording.test_from


def _worst(events: Sequence[int | None]) -> int | None:
    """Return the largest number; None if there is none, or a machine gave no verdict."""
    return None if not events or None in events else max(e for e in events if e is not None)


def _hours(events: Sequence[int | None]) -> list[float | None]:
    """Return median and largest in hours of the stream; None instead if a machine never got there."""
    hours = [e * INTERVAL_S / 3600 for e in events if e is not None]
    median = round(statistics.median(hours), 1) if hours else None
    return [median, round(max(hours), 1) if hours and len(hours) == len(events) else None]


def _shown(machine: Machine, judgement: Judgement) -> dict[str, Any]:
    return {
        "first_verdict": machine.first_verdict, "ready": machine.ready,
        "version": machine.health.get("version"),
        "first_day_false": round(judgement.first_day_false, 2),
        "later_false": round(judgement.later_false, 2), "alarm_hours": round(judgement.alarm_hours, 2),
        "faults": judgement.faults, "found": len(judgement.detected), "inside": judgement.inside,
        "problems": machine.health.get("problems", []),
    }  # fmt: skip


def _cell(value: object) -> str:
    return "-" if value is None else ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
