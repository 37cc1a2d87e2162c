"""Addresses of sources and sinks, taken apart."""

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
    """An address is wrong; says what was wrong with it and what was expected."""


@dataclass(frozen=True)
class Address:
    """An address taken apart: `scheme:place?name=value&name=value`, percent-encoded where need be.

    A `#` is a letter like any other: MQTT filters end with it.

    >>> Address.parse("mqtt://broker/plant/+/#?client_id=a").place
    '//broker/plant/+/#'
    >>> Address.parse("file:log.csv?speed=60").number("speed")
    60.0
    """

    text: str
    """The address as it was given, with its password hidden."""
    whole: str
    """The address as it was given."""
    scheme: str
    place: str
    """What stands between the scheme and the options, still percent-encoded."""
    query: str
    """What stands behind the question mark, likewise."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The parts of an address.

        Raises:
            AddressError: it has no scheme.
        """
        shown = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", text)
        scheme, colon, rest = text.partition(":")
        if not colon:
            raise AddressError(
                f"{shown}: no scheme; expected an address such as file:PATH or tcp://HOST:PORT"
            )
        place, _, query = rest.partition("?")
        return cls(shown, text, scheme.lower(), place, query)

    def kind(self, package: str, schemes: Mapping[str, str]) -> Any:
        """What the scheme names, loaded now: who has no use for it need not have its libraries.

        Args:
            package: Where the modules are.
            schemes: Module and class of each scheme, as `tcp:TcpSource`.

        Raises:
            AddressError: the scheme is none of these.
        """
        if self.scheme not in schemes:
            expected = ", ".join(schemes)
            raise AddressError(f"{self.text}: unknown scheme '{self.scheme}'; expected one of: {expected}")
        module, _, name = schemes[self.scheme].partition(":")
        return getattr(import_module(f"{package}.{module}"), name)

    @cached_property
    def options(self) -> dict[str, str]:
        """The options by name, decoded.

        Raises:
            AddressError: one has no value, or is named twice.
        """
        found: dict[str, str] = {}
        for part in filter(None, self.query.split("&")):
            name, _, value = part.partition("=")
            if not value or name in found:
                wrong = "is named twice" if name in found else "has no value"
                raise AddressError(f"{self.text}: option '{name}' {wrong}; expected {name}=VALUE once")
            found[name] = unquote(value)
        return found

    def only(self, *known: str) -> None:
        """Refuse options other than those known.

        Raises:
            AddressError: names the unknown option and the known ones.
        """
        for name in self.options:
            if name not in known:
                expected = f"expected one of: {', '.join(known)}" if known else f"{self.scheme}: has none"
                raise AddressError(f"{self.text}: unknown option '{name}'; {expected}")

    def nothing(self) -> None:
        """Refuse a place, where the scheme says everything.

        Raises:
            AddressError: there is something after the colon.
        """
        if self.place:
            raise AddressError(f"{self.text}: '{self.place}' after the colon; expected {self.scheme}: alone")

    def flag(self, name: str) -> bool:
        """An option that is true or false, false when absent.

        Raises:
            AddressError: it is neither.
        """
        value = self.options.get(name, "false")
        if value not in ("true", "false"):
            raise AddressError(f"{self.text}: {name} is '{value}'; expected true or false")
        return value == "true"

    def number(self, name: str) -> float | None:
        """An option that is a number above zero, None when absent.

        Raises:
            AddressError: it is not such a number.
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
        """Host and port of `HOST:PORT`, also of `[::1]:PORT`.

        Raises:
            AddressError: no host, no port where there is no default, or a port outside 0 to 65535.
        """
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^:@/\[\]]+)(?::(\d{1,5}))?", authority)
        port = int(found[2]) if found and found[2] else default_port
        if not found or port is None or port > 65535:
            raise AddressError(f"{self.text}: expected {expected}")
        return found[1].strip("[]"), port
