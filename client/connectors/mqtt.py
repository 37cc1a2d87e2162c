"""MQTT brokers of sources and sinks: their addresses, and clients for them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from client.connectors.addresses import Address, AddressError

KEEPALIVE_S = 20
MAX_RETRY_S = 10


@dataclass(frozen=True)
class MqttBroker:
    """A broker and one of its topics: `mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC`, or `mqtts://` for TLS."""

    host: str
    port: int
    topic: str
    user: str | None
    password: str | None
    tls: bool
    ca: Path | None
    """PEM file to verify the broker with; None: the certificates that this machine trusts."""
    client_id: str

    @classmethod
    def at(cls, address: Address, role: str) -> Self:
        """Return the broker at an address.

        Args:
            address: The address of a source or sink.
            role: Part of the default client id, so that a source and a sink have different ones.

        Raises:
            AddressError: it is not the address of a broker and a topic.
        """
        expected = f"{address.scheme}://HOST/TOPIC"
        if not address.place.startswith("//"):
            raise AddressError(f"{address.text}: expected {expected}")
        authority, _, topic = address.place[2:].partition("/")
        credentials, at, place = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        tls = address.scheme == "mqtts"
        host, port = address.endpoint(place, 8883 if tls else 1883, expected)
        if not topic:
            raise AddressError(f"{address.text}: no topic; expected {expected}")
        ca = address.options.get("ca")
        if ca is not None and not tls:
            raise AddressError(f"{address.text}: ca is an option of mqtts only")
        if ca is not None and not Path(ca).is_file():
            raise AddressError(f"{address.text}: no file {ca}; ca expects certificates in PEM")
        return cls(
            host, port, unquote(topic), unquote(user) if at else None, unquote(password) if at else None,
            tls, Path(ca) if ca else None,
            address.options.get("client_id", f"flockwatch-{role}-{address.client or socket.gethostname()}"),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Name for messages, without a password."""
        return f"broker {self.host}:{self.port}"

    def client(self, clean_session: bool, manual_ack: bool = False) -> Client:
        """Return a client that is set up and not connected.

        Args:
            clean_session: Whether the broker forgets the client's session when it disconnects.
            manual_ack: Whether the caller acknowledges each message.
        """
        client = Client(
            CallbackAPIVersion.VERSION2, self.client_id, clean_session=clean_session, manual_ack=manual_ack
        )
        if self.user is not None:
            client.username_pw_set(self.user, self.password)
        if self.tls:
            client.tls_set(str(self.ca) if self.ca else None)
        client.reconnect_delay_set(1, MAX_RETRY_S)
        return client
