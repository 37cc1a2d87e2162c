"""Posts notices to a URL."""

from __future__ import annotations

import base64
import http.client
import ssl
from contextlib import suppress
from urllib.parse import unquote, urlsplit

import msgspec

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import TIMEOUT_S, reason


class _NoticeKey(msgspec.Struct):
    id: str = ""
    kind: str = ""


class WebhookSink:
    """Posts JSON. A response from 200 to 299 accepts the notice; `Idempotency-Key` identifies it.

    Args:
        url: Begins with `http://` or `https://`. A user and a password in it become basic authentication.
        timeout_s: Timeout of each step: to connect, to send, and to receive the response.

    Raises:
        AddressError: the URL has no host, a wrong port, or a character that has to be percent-encoded.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
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
        """Open the sink at a URL."""
        return cls(address.raw)

    def deliver(self, notice: bytes) -> None:
        """Post one notice; see `Sink`."""
        connection = self._connection()
        try:
            connection.request("POST", self._target, notice, self._headers | _idempotency(notice))
            response = connection.getresponse()
            with suppress(OSError, http.client.HTTPException):  # only the status matters
                response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{self.name}: {reason(error)}") from error
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise OSError(f"{self.name}: answered {response.status} {response.reason}")

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)


def _idempotency(notice: bytes) -> dict[str, str]:
    """Return the header that identifies a repeated notice, if its id can be sent in a header."""
    try:
        notice_key = msgspec.json.decode(notice, type=_NoticeKey)
    except msgspec.DecodeError:
        return {}
    key = "-".join(filter(None, (notice_key.id, notice_key.kind)))
    return {"Idempotency-Key": key} if key and key.isascii() and key.isprintable() else {}
