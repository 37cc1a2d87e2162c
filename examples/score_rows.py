"""Score the rows of a CSV file with one model version, in NumPy alone, and print the least normal ones.

python examples/score_rows.py VERSION.safetensors ROWS.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.scoring import version_scores
from common.settings import Settings


def main(version: Path, file: Path) -> None:
    """Scores are those of the fleet's version as it is; a client adapts it to its own machine first."""
    manifest = Manifest.unpack(version.read_bytes())
    table = np.genfromtxt(file, delimiter=",", names=True)
    rows = np.column_stack([table[name] for name in manifest.schema.features]).astype(np.float32)
    scaler = Scaler.of(manifest.moments, clip=Settings().scaling.clip)
    scores = version_scores(manifest, scaler.apply(rows))
    first = manifest.architecture.window - 1  # the earlier rows have no full window
    for index in np.argsort(scores)[:-6:-1]:
        print(f"row {first + index}: score {scores[index]:.3g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
