"""Where the events of a live stream come from: one contract, one file per source."""

from __future__ import annotations

from typing import cast

from client.connectors.addresses import Address
from client.connectors.sources.contract import (
    MAX_LINE_BYTES,
    Ended,
    Position,
    Source,
    SourceError,
)

__all__ = ["MAX_LINE_BYTES", "SOURCES", "Ended", "Position", "Source", "SourceError", "open_source"]

SOURCES = {
    "file": "file:FileSource",
    "stdin": "stdin:StdinSource",
    "tcp": "tcp:TcpSource",
    "mqtt": "mqtt:MqttSource",
    "mqtts": "mqtt:MqttSource",
    "host": "host:HostSource",
}
"""Module and class of each scheme, loaded when it is used."""


def open_source(address: str, position: Position | None = None) -> Source:
    """The source at an address such as `file:log.csv?follow=true`, going on from a position of it.

    Raises:
        AddressError: the address is wrong.
        SourceError: what it names can never be read.
    """
    found = Address.parse(address)
    return cast(Source, found.kind(__name__, SOURCES).at(found, position))
