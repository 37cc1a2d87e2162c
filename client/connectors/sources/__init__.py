"""Sources: where the events of a stream come from. One contract, one file per source."""

from __future__ import annotations

from typing import cast

from client.connectors.addresses import Address
from client.connectors.sources.contract import (
    MAX_LINE_BYTES,
    EndOfStreamError,
    Position,
    Source,
    SourceError,
)

__all__ = [
    "MAX_LINE_BYTES",
    "SOURCES",
    "EndOfStreamError",
    "Position",
    "Source",
    "SourceError",
    "open_source",
]

SOURCES = {
    "file": "file:FileSource",
    "stdin": "stdin:StdinSource",
    "tcp": "tcp:TcpSource",
    "mqtt": "mqtt:MqttSource",
    "mqtts": "mqtt:MqttSource",
    "host": "host:HostSource",
}
"""Module and class of each scheme, imported when it is used."""


def open_source(
    address: str,
    position: Position | None = None,
    timestamp: str | None = None,
    client: str | None = None,
) -> Source:
    """Open the source at an address.

    Args:
        address: For example `file:log.csv?follow=true`.
        position: Where to continue, from an earlier source of the same address; None: at the start.
        timestamp: Name of the column or field with an event's time, as the setting `data.timestamp` has it;
            None: a usual name.
        client: Name of the client, which makes its session at a broker different from those of others.

    Raises:
        AddressError: the address is wrong.
        SourceError: the source can never be read.
    """
    parsed = Address.parse(address, client)
    return cast(Source, parsed.load(__name__, SOURCES).at(parsed, position, timestamp))
