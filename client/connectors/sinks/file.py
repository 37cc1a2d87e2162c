"""Appends notices to a file of JSON lines, which is rotated when it is large."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import reason


class FileSink:
    """Appends to a file. The file is opened for each notice, so another program may move it away.

    Args:
        path: The file.
        max_bytes: Size from which `path` is renamed to `path.1`, `path.1` to `path.2`, and so on.
        keep: Number of renamed files that are kept.
    """

    def __init__(self, path: Path, max_bytes: int = 10 << 20, keep: int = 5) -> None:
        self._path, self._max_bytes, self._keep = path, max_bytes, keep

    @classmethod
    def at(cls, address: Address) -> FileSink:
        """Open `file:PATH?max_mb=10&keep=5`."""
        address.expect_options("max_mb", "keep")
        place = address.place[2:] if address.place.startswith("///") else address.place
        if not place or place.startswith("//"):
            raise AddressError(f"{address.text}: expected file:PATH")
        max_mb, keep = address.number("max_mb") or 10.0, address.number("keep") or 5.0
        return cls(Path(unquote(place)), max(1, int(max_mb * 2**20)), max(1, int(keep)))

    def deliver(self, notice: bytes) -> None:
        """Append one line and write it to disk; see `Sink`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate()
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _append(fd, notice)
            finally:
                os.close(fd)
        except OSError as error:
            raise OSError(f"file {self._path}: {reason(error)}") from error
        with suppress(OSError):  # the notice is delivered; the next delivery reports the error
            self._rotate()

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _rotate(self) -> None:
        """Rename the file if it has reached its largest size."""
        if not self._path.exists() or self._path.stat().st_size < self._max_bytes:
            return

        def old(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}")

        for number in range(self._keep - 1, 0, -1):
            if old(number).exists():
                old(number).replace(old(number + 1))
        self._path.replace(old(1))


def _append(fd: int, notice: bytes) -> None:
    """Append a whole line or nothing. If a crash has left half a line at the end, it is ended first."""
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
