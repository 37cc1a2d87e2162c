"""Clocks of single processes, which a test sets while they run, as if somebody set that of their machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from struct import Struct

COMPILER = shutil.which("cc")
"""Without a compiler there are no such clocks."""
JUMPS_S = (3600, -3600, 30 * 86400, -30 * 86400, 10 * 365 * 86400, -365 * 86400)
"""An hour, a month, ten years forwards, a year back: Flower takes no message from before 28 February 2025."""
_SECONDS = Struct("l")


class ProcessClock:
    """The clock of a process and of all that it starts; at first the machine's.

    Args:
        folder: For the library and the file with the seconds.
        name: Of the process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file, library = folder / f"{name}.clock", folder / "clock.so"
        self.ahead_s = 0
        self.set(0)
        if not library.exists():
            assert COMPILER is not None
            source = Path(__file__).with_name("clock.c")
            subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.prefix = ["env", f"LD_PRELOAD={library}", f"CHAOS_CLOCK={self._file}"]
        """Words before the command of the process."""

    def set(self, ahead_s: int) -> None:
        """Set the clock this many seconds ahead of the machine's; below 0: behind it."""
        self.ahead_s = ahead_s
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(_SECONDS.pack(ahead_s))
