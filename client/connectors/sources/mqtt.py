"""Events from an MQTT broker, each delivered at least once (quality of service 1)."""

from __future__ import annotations

import queue
from typing import Any

from paho.mqtt.client import Client, MQTTMessage

from client.buffers.recent_events import MAX_BATCH_EVENTS
from client.connectors.addresses import Address
from client.connectors.mqtt import KEEPALIVE_S, MqttBroker
from client.connectors.sources.contract import MAX_LINE_BYTES, EndOfStreamError, Position

MAX_WAITING = 4096
"""Messages of quality of service 0 that may wait; further ones are dropped, to bound the memory."""


class MqttSource:
    """Subscribes to a topic in a session that the broker keeps, with messages that come without a connection.

    A message is acknowledged when the next events are read. A message that was returned and not acknowledged
    before the connection broke is delivered again. The broker keeps the position.

    Args:
        broker: The broker and the topic. It need not be reachable yet.
    """

    def __init__(self, broker: MqttBroker) -> None:
        self._broker = broker
        self._reason = "connecting"
        self._connected = False
        self._arrived: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._unacknowledged: list[MQTTMessage] = []
        self._lines: list[bytes] = []
        self._dropped = 0
        self._closed = False
        self._client = broker.client(clean_session=False, manual_ack=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect_async(broker.host, broker.port, KEEPALIVE_S)
        self._client.loop_start()

    @classmethod
    def at(cls, address: Address, position: Position | None, timestamp: str | None) -> MqttSource:
        """Open `mqtt://HOST/TOPIC`."""
        address.expect_options("client_id", "ca")
        return cls(MqttBroker.at(address, "source"))

    @property
    def problem(self) -> str | None:
        """The current problem: no connection, or dropped messages of quality 0; None without one."""
        if not self._connected:
            return f"{self._broker.name}: not connected ({self._reason})"
        if self._dropped:
            return f"{self._broker.name}: dropped {self._dropped} messages of quality 0 that came too fast"
        return None

    def read(self, timeout_s: float) -> list[bytes]:
        """Return waiting events; see `Source`."""
        if self._closed:
            raise EndOfStreamError("closed")
        if not self._lines:
            self._acknowledge()
            try:
                self._take(self._arrived.get(timeout=timeout_s))
                while len(self._lines) < MAX_BATCH_EVENTS:
                    self._take(self._arrived.get_nowait())
            except queue.Empty:
                pass
        events, self._lines = self._lines[:MAX_BATCH_EVENTS], self._lines[MAX_BATCH_EVENTS:]
        return events

    def position(self) -> Position:
        """Return no position: the broker keeps it."""
        return {}

    def close(self) -> None:
        """Disconnect; messages that are not acknowledged are delivered again."""
        if not self._closed:
            self._closed = True
            self._client.disconnect()
            self._client.loop_stop()

    def _take(self, message: MQTTMessage) -> None:
        self._unacknowledged.append(message)
        pieces = bytes(message.payload[: MAX_LINE_BYTES + 1]).split(b"\n")
        self._lines.extend(line for piece in pieces if (line := piece.removesuffix(b"\r")))

    def _acknowledge(self) -> None:
        for message in self._unacknowledged:
            self._client.ack(message.mid, message.qos)
        self._unacknowledged.clear()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        # The broker limits the number of unacknowledged messages of quality 1 itself.
        if message.qos == 0 and self._arrived.qsize() >= MAX_WAITING:
            self._dropped += 1
        else:
            self._arrived.put(message)

    def _on_connect(self, client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._reason = str(code)
        else:
            client.subscribe(self._broker.topic, qos=1)

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._reason = f"subscription to '{self._broker.topic}' refused"
        else:
            self._connected = True

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._reason = "cannot be reached"

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._connected, self._reason = False, str(code)
