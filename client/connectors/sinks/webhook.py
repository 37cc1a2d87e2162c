"""Posts notices to a URL."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks.contract import TIMEOUT_S, AnsweredError, NotYetError, RefusedError, reason
from common.display import shortened

TRY_AGAIN = (408, 425, 429)
"""Responses from 400 to 499 that say nothing of the notice: timeout, too early, too many requests."""
MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 3600.0
"""Longest pause that a receiver may ask for."""
MAX_STEPS = 3
"""Timeouts that one post may take in all: a receiver could otherwise send a byte before each of them."""
MAX_ANSWER = 200
"""Longest part of an answer in an error, in characters."""


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

    A response from 400 to 499 that is not in `TRY_AGAIN` is a refusal (`RefusedError`), whatever pause it
    asks for. The redirects 307 and 308 are followed, and 308 is remembered; user and password are sent to
    their own host only. After other redirects the notice is sent again: programs differ in what they mean.

    Args:
        url: Begins with `http://` or `https://`. A user and a password in it become basic authentication.
        timeout_s: Timeout of each step: to connect, to send, and to receive the response. All of them
            together take `MAX_STEPS` timeouts at most.

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
        answer = f"{self.name}: answered {response.status} {shortened(response.reason, MAX_ANSWER)}"
        if 400 <= response.status < 500 and response.status not in TRY_AGAIN:
            raise RefusedError(answer)
        after_s = _retry_after_s(response.getheader("Retry-After"), response.getheader("Date"))
        if after_s is not None:
            raise NotYetError(answer, after_s)
        if response.status in (301, 302, 303) and location is not None:
            answer += f": set the address that it names, {shortened(location, MAX_ANSWER)}"
        raise AnsweredError(answer)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _post(self, target: _Target, notice: bytes) -> http.client.HTTPResponse:
        own = (target.tls, target.host, target.port) == (self._first.tls, self._first.host, self._first.port)
        headers = self._headers | _idempotency(notice) | (self._authorization if own else {})
        try:
            with _connection(target, self._timeout_s) as connection:
                connection.request("POST", target.path, notice, headers)
                response = connection.getresponse()
                with suppress(OSError, http.client.HTTPException):  # only status and headers matter
                    response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            self._target = self._first
            raise OSError(f"{self.name}: {shortened(reason(error), MAX_ANSWER)}") from error
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


@contextmanager
def _connection(target: _Target, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
    """Connect to a target, for `MAX_STEPS` timeouts at most.

    Raises:
        TimeoutError: it took longer, or a step of it took longer than the timeout.
        OSError: the target cannot be reached, or its certificate is not trusted.
    """
    context = ssl.create_default_context() if target.tls else None
    connection = (
        http.client.HTTPConnection(target.host, target.port)
        if context is None
        else http.client.HTTPSConnection(target.host, target.port, context=context)
    )
    plain = socket.create_connection((connection.host, connection.port), timeout_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    late = threading.Event()
    with plain.dup() as same:  # of the same connection, also while TLS has the other one

        def end() -> None:
            late.set()
            with suppress(OSError):
                same.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(MAX_STEPS * timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            connection.sock = plain
            if context is not None:
                connection.sock = context.wrap_socket(plain, server_hostname=target.host)
            yield connection
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError(f"no answer within {MAX_STEPS * timeout_s:g} s") from error
            raise
        finally:
            connection.close()
            timer.cancel()
            timer.join()


def _retry_after_s(header: str | None, date: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, at most `MAX_RETRY_AFTER_S`; None without a readable one.

    Source: RFC 9110, section 10.2.3: a number of seconds, or a date.

    Args:
        header: The header.
        date: The receiver's time, by which a date counts: this machine's clock may be another. None: by this
            machine's.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    until_s, now_s = _seconds_of(text), _seconds_of(date or "")
    if until_s is None:
        return None
    return min(max(until_s - (time.time() if now_s is None else now_s), 0.0), MAX_RETRY_AFTER_S)


def _seconds_of(date: str) -> float | None:
    """Return the seconds since 1970 of a date in a header; None if it is not one."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _idempotency(notice: bytes) -> dict[str, str]:
    """Return the header that identifies a repeated notice, if its id can be sent in a header."""
    try:
        notice_key = msgspec.json.decode(notice, type=_NoticeKey)
    except msgspec.DecodeError:
        return {}
    key = "-".join(filter(None, (notice_key.id, notice_key.kind)))
    return {"Idempotency-Key": key} if key and key.isascii() and key.isprintable() else {}
