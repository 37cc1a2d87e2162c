"""`make bench-rounds`: seconds per round of the same training job under stock Flower and under flockwatch."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.federations import flockwatch_job, job, stock_job
from benchmarks.results import publish

STOCK_ROUNDS = 6
"""Includes the first, a warm-up that is not counted."""

FLOCK_ROUNDS = 60


def main() -> None:
    """Run both, one after the other, and publish their medians and the ratio."""
    with tempfile.TemporaryDirectory(prefix="bench-rounds-") as name:
        folder = Path(name)
        flock_rounds = flockwatch_job.run(FLOCK_ROUNDS, folder / "flockwatch")
        stock_rounds = stock_job.run(STOCK_ROUNDS, folder / "stock")[1:]
    stock_s, flock_s = statistics.median(stock_rounds), statistics.median(flock_rounds)
    publish(
        "rounds",
        f"One round of {job.CLIENTS} clients with {job.ROWS} x {job.FEATURES} rows each: train and evaluate",
        ["", "rounds", "median s", "min s", "max s", "times faster"],
        [
            ["stock Flower", *_row(stock_rounds), "1"],
            ["flockwatch", *_row(flock_rounds), f"{stock_s / flock_s:.0f}"],
        ],
        stock_s=round(stock_s, 3),
        flockwatch_s=round(flock_s, 4),
        ratio=round(stock_s / flock_s, 1),
    )


def _row(seconds: list[float]) -> list[str]:
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    return [str(len(seconds)), *(f"{figure:.3f}" for figure in figures)]


if __name__ == "__main__":
    main()
