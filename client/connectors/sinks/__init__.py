"""Sinks: where notices go. One contract, one file per sink."""

from __future__ import annotations

from typing import cast

from client.connectors.addresses import Address
from client.connectors.sinks.contract import Sink

__all__ = ["SINKS", "Sink", "open_sink"]

SINKS = {
    "stdout": "stdout:StdoutSink",
    "file": "file:FileSink",
    "http": "webhook:WebhookSink",
    "https": "webhook:WebhookSink",
    "mqtt": "mqtt:MqttSink",
    "mqtts": "mqtt:MqttSink",
}
"""Module and class of each scheme, imported when it is used."""


def open_sink(address: str, client: str | None = None) -> Sink:
    """Open the sink at an address such as `https://pager.example/hook`, for the client of this name.

    Raises:
        AddressError: the address is wrong.
    """
    parsed = Address.parse(address, client)
    return cast(Sink, parsed.load(__name__, SINKS).at(parsed))
