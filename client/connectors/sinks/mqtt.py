"""Publishes notices to an MQTT broker with quality of service 1."""

from __future__ import annotations

import threading
import time
import zlib
from typing import Any

from paho.mqtt.client import Client

from client.connectors.addresses import Address, AddressError
from client.connectors.mqtt import KEEPALIVE_S, MqttBroker
from client.connectors.sinks.contract import TIMEOUT_S, reason


class MqttSink:
    """Publishes to one topic. It connects for the first notice, and again after a connection has failed.

    Args:
        broker: The broker and the topic.
        retain: Whether the broker keeps the last notice for later subscribers.
        timeout_s: Longest time that a delivery may take, with the connection.
    """

    def __init__(self, broker: MqttBroker, retain: bool = False, timeout_s: float = TIMEOUT_S) -> None:
        self._broker, self._retain, self._timeout_s = broker, retain, timeout_s
        self._client: Client | None = None
        self._answered = threading.Event()
        self._failure: str | None = None

    @classmethod
    def at(cls, address: Address) -> MqttSink:
        """Open `mqtt://HOST/TOPIC`."""
        address.expect_options("client_id", "ca", "retain")
        # A client may publish to several topics of one broker, over a connection for each.
        broker = MqttBroker.at(address, f"sink-{zlib.crc32(address.raw.encode()):08x}")
        if "+" in broker.topic or "#" in broker.topic:
            raise AddressError(f"{address.text}: topic '{broker.topic}' has a wildcard; expected one topic")
        return cls(broker, address.flag("retain"))

    def deliver(self, notice: bytes) -> None:
        """Publish one notice and wait for the broker's acknowledgement; see `Sink`."""
        deadline = time.monotonic() + self._timeout_s
        try:
            client = self._connected(deadline)
            sent = client.publish(self._broker.topic, notice, qos=1, retain=self._retain)
            sent.wait_for_publish(max(0.0, deadline - time.monotonic()))
            if not sent.is_published():
                raise TimeoutError("no answer")
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            raise OSError(f"{self._broker.name}: {reason(error)}") from error

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            client, self._client = self._client, None
            client.disconnect()
            client.loop_stop()

    def _connected(self, deadline: float) -> Client:
        """Return the open connection, or a new one."""
        if self._client is not None and self._client.is_connected():
            return self._client
        self.close()
        client = self._broker.client(clean_session=True)
        client.on_connect = self._on_connect
        client.connect_timeout = self._timeout_s
        self._answered.clear()
        client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
        client.loop_start()
        self._client = client
        if not self._answered.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError("no answer")
        if self._failure is not None:
            raise ConnectionRefusedError(self._failure)
        return client

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._failure = str(code) if code.is_failure else None
        self._answered.set()
