"""The contract of sources, checked on every source."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.addresses import Address
from client.connectors.mqtt import MqttBroker as BrokerAddress
from client.connectors.sources import MAX_LINE_BYTES, EndOfStreamError, Source, open_source
from client.connectors.sources.host import HostSource, network_counters
from client.connectors.sources.stdin import StdinSource
from client.connectors.sources.tcp import MAX_CONNECTIONS, TcpSource
from tests.contracts.broker import Broker
from tests.waiting import eventually

PATIENCE_S = 30.0


class Stream:
    """Feeds one source with lines."""

    keeps_place = True
    """Whether a source opened at a position continues there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, position: dict[str, Any] | None = None) -> Source:
        raise NotImplementedError

    def feed(self, content: bytes) -> None:
        """Send whole lines, with their newlines."""
        raise NotImplementedError

    def end(self) -> None:
        """Let the source come to its end, if it has one."""

    def close(self) -> None:
        pass


class File(Stream):
    name = "log.jsonl"

    def open(self, position: dict[str, Any] | None = None) -> Source:
        (self.folder / self.name).touch()
        return open_source(f"file:{self.folder / self.name}", position)

    def feed(self, content: bytes) -> None:
        with (self.folder / self.name).open("ab") as file:
            file.write(content)


class Followed(File):
    def open(self, position: dict[str, Any] | None = None) -> Source:
        return open_source(f"file:{self.folder / self.name}?follow=true", position)


class Stdin(Stream):
    keeps_place = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reader, self.writer = os.pipe()
        self.rest = b""
        os.set_blocking(self.writer, False)

    def open(self, position: dict[str, Any] | None = None) -> Source:
        source = StdinSource(self.reader)
        read = source.read

        def read_and_feed(timeout_s: float) -> list[bytes]:
            self.push()
            return read(timeout_s)

        source.read = read_and_feed  # type: ignore[method-assign]  # a pipe holds 64 kB: feed as it is read
        return source

    def feed(self, content: bytes) -> None:
        self.rest += content
        self.push()

    def push(self) -> None:
        try:
            while self.rest:
                self.rest = self.rest[os.write(self.writer, self.rest) :]
        except BlockingIOError:
            pass

    def end(self) -> None:
        os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        os.close(self.reader)
        if self.writer != -1:
            os.close(self.writer)


class Tcp(Stream):
    keeps_place = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sender: socket.socket | None = None
        self.rest = b""

    def open(self, position: dict[str, Any] | None = None) -> Source:
        source = open_source("tcp://127.0.0.1:0", position)
        assert isinstance(source, TcpSource)
        self.close()
        self.sender = socket.create_connection(("127.0.0.1", source.port))
        self.sender.setblocking(False)
        read = source.read

        def read_and_feed(timeout_s: float) -> list[bytes]:
            self.push()
            return read(timeout_s)

        source.read = read_and_feed  # type: ignore[method-assign]  # sockets hold so much: feed as it is read
        return source

    def feed(self, content: bytes) -> None:
        self.rest += content
        self.push()

    def push(self) -> None:
        assert self.sender is not None
        try:
            while self.rest:
                self.rest = self.rest[self.sender.send(self.rest) :]
        except BlockingIOError:
            pass

    def close(self) -> None:
        if self.sender is not None:
            self.sender.close()


class Mqtt(Stream):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broker = Broker(folder / "broker")
        self.address = f"mqtt://127.0.0.1:{self.broker.port}/plant/%23?client_id=under-test"
        self.publisher = mqtt.Client(CallbackAPIVersion.VERSION2, "publisher")
        self.publisher.connect("127.0.0.1", self.broker.port)
        self.publisher.loop_start()
        # From now on the broker keeps what is published for this client.
        subscribed = open_source(self.address)
        eventually(lambda: subscribed.problem is None)
        subscribed.close()

    def open(self, position: dict[str, Any] | None = None) -> Source:
        source = open_source(self.address, position)
        eventually(lambda: source.problem is None)
        return source

    def feed(self, content: bytes) -> None:
        for line in content.splitlines(keepends=True):
            self.publisher.publish("plant/7", line, qos=1).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self.publisher.disconnect()
        self.publisher.loop_stop()
        self.broker.stop()


STREAMS: list[type[Stream]] = [File, Followed, Stdin, Tcp, Mqtt]


def of_kinds(kinds: list[type[Stream]]) -> pytest.MarkDecorator:
    """Run a test over these kinds of streams only."""
    return pytest.mark.parametrize("stream", kinds, indirect=True, ids=lambda kind: kind.__name__.lower())


@pytest.fixture(params=STREAMS, ids=lambda kind: kind.__name__.lower())
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stream]:
    made = request.param(tmp_path)
    yield made
    made.close()


