"""Where alerts go: one contract, one file per sink."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from client.addresses import Address, AddressError
from client.sinks.contract import Sink

__all__ = ["SINKS", "Sink", "open_sink"]

SINKS = {
    "stdout": "stdout:StdoutSink",
    "file": "file:FileSink",
    "http": "webhook:WebhookSink",
    "https": "webhook:WebhookSink",
    "mqtt": "mqtt:MqttSink",
    "mqtts": "mqtt:MqttSink",
}
"""Module and class of each scheme, loaded when it is used: a detector holds no library it has no use for."""


def open_sink(address: str) -> Sink:
    """The sink at an address such as `https://pager.example/hook`.

    Raises:
        AddressError: the address is wrong.
    """
    found = Address.parse(address)
    if found.scheme not in SINKS:
        raise AddressError(
            f"{found.text}: unknown scheme '{found.scheme}'; expected one of: {', '.join(SINKS)}"
        )
    module, _, name = SINKS[found.scheme].partition(":")
    kind: Any = getattr(import_module(f"client.sinks.{module}"), name)
    return cast(Sink, kind.at(found))
