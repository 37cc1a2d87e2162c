"""Notices as HTTP POST requests."""

from __future__ import annotations

import base64
import http.client
import ssl
from urllib.parse import unquote, urlsplit

import msgspec

from client.addresses import Address, AddressError
from client.sinks.contract import TIMEOUT_S


class _Named(msgspec.Struct):
    id: str = ""
    kind: str = ""


class WebhookSink:
    """Posts JSON to a URL; any answer from 200 to 299 accepts it. `Idempotency-Key` names each notice."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        """User and password in the URL become basic authentication.

        Raises:
            AddressError: there is no host in the URL, or no such port.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        self.name = (
            f"webhook {parts.scheme}://{parts.hostname}{'' if port is None else f':{port}'}{parts.path}"
        )
        if not parts.hostname or port == -1:
            raise AddressError(f"{self.name}: expected http(s)://HOST[:PORT]/PATH")
        self._host, self._port, self._tls = parts.hostname, port, parts.scheme == "https"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = timeout_s
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
        named = msgspec.json.decode(notice, type=_Named)
        headers = {**self._headers, "Idempotency-Key": f"{named.id}-{named.kind}"}
        connection = self._connection()
        try:
            connection.request("POST", self._target, notice, headers)
            answer = connection.getresponse()
            answer.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{self.name}: {error or type(error).__name__}") from error
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
