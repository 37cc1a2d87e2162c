"""Writes notices to standard output, one per line."""

from __future__ import annotations

import os
import select
import time

from client.connectors.addresses import Address
from client.connectors.sinks.contract import TIMEOUT_S, reason

CHUNK_BYTES = 4096
"""Size that a pipe that is ready takes without blocking (PIPE_BUF)."""


class StdoutSink:
    """Writes to a file descriptor.

    Args:
        fd: The descriptor, standard output by default; it remains open.
        timeout_s: Longest time that a delivery may take.
    """

    def __init__(self, fd: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        self._fd, self._timeout_s = fd, timeout_s
        self._incomplete = False

    @classmethod
    def at(cls, address: Address) -> StdoutSink:
        """Open `stdout:`."""
        address.expect_options()
        address.expect_no_place()
        return cls()

    def deliver(self, notice: bytes) -> None:
        """Write one line; see `Sink`."""
        line = (b"\n" if self._incomplete else b"") + notice + b"\n"
        deadline = time.monotonic() + self._timeout_s
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        try:
            while line:
                if not writable.poll(1000 * max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("nobody reads it")
                line = line[os.write(self._fd, line[:CHUNK_BYTES]) :]
                self._incomplete = bool(line)
        except OSError as error:
            raise OSError(f"stdout: {reason(error)}") from error

    def close(self) -> None:
        """Do nothing: the descriptor is not ours."""
