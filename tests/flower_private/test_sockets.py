from __future__ import annotations

import httpcore
import pytest

from client.transport.sockets import _CountedStream, _CountingBackend
from common.protocol.traffic import Meter


class Stream(httpcore.NetworkStream):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return b"four"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer == b"cut":
            raise httpcore.WriteError

    def start_tls(self, *_: object, **__: object) -> httpcore.NetworkStream:
        return Stream()

    def get_extra_info(self, info: str) -> object:
        return info

    def close(self) -> None:
        self.closed = True


class Backend(httpcore.NetworkBackend):
    def connect_tcp(self, *_: object, **__: object) -> httpcore.NetworkStream:
        return Stream()


@pytest.mark.parametrize("tls", [False, True])
def test_the_bytes_of_a_socket_are_counted(tls: bool) -> None:
    meter = Meter()
    stream = _CountingBackend(Backend(), meter).connect_tcp("h", 1)
    if tls:
        stream = stream.start_tls(None)  # type: ignore[arg-type]
    assert isinstance(stream, _CountedStream)
    stream.write(b"123")
    stream.read(10)
    with pytest.raises(httpcore.WriteError):
        stream.write(b"cut")
    stream.close()
    assert stream.get_extra_info("x") == "x"
    assert (meter.traffic.sent_bytes, meter.traffic.received_bytes) == (3, 4)
