"""One bounded stress of this machine, which ends by itself; it imports nothing of this repository.

`stress.py memory --bytes N --seconds S` allocates and touches memory, and keeps it.
`stress.py disk --folder F --bytes N --seconds S` writes a file and syncs it, over and over.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

BLOCK_BYTES = 64 << 20
BLOCK_PAUSE_S = 0.05
"""Pause between two blocks of memory, so that the memory stands out and not the processor."""
WRITE_BYTES = 4 << 20


def memory(size: int, seconds: float) -> None:
    """Allocate `size` bytes, a block at a time, and keep them until `seconds` have passed."""
    end = time.monotonic() + seconds
    blocks: list[bytearray] = []
    while len(blocks) * BLOCK_BYTES < size and time.monotonic() < end:
        blocks.append(bytearray(b"\1") * BLOCK_BYTES)
        time.sleep(BLOCK_PAUSE_S)
    time.sleep(max(0.0, end - time.monotonic()))


def disk(folder: str, size: int, seconds: float) -> None:
    """Write a file of at most `size` bytes in `folder` and sync each block, until `seconds` have passed."""
    end = time.monotonic() + seconds
    block = os.urandom(WRITE_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        while time.monotonic() < end:
            if file.tell() + WRITE_BYTES > size:
                file.seek(0)
            file.write(block)
            file.flush()
            os.fsync(file.fileno())


def main() -> None:
    """Stress the machine as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["memory", "disk"])
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", default=".")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory(arguments.bytes, arguments.seconds)
    else:
        disk(arguments.folder, arguments.bytes, arguments.seconds)


if __name__ == "__main__":
    main()
