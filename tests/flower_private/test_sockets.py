from __future__ import annotations

import threading

import httpcore
import pytest

from client.transport.sockets import MIN_TIMED_BYTES, Meter, _CountedStream, _CountingBackend
from common.protocol.messages import Traffic


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


def test_threads_are_counted_together_and_each_for_itself() -> None:
    meter = Meter()
    meter.count(sent=3)
    other = threading.Thread(target=lambda: meter.count(sent=5, received=7))
    other.start()
    other.join()
    assert meter.own == (3, 0)
    assert (meter.traffic.sent_bytes, meter.traffic.received_bytes) == (8, 7)


def test_a_reply_is_counted_and_only_a_large_request_is_timed() -> None:
    meter = Meter()
    before = meter.own
    meter.count(sent=100, received=20)
    meter.request(before, 0.5, reply=True)
    assert meter.traffic == Traffic(100, 20, 100)
    before = meter.own
    meter.count(received=MIN_TIMED_BYTES)
    meter.request(before, 0.5)
    assert (meter.traffic.timed_bytes, meter.traffic.timed_s) == (MIN_TIMED_BYTES, 0.5)
