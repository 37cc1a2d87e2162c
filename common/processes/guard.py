"""A process that ends the descendants of its parent when the parent has died, even by SIGKILL.

`common.processes.children.Processes` starts one beside its children. It waits for the end of its standard
input, which is a pipe that closes when the parent ends, on every system.
"""

from __future__ import annotations

import os
import signal
import sys

from common.processes.children import end_family


def main() -> None:
    """Wait for the end of standard input, then end the family that the first argument names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends after the parent, not before
        signal.signal(number, signal.SIG_IGN)
    print(flush=True)  # the parent waits for this line
    while os.read(0, 1024):
        pass
    end_family(sys.argv[1])


if __name__ == "__main__":
    main()
