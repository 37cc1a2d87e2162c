"""`make bench-rounds`: the same job under stock Flower and under flockwatch, seconds per round."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks import flock, job, stock
from benchmarks.results import publish

STOCK_ROUNDS = 6
"""With the first, which warms up and is not counted."""

FLOCK_ROUNDS = 60


def main() -> None:
    """Run both, one after the other, and print their medians and the ratio."""
    with tempfile.TemporaryDirectory(prefix="bench-rounds-") as name:
        folder = Path(name)
        ours = flock.run(FLOCK_ROUNDS, folder / "flockwatch")
        theirs = stock.run(STOCK_ROUNDS, folder / "stock")[1:]
    stock_s, flock_s = statistics.median(theirs), statistics.median(ours)
    publish(
        "rounds",
        f"A round of {job.CLIENTS} clients with {job.ROWS} x {job.FEATURES} rows each: train and measure",
        ["", "rounds", "median s", "min s", "max s", "ratio"],
        [
            ["stock Flower", *_row(theirs), "1"],
            ["flockwatch", *_row(ours), f"{stock_s / flock_s:.0f}"],
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
