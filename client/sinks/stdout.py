"""Notices on standard output, one a line."""

from __future__ import annotations

import os

from client.addresses import Address


class StdoutSink:
    """Writes to a file descriptor, standard output unless told otherwise."""

    def __init__(self, fd: int = 1) -> None:
        """The descriptor stays the caller's to close."""
        self._fd = fd

    @classmethod
    def at(cls, address: Address) -> StdoutSink:
        """The sink at `stdout:`."""
        address.only()
        address.nothing()
        return cls()

    def deliver(self, notice: bytes) -> None:
        """Write one line; see `Sink`."""
        line = notice + b"\n"
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise OSError(error.errno, f"stdout: {error.strerror}") from error

    def close(self) -> None:
        """Nothing is held."""