def lines(first: int, count: int) -> list[bytes]:
    return [json.dumps({"number": i}).encode() for i in range(first, first + count)]


def joined(given: list[bytes], newline: bytes = b"\n") -> bytes:
    return b"".join(line + newline for line in given)


def take(source: Source, count: int) -> list[bytes]:
    """The next `count` events, as reads give them."""
    result: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(result) < count:
        assert time.monotonic() < deadline, f"{len(result)} of {count} events came"
        events = source.read(0.05)
        assert len(events) <= MAX_BATCH_EVENTS
        result += events
    return result


def test_events_come_once_and_in_their_order(stream: Stream) -> None:
    given = lines(0, 700)
    stream_feeds_first = isinstance(stream, File)
    if stream_feeds_first:
        stream.feed(joined(given))
    source = stream.open()
    if not stream_feeds_first:
        stream.feed(joined(given))
    try:
        assert take(source, 700) == given
        assert source.problem is None
    finally:
        source.close()


@of_kinds([kind for kind in STREAMS if kind is not File])  # which has an end, and nothing to wait for
def test_a_lone_event_waits_for_no_other(stream: Stream) -> None:
    source = stream.open()
    try:
        assert source.read(0.0) == []
        for line in lines(0, 3):
            stream.feed(line + b"\n")
            assert take(source, 1) == [line]
        assert source.read(0.02) == []
    finally:
        source.close()


def test_carriage_returns_and_empty_lines_are_no_part_of_events(stream: Stream) -> None:
    given = lines(0, 4)
    stream.feed(b"") if isinstance(stream, File) else None
    source = None if isinstance(stream, File) else stream.open()
    stream.feed(joined(given[:2], b"\r\n") + b"\n\r\n" + joined(given[2:]))
    source = source or stream.open()
    try:
        assert take(source, 4) == given
    finally:
        source.close()


def test_a_line_too_long_is_cut_off_and_those_after_it_are_whole(stream: Stream) -> None:
    after = lines(0, 3)
    source = None if isinstance(stream, File) else stream.open()
    stream.feed(b"x" * (3 << 20) + b"\n" + joined(after))
    source = source or stream.open()
    try:
        result = take(source, 4)
        assert len(result[0]) == MAX_LINE_BYTES + 1
        assert result[1:] == after
    finally:
        source.close()


@of_kinds([kind for kind in STREAMS if kind.keeps_place])  # elsewhere, lines sent once do not come again
def test_a_source_continues_where_its_last_reader_stopped(stream: Stream) -> None:
    given = lines(0, 600)
    if isinstance(stream, File):
        stream.feed(joined(given))
    source = stream.open()
    if not isinstance(stream, File):
        stream.feed(joined(given))
    result = take(source, 1)
    position = json.loads(json.dumps(source.position()))
    source.close()
    source = stream.open(position)
    try:
        if isinstance(stream, Mqtt):
            # A broker sends again what was not acknowledged: at least once, and nothing is missing.
            while set(result) != set(given):
                result += take(source, 1)
        else:
            assert result + take(source, 600 - len(result)) == given
    finally:
        source.close()


def test_closing_twice_is_closing_once(stream: Stream) -> None:
    source = stream.open()
    source.close()
    source.close()
    with pytest.raises(EndOfStreamError):
        source.read(0.0)


@pytest.mark.parametrize("kind", [File, Stdin])
def test_a_source_with_an_end_gives_its_last_line_and_ends(kind: type[Stream], tmp_path: Path) -> None:
    stream = kind(tmp_path)
    try:
        source = None if kind is File else stream.open()
        stream.feed(joined(lines(0, 2)) + b'{"number": 2}')
        source = source or stream.open()
        stream.end()
        assert take(source, 3) == lines(0, 3)
        with pytest.raises(EndOfStreamError):
            source.read(0.0)
    finally:
        stream.close()


def test_a_broker_that_stops_and_starts_loses_nothing(tmp_path: Path) -> None:
    stream = Mqtt(tmp_path)
    source = stream.open()
    try:
        stream.feed(joined(lines(0, 30)))
        result = set(take(source, 30))
        stream.broker.stop()
        eventually(lambda: source.problem is not None)
        assert f"broker 127.0.0.1:{stream.broker.port}: not connected" in str(source.problem)
        stream.broker.start()
        eventually(lambda: stream.publisher.is_connected())
        stream.feed(joined(lines(30, 30)))
        while result != set(lines(0, 60)):
            result |= set(take(source, 1))
        assert source.problem is None
    finally:
        source.close()
        stream.close()


