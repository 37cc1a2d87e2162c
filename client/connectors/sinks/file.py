"""Notices in a file of JSON lines, which is turned over when it has grown."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import reason


class FileSink:
    """Appends to `path`; at `max_bytes` it becomes `path.1`, that one `path.2`, up to `path.keep`."""

    def __init__(self, path: Path, max_bytes: int = 10 << 20, keep: int = 5) -> None:
        """The file is opened for each notice: one that was moved away by another program is made anew."""
        self._path, self._max_bytes, self._keep = path, max_bytes, keep

    @classmethod
    def at(cls, address: Address) -> FileSink:
        """The sink at `file:PATH?max_mb=10&keep=5`."""
        address.only("max_mb", "keep")
        place = address.place[2:] if address.place.startswith("///") else address.place
        if not place or place.startswith("//"):
            raise AddressError(f"{address.text}: expected file:PATH")
        max_mb, keep = address.number("max_mb") or 10.0, address.number("keep") or 5.0
        return cls(Path(unquote(place)), max(1, int(max_mb * 2**20)), max(1, int(keep)))

    def deliver(self, notice: bytes) -> None:
        """Append one line, and see it on disk; see `Sink`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._turn_over()
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _append(fd, notice)
            finally:
                os.close(fd)
        except OSError as error:
            raise OSError(f"file {self._path}: {reason(error)}") from error
        with suppress(OSError):  # the notice is there; what is wrong is told with the next
            self._turn_over()

    def close(self) -> None:
        """Nothing is held."""

    def _turn_over(self) -> None:
        """Make room when the file has grown."""
        if not self._path.exists() or self._path.stat().st_size < self._max_bytes:
            return

        def old(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}")

        for number in range(self._keep - 1, 0, -1):
            if old(number).exists():
                old(number).replace(old(number + 1))
        self._path.replace(old(1))


def _append(fd: int, notice: bytes) -> None:
    """Add a whole line or nothing. A line that a crash cut off is ended first, so that it costs no other."""
    end = os.fstat(fd).st_size
    line = notice + b"\n"
    if end and os.pread(fd, 1, end - 1) != b"\n":
        line = b"\n" + line
    try:
        while line:
            line = line[os.write(fd, line) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, end)
        raise
