"""Addresses of sources and sinks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any
from urllib.parse import unquote

from common.errors import UserError


class AddressError(UserError):
    """An address is wrong; the message says what is wrong and what was expected."""


@dataclass(frozen=True)
class Address:
    """The parts of an address `scheme:place?name=value&name=value`, where values may be percent-encoded.

    A `#` has no special meaning: MQTT filters end with it.

    >>> Address.parse("mqtt://broker/plant/+/#?client_id=a").place
    '//broker/plant/+/#'
    >>> Address.parse("file:log.csv?speed=60").number("speed")
    60.0
    """

    text: str
    """The address for messages and logs, with its password hidden."""
    raw: str
    """The address as it was set."""
    scheme: str
    place: str
    """The text between the scheme and the options, percent-encoded."""
    query: str
    """The text after the question mark, percent-encoded."""
    client: str | None = None
    """Name of the client that opens the address; None: it has none."""

    @classmethod
    def parse(cls, text: str, client: str | None = None) -> Address:
        """Return the parts of an address; `client` is the name of the client that opens it.

        Raises:
            AddressError: the address has no scheme.
        """
        shown = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", text)
        scheme, colon, rest = text.partition(":")
        if not colon:
            raise AddressError(
                f"{shown}: no scheme; expected an address such as file:PATH or tcp://HOST:PORT"
            )
        place, _, query = rest.partition("?")
        return cls(shown, text, scheme.lower(), place, query, client)

    def load(self, package: str, schemes: Mapping[str, str]) -> Any:
        """Import the class of the scheme. Libraries of other schemes need not be installed.

        Args:
            package: The package of the modules.
            schemes: Module and class of each scheme, such as `tcp:TcpSource`.

        Raises:
            AddressError: the scheme is unknown.
        """
        if self.scheme not in schemes:
            expected = ", ".join(schemes)
            raise AddressError(f"{self.text}: unknown scheme '{self.scheme}'; expected one of: {expected}")
        module, _, name = schemes[self.scheme].partition(":")
        return getattr(import_module(f"{package}.{module}"), name)

    @cached_property
    def options(self) -> dict[str, str]:
        """The decoded options by name.

        Raises:
            AddressError: an option has no value, or is there twice.
        """
        options: dict[str, str] = {}
        for part in filter(None, self.query.split("&")):
            name, _, value = part.partition("=")
            if not value or name in options:
                wrong = "is named twice" if name in options else "has no value"
                raise AddressError(f"{self.text}: option '{name}' {wrong}; expected {name}=VALUE once")
            options[name] = unquote(value)
        return options

    def expect_options(self, *known: str) -> None:
        """Check that all options are known.

        Raises:
            AddressError: an option is unknown; the message lists the known ones.
        """
        for name in self.options:
            if name not in known:
                expected = f"expected one of: {', '.join(known)}" if known else f"{self.scheme}: has none"
                raise AddressError(f"{self.text}: unknown option '{name}'; {expected}")

    def expect_no_place(self) -> None:
        """Check that nothing follows the colon, for schemes without a place.

        Raises:
            AddressError: there is text after the colon.
        """
        if self.place:
            raise AddressError(f"{self.text}: '{self.place}' after the colon; expected {self.scheme}: alone")

    def flag(self, name: str) -> bool:
        """Return an option that is true or false; false if it is absent.

        Raises:
            AddressError: the option has another value.
        """
        value = self.options.get(name, "false")
        if value not in ("true", "false"):
            raise AddressError(f"{self.text}: {name} is '{value}'; expected true or false")
        return value == "true"

    def number(self, name: str) -> float | None:
        """Return an option that is a number above 0; None if it is absent.

        Raises:
            AddressError: the option has another value.
        """
        if (text := self.options.get(name)) is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise AddressError(f"{self.text}: {name} is '{text}'; expected a number above 0")
        return value

    def endpoint(self, authority: str, default_port: int | None, expected: str) -> tuple[str, int]:
        """Return host and port of `HOST:PORT` or `[::1]:PORT`.

        Args:
            authority: The text with the host and the port.
            default_port: Port where the text has none; None: it must have one.
            expected: The expected form of the address, for the error message.

        Raises:
            AddressError: the host or the port is missing, or the port is above 65535.
        """
        match = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^:@/\[\]]+)(?::(\d{1,5}))?", authority)
        port = int(match[2]) if match and match[2] else default_port
        if not match or port is None or port > 65535:
            raise AddressError(f"{self.text}: expected {expected}")
        return match[1].strip("[]"), port
