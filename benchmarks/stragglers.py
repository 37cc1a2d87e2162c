"""`make bench-stragglers`: wall time to a target error with 8 clients, two of which are 10 times slower."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.federations import fleet
from benchmarks.federations.fleet import Curve
from benchmarks.results import publish
from common.processes.children import Processes
from common.processes.packages import python_module

CLIENTS, SLOW = 8, 2
ROWS = 1_500
FAST_S, SLOW_S = 0.5, 5.0
"""Training time on a fast machine and on a slow one."""

BUDGET_S = 66.0
"""Time for each run after version 0: twelve or thirteen synchronous rounds."""

MARGIN = 1.02
"""The target error is the final error of the synchronous run times this."""

DEAD_S, ALIVE_S = 8.0, 12.0
"""In the second half of the table the slow clients are killed and restarted repeatedly."""

COMMON = {
    "model": {"window": 1, "hidden": (12,)},
    "training": {"batch_size": 32, "holdout": fleet.HOLDOUT},
    # With each client's own moments, errors of all runs are in the same units whichever client came first.
    "scaling": {"by": "client"},
}
MODES = {
    "synchronous, all 8": {"mode": "synchronous", "quorum": 1.0},
    "synchronous, quorum 6, deadline 2 s": {
        "mode": "synchronous",
        "quorum": 0.75,
        "deadline_s": 2.0,
        "min_clients": 6,
    },
    "asynchronous": {"mode": "asynchronous", "buffer": 2},
}


def main() -> None:
    """Run every mode, with slow clients and with slow clients that die, and publish one table."""
    parts = fleet.partitions(CLIENTS, ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-stragglers-") as name:
        folder = Path(name)
        steady = [_run(folder / f"steady-{i}", parts, mode, None) for i, mode in enumerate(MODES)]
        dying = [_run(folder / f"dying-{i}", parts, mode, _dying()) for i, mode in enumerate(MODES)]
    target = MARGIN * steady[0].final
    rows, figures = [], {}
    for prefix, title, curves in (("", "", steady), ("dying_", ", slow clients die and restart", dying)):
        times = [curve.reached(target) for curve in curves]
        # If the synchronous run did not reach the target, the ratio is a lower bound.
        sync_s = times[0] or BUDGET_S
        for mode, curve, time_s in zip(MODES, curves, times, strict=True):
            ratio = "" if time_s is None else f"{'' if times[0] else '> '}{sync_s / time_s:.1f}"
            rows.append([mode + title, *_row(curve, target, time_s, ratio)])
        figures |= {
            f"{prefix}sync_s": _rounded(times[0]),
            f"{prefix}quorum_s": _rounded(times[1]),
            f"{prefix}async_s": _rounded(times[2]),
            f"{prefix}ratio": _rounded(sync_s / times[2]) if times[2] else None,
            f"{prefix}error_sync": round(curves[0].final, 5),
            f"{prefix}error_async": round(curves[2].final, 5),
        }
    publish(
        "stragglers",
        f"{CLIENTS} clients, {SLOW} of them {SLOW_S / FAST_S:.0f} times slower; {BUDGET_S:.0f} s per run",
        ["", "versions", "target", "s to target", "times faster", "final error"],
        rows,
        **figures,
    )


def _run(
    folder: Path,
    parts: list[fleet.Partition],
    mode: str,
    meanwhile: Callable[[Processes, Callable[[int], None], float], None] | None,
) -> Curve:
    def command(number: int, data: Path, address: str) -> list[str]:
        training_s = SLOW_S if number >= CLIENTS - SLOW else FAST_S
        return [
            *python_module("benchmarks.federations.slow_client"), "--data", str(data), "--server", address,
            "--state", str(folder / f"state-{number}"), "--training-s", str(training_s),
        ]  # fmt: skip

    values = {**COMMON, "federation": MODES[mode]}
    return fleet.run(folder, parts, values, command, BUDGET_S, meanwhile or (lambda *_: None))


def _dying() -> Callable[[Processes, Callable[[int], None], float], None]:
    """Return a function that kills each slow client after `ALIVE_S` and starts it again after `DEAD_S`."""
    down_since: dict[int, float] = {}
    up_since = dict.fromkeys(range(CLIENTS - SLOW, CLIENTS), 0.0)

    def meanwhile(processes: Processes, start: Callable[[int], None], now: float) -> None:
        for number in range(CLIENTS - SLOW, CLIENTS):
            if number in up_since and now > up_since[number] + ALIVE_S:
                processes.kill(f"client-{number}")
                del up_since[number]
                down_since[number] = now
            elif number in down_since and now > down_since[number] + DEAD_S:
                start(number)
                del down_since[number]
                up_since[number] = now

    return meanwhile


def _row(curve: Curve, target: float, time_s: float | None, ratio: str) -> list[str]:
    return [
        str(len(curve.times) - 1),
        f"{target:.4f}",
        "not reached" if time_s is None else f"{time_s:.1f}",
        ratio,
        f"{curve.final:.4f}",
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


if __name__ == "__main__":
    main()
