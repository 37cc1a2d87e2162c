from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import pytest

from client.connectors.addresses import Address
from client.connectors.mqtt import MqttBroker
from client.connectors.sinks.mqtt import MqttSink

CONNECT, PUBLISH, DISCONNECT = 1, 3, 14
LONG_S, SHORT_S = 60.0, 2.0
"""Time that a sink waits for answers that come, and for those that do not."""


class Fake:
    """A broker that records packets, and responds to connections and messages as the test sets it."""

    def __init__(self, answer: int | None, acknowledges: bool) -> None:
        self._answer, self._acknowledges = answer, acknowledges
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.packets: list[tuple[int, int, bytes]] = []
        """Type, flags and content of each, of all connections."""
        self.ended = threading.Semaphore(0)
        """Counts connections that have ended."""
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                gone = suppress(ConnectionError, IndexError)
                with connection, connection.makefile("rb") as packets, gone:
                    while True:
                        self._serve(connection, packets.read(1)[0], packets.read(1)[0], packets)
                self.ended.release()

    def _serve(self, connection: socket.socket, first: int, length: int, packets: BinaryIO) -> None:
        content = packets.read(length)
        self.packets.append((first >> 4, first & 15, content))
        if first >> 4 == CONNECT and self._answer is not None:
            connection.sendall(bytes([0x20, 2, 0, self._answer]))
        if first >> 4 == PUBLISH and self._acknowledges:
            start = 2 + int.from_bytes(content[:2], "big")
            connection.sendall(bytes([0x40, 2]) + content[start : start + 2])

    def types(self) -> list[int]:
        return [kind for kind, _, _ in self.packets]


@pytest.fixture
def fakes() -> Iterator[list[Fake]]:
    started: list[Fake] = []
    yield started
    for fake in started:
        fake.close()


def sink(fake: Fake, options: str = "", timeout_s: float = LONG_S) -> MqttSink:
    address = Address.parse(f"mqtt://edge:geheim@127.0.0.1:{fake.port}/plant/alerts{options}")
    return MqttSink(MqttBroker.at(address, "sink"), address.flag("retain"), timeout_s)


@pytest.mark.parametrize(("options", "flags"), [("", 0b0010), ("?retain=true", 0b0011)])
def test_quality_of_service_and_retain(fakes: list[Fake], options: str, flags: int) -> None:
    fakes.append(Fake(answer=0, acknowledges=True))
    result = sink(fakes[0], options)
    result.deliver(b'{"n":1}')
    result.deliver(b'{"n":2}')
    result.close()
    assert fakes[0].ended.acquire(timeout=20)
    assert fakes[0].types() == [CONNECT, PUBLISH, PUBLISH, DISCONNECT]
    for _, found_flags, content in fakes[0].packets[1:3]:
        assert found_flags == flags
        assert content.startswith(b"\x00\x0cplant/alerts")


def test_a_message_without_an_answer_is_sent_once_an_attempt(fakes: list[Fake]) -> None:
    fakes.append(Fake(answer=0, acknowledges=False))
    result = sink(fakes[0], timeout_s=SHORT_S)
    for attempt in (1, 2):
        with pytest.raises(OSError, match=f"broker 127.0.0.1:{fakes[0].port}: no answer"):
            result.deliver(b"{}")
        assert fakes[0].ended.acquire(timeout=20)
        assert fakes[0].types() == [CONNECT, PUBLISH, DISCONNECT] * attempt


def test_a_broker_that_says_nothing(fakes: list[Fake]) -> None:
    fakes.append(Fake(answer=None, acknowledges=False))
    with pytest.raises(OSError, match="no answer"):
        sink(fakes[0], timeout_s=0.1).deliver(b"{}")
    assert fakes[0].ended.acquire(timeout=20)
    assert PUBLISH not in fakes[0].types()


def test_a_broker_that_refuses_the_password(fakes: list[Fake]) -> None:
    fakes.append(Fake(answer=5, acknowledges=False))
    with pytest.raises(OSError, match=f"broker 127.0.0.1:{fakes[0].port}: Not authorized") as caught:
        sink(fakes[0]).deliver(b"{}")
    assert "geheim" not in str(caught.value)
    assert PUBLISH not in fakes[0].types()


def test_the_client_id_is_the_one_in_the_address(fakes: list[Fake]) -> None:
    fakes.append(Fake(answer=0, acknowledges=True))
    result = sink(fakes[0], "?client_id=edge-7")
    result.deliver(b"{}")
    result.close()
    assert b"edge-7" in fakes[0].packets[0][2]
