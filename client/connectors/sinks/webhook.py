"""Notices as HTTP POST requests."""

from __future__ import annotations

import base64
import http.client
import ssl
from contextlib import suppress
from urllib.parse import unquote, urlsplit

import msgspec

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import TIMEOUT_S, reason


class _Named(msgspec.Struct):
    id: str = ""
    kind: str = ""


class WebhookSink:
    """Posts JSON to a URL; any answer from 200 to 299 accepts it. `Idempotency-Key` names each notice."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        """User and password in the URL become basic authentication.

        Args:
            url: Begins with `http://` or `https://`.
            timeout_s: Of each step: to connect, to send, and until the answer begins.

        Raises:
            AddressError: there is no host in the URL, or no such port, or a letter that has to be encoded.
        """
        shown = Address.parse(url).text
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            self._host = host.encode("idna").decode()
        except ValueError:
            host, port = "", None
        if not host or port == 0:
            raise AddressError(f"{shown}: expected http(s)://HOST[:PORT]/PATH")
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (self._target.isascii() and self._target.isprintable()) or " " in self._target:
            raise AddressError(f"{shown}: expected a path in percent-encoded ASCII")
        self.name = f"webhook {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._port, self._tls, self._timeout_s = port, parts.scheme == "https", timeout_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "flockwatch"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    @classmethod
    def at(cls, address: Address) -> WebhookSink:
        """The sink at a URL."""
        return cls(address.whole)

    def deliver(self, notice: bytes) -> None:
        """Post one notice; see `Sink`."""
        connection = self._connection()
        try:
            connection.request("POST", self._target, notice, self._headers | _idempotency(notice))
            answer = connection.getresponse()
            with suppress(OSError, http.client.HTTPException):  # the status has said everything
                answer.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{self.name}: {reason(error)}") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise OSError(f"{self.name}: answered {answer.status} {answer.reason}")

    def close(self) -> None:
        """Nothing is held."""

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)


def _idempotency(notice: bytes) -> dict[str, str]:
    """The header that tells a repeated notice, where the notice has a name that fits in a header."""
    try:
        named = msgspec.json.decode(notice, type=_Named)
    except msgspec.DecodeError:
        return {}
    key = "-".join(filter(None, (named.id, named.kind)))
    return {"Idempotency-Key": key} if key and key.isascii() and key.isprintable() else {}