def test_a_broker_that_is_not_there_is_a_problem_and_no_error(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = open_source(f"mqtt://127.0.0.1:{port}/t")
    try:
        assert source.read(0.05) == []
        assert "not connected" in str(source.problem)
    finally:
        source.close()


def test_an_mqtt_address_says_all_that_a_broker_needs(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("x")
    result = BrokerAddress.at(Address.parse(f"mqtts://us%40er:p%3Aw@h/a/%23?ca={ca}&client_id=c"), "source")
    assert (result.host, result.port, result.topic, result.user, result.password) == (
        "h",
        8883,
        "a/#",
        "us@er",
        "p:w",
    )
    assert (result.tls, result.ca, result.client_id) == (True, ca, "c")
    assert BrokerAddress.at(Address.parse("mqtt://h:1/t"), "sink").client_id.startswith("flockwatch-sink-")
    ids = [BrokerAddress.at(Address.parse("mqtt://h:1/t", f"press-{n}"), "source").client_id for n in (1, 2)]
    assert ids == ["flockwatch-source-press-1", "flockwatch-source-press-2"], (
        "sessions of two clients on a host"
    )


def test_many_may_send_at_once_over_tcp_and_one_that_fails_disturbs_none() -> None:
    source = TcpSource("127.0.0.1", 0)
    try:
        senders = [socket.create_connection(("127.0.0.1", source.port)) for _ in range(5)]
        for number, sender in enumerate(senders):
            sender.sendall(joined(lines(number * 10, 5)) + b'{"number": ')
        result = take(source, 25)
        senders[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        senders[0].close()  # with a reset: its half line ends there
        for number, sender in enumerate(senders[1:], 1):
            sender.sendall(b"%d}\n" % (number * 10 + 5))
        result += take(source, 5)
        for number in range(1, 5):
            assert [line for line in result if line in lines(number * 10, 6)] == lines(number * 10, 6)
        assert result.count(b'{"number": ') == 1
    finally:
        for sender in senders:
            sender.close()
        source.close()


def test_the_longest_idle_connection_makes_room_for_a_further_one_over_tcp(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = TcpSource("127.0.0.1", 0)
    senders: list[socket.socket] = []

    def connect() -> socket.socket:
        senders.append(socket.create_connection(("127.0.0.1", source.port), timeout=10))
        return senders[-1]

    try:
        machine = connect()
        machine.sendall(b"0\n")
        assert take(source, 1) == [b"0"]
        for number in range(1, 2 * MAX_CONNECTIONS):
            idle = connect()
            machine.sendall(b"%d\n" % number)
            assert take(source, 1) == [b"%d" % number], "the machine that sends is heard all the time"
        eventually(lambda: not source.read(0.01) and len(source._connections) == MAX_CONNECTIONS)
        assert senders[1].recv(1) == b"", "closed by the source"
        assert source.problem is not None
        assert "more than 64 connections; the longest idle ones are closed" in source.problem
        assert len([record for record in caplog.records if "too many connections" in record.message]) == 1
        idle.close()
        eventually(lambda: not source.read(0.01) and source.problem is None)
    finally:
        for sender in senders:
            sender.close()
        source.close()


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    source = TcpSource("127.0.0.1", 0)
    try:
        with pytest.raises(ValueError, match=f"tcp://127.0.0.1:{source.port}: cannot listen"):
            TcpSource("127.0.0.1", source.port)
    finally:
        source.close()


def test_traffic_within_this_machine_is_not_its_network_traffic() -> None:
    name = next(name for name, i in psutil.net_if_stats().items() if "loopback" in i.flags)
    loopback, network = psutil.net_io_counters(pernic=True)[name], network_counters()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(64):
            sender.sendto(bytes(60_000), ("127.0.0.1", 9))
    sent = psutil.net_io_counters(pernic=True)[name].bytes_sent - loopback.bytes_sent
    assert sent >= 64 * 60_000
    assert network_counters()["network_sent_bytes"] - network["network_sent_bytes"] < sent / 2


def test_this_machine_gives_finite_numbers_of_the_same_names_at_each_interval() -> None:
    now = [100.0]
    source = HostSource(interval_s=5.0, clock=lambda: now[0])
    assert source.read(0.0) == []
    now[0] += 5.0
    first = json.loads(source.read(0.0)[0])
    assert source.read(0.0) == []
    now[0] += 50.0  # the reader was away: one event, not ten
    second = json.loads(source.read(0.0)[0])
    assert source.read(0.0) == []
    now[0] += 5.0
    assert len(source.read(0.0)) == 1
    assert list(first) == list(second)
    assert len(first) > 15
    assert all(isinstance(value, float | int) and value >= 0 for value in first.values())
    assert abs(first["ts"] - time.time()) < 600
    source.close()
    with pytest.raises(EndOfStreamError):
        source.read(0.0)
