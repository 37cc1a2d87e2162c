"""Posts notices to a URL."""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import TIMEOUT_S, NotYetError, RefusedError, reason

TRY_AGAIN = (408, 425, 429)
"""Responses from 400 to 499 that say nothing of the notice: timeout, too early, too many requests."""
MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 3600.0
"""Longest pause that a receiver may ask for."""


class _NoticeKey(msgspec.Struct):
    id: str = ""
    kind: str = ""


@dataclass(frozen=True)
class _Target:
    """The address to post to."""

    tls: bool
    host: str
    port: int | None
    path: str
    """With the query."""
    name: str
    """The address without a password, for messages."""
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str) -> _Target:
        """Return the parts of a URL.

        Raises:
            AddressError: it has no host, a wrong port, or a character that has to be percent-encoded.
        """
        shown = Address.parse(url).text
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").encode("idna").decode(), parts.port
        except ValueError:
            host, port = "", None
        if not host or port == 0 or parts.scheme not in ("http", "https"):
            raise AddressError(f"{shown}: expected http(s)://HOST[:PORT]/PATH")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (path.isascii() and path.isprintable()) or " " in path:
            raise AddressError(f"{shown}: expected a path in percent-encoded ASCII")
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return cls(parts.scheme == "https", host, port, path, name, parts.username, parts.password)


class WebhookSink:
    """Posts JSON. A response from 200 to 299 accepts the notice; `Idempotency-Key` identifies it.

    A response from 400 to 499 that is not in `TRY_AGAIN` is a refusal (`RefusedError`). The redirects 307 and
    308 are followed, and 308 is remembered; user and password are sent to their own host only.

    Args:
        url: Begins with `http://` or `https://`. A user and a password in it become basic authentication.
        timeout_s: Timeout of each step: to connect, to send, and to receive the response.

    Raises:
        AddressError: the URL has no host, a wrong port, or a character that has to be percent-encoded.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._first = self._target = _Target.parse(url)
        self.name = f"webhook {self._first.name}"
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "flockwatch"}
        self._authorization: dict[str, str] = {}
        if self._first.user is not None:
            pair = f"{unquote(self._first.user)}:{unquote(self._first.password or '')}"
            self._authorization["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    @classmethod
    def at(cls, address: Address) -> WebhookSink:
        """Open the sink at a URL."""
        return cls(address.raw)

    def deliver(self, notice: bytes) -> None:
        """Post one notice; see `Sink`."""
        target, lasting = self._target, True
        for _ in range(MAX_REDIRECTS + 1):
            response = self._post(target, notice)
            if 200 <= response.status < 300:
                if lasting:
                    self._target = target
                return
            location = response.getheader("Location")
            if response.status not in (307, 308) or location is None:
                break
            lasting = lasting and response.status == 308
            target = self._redirected(target, location, response.status)
        self._target = self._first  # after a failure, the redirect is not remembered
        answer = f"{self.name}: answered {response.status} {response.reason}"
        if (after_s := _retry_after_s(response.getheader("Retry-After"))) is not None:
            raise NotYetError(answer, after_s)
        if 400 <= response.status < 500 and response.status not in TRY_AGAIN:
            raise RefusedError(answer)
        raise OSError(answer)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _post(self, target: _Target, notice: bytes) -> http.client.HTTPResponse:
        own = (target.tls, target.host, target.port) == (self._first.tls, self._first.host, self._first.port)
        headers = self._headers | _idempotency(notice) | (self._authorization if own else {})
        connection = self._connection(target)
        try:
            connection.request("POST", target.path, notice, headers)
            response = connection.getresponse()
            with suppress(OSError, http.client.HTTPException):  # only status and headers matter
                response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            self._target = self._first
            raise OSError(f"{self.name}: {reason(error)}") from error
        finally:
            connection.close()
        return response

    def _redirected(self, target: _Target, location: str, status: int) -> _Target:
        """Return the target of a redirect; it may not lead from TLS to plain HTTP."""
        scheme = "https" if target.tls else "http"
        try:
            redirected = _Target.parse(urljoin(f"{scheme}://{target.name.partition('://')[2]}", location))
        except (AddressError, ValueError) as error:
            raise OSError(f"{self.name}: answered {status} with no URL to go to: {error}") from error
        if target.tls and not redirected.tls:
            raise OSError(f"{self.name}: answered {status}, from TLS to plain HTTP, which is not followed")
        return redirected

    def _connection(self, target: _Target) -> http.client.HTTPConnection:
        if target.tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                target.host, target.port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)


def _retry_after_s(header: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, at most `MAX_RETRY_AFTER_S`; None without a readable one.

    Source: RFC 9110, section 10.2.3: a number of seconds, or a date.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _idempotency(notice: bytes) -> dict[str, str]:
    """Return the header that identifies a repeated notice, if its id can be sent in a header."""
    try:
        notice_key = msgspec.json.decode(notice, type=_NoticeKey)
    except msgspec.DecodeError:
        return {}
    key = "-".join(filter(None, (notice_key.id, notice_key.kind)))
    return {"Idempotency-Key": key} if key and key.isascii() and key.isprintable() else {}
