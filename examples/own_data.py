"""Train a fleet on a folder of CSV files, one per machine, and print the newest model version.

python examples/own_data.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

MACHINES, ROWS = 3, 600


def write_rows(file: Path, seed: int) -> None:
    """Write one machine's rows: its load follows a daily cycle, its temperature and power follow its load."""
    rng = np.random.default_rng(seed)
    ts = 1_700_000_000 + 60.0 * np.arange(ROWS)
    load = 50 + 30 * np.sin(2 * np.pi * ts / 86_400) + rng.normal(0, 5, ROWS)
    temperature = 35 + 0.3 * load + rng.normal(0, 1, ROWS)
    power = 100 + 2 * load + rng.normal(0, 5, ROWS)
    table = np.column_stack([ts, load, temperature, power])
    np.savetxt(file, table, fmt="%.3f", delimiter=",", header="ts,load,temperature,power", comments="")


def main(folder: Path) -> None:
    """Replace `write_rows` by your own files and keep the rest."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for number in range(1, MACHINES + 1):
        write_rows(data / f"machine-{number}.csv", seed=number)
    command = [
        sys.executable,
        "-P",
        "-m",
        "flockwatch",
        "local",
        "--data",
        str(data),
        "--runs",
        str(folder / "runs"),
    ]
    command += ["--set", "federation.max_rounds=20", "--set", "local.compare=false"]
    subprocess.run(command, check=True)
    newest = max((folder / "runs").glob("*/server/versions/v*.safetensors"))
    print(f"newest version: {newest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
