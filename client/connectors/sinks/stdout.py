"""Notices on standard output, one a line."""

from __future__ import annotations

import os
import select
import time

from client.connectors.addresses import Address
from client.connectors.sinks.contract import TIMEOUT_S, reason

PIECE = 4096
"""Bytes that a pipe takes without waiting, once it takes any."""


class StdoutSink:
    """Writes to a file descriptor, standard output unless told otherwise."""

    def __init__(self, fd: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        """The descriptor stays the caller's to close."""
        self._fd, self._timeout_s = fd, timeout_s
        self._cut_off = False

    @classmethod
    def at(cls, address: Address) -> StdoutSink:
        """The sink at `stdout:`."""
        address.only()
        address.nothing()
        return cls()

    def deliver(self, notice: bytes) -> None:
        """Write one line; see `Sink`."""
        line = (b"\n" if self._cut_off else b"") + notice + b"\n"
        deadline = time.monotonic() + self._timeout_s
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        try:
            while line:
                if not writable.poll(1000 * max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("nobody reads it")
                line = line[os.write(self._fd, line[:PIECE]) :]
                self._cut_off = bool(line)
        except OSError as error:
            raise OSError(f"stdout: {reason(error)}") from error

    def close(self) -> None:
        """Nothing is held."""
