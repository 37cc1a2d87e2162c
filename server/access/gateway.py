"""What stands between the clients and the server: passes on the Fleet API of registered clients, and alerts.

SuperLink's Control API asks for no credentials and shares its port with the Fleet API. So SuperLink listens
on the loopback address, where the operator is, and clients reach this ASGI application
(`docs/decisions/0011-gateway.md`). Bodies go through in pieces, as they come.
"""

from __future__ import annotations

import json
import logging
import re
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import httpcore

from common.protocol.wire import REFUSED_HEADER
from common.security.keys import fingerprint, parse_public_key, parse_public_pem, public_key_pem
from server.access.roster import RegisteredClient, Roster, RosterError
from server.flower.endpoints import (
    ACTIVATE,
    CONTROL_REGISTER,
    KEY_HEADER,
    PROTOBUF,
    SELF_SERVICE,
    registration,
)

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLEET = re.compile(rb"/v1/fleet/[a-z-]+")
ALERTS = b"/alerts"
"""Of the server's status address, which has its own token for it and is not the clients' to see."""

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"host", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
"""Headers that concern one connection and not the message. Source: RFC 9110, section 7.6.1."""

TIMEOUTS = {"connect": 5.0, "read": 60.0, "write": 60.0, "pool": 60.0}
KEEP_S = 3.0
"""Idle connections to SuperLink are closed before it does so itself, after 5 s."""

MAX_CONNECTIONS = 100
SAY_AGAIN_S = 10.0
"""The same refusal of the same caller is logged once in so many seconds."""


class Gone(ConnectionError):
    """The client hung up before its request was whole."""


class Refusals:
    """What was refused, for the log: once in a while, however often it comes.

    >>> refusals = Refusals()
    >>> refusals.due("plain HTTP", now=0.0), refusals.due("plain HTTP", now=1.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def due(self, what: str, now: float) -> bool:
        """Whether to log it now."""
        self._said = {known: at for known, at in self._said.items() if now < at + SAY_AGAIN_S}
        return self._said.setdefault(what, now) == now


class Gateway:
    """The ASGI application.

    Args:
        port: SuperLink's, on the loopback address.
        roster: The registered clients. None: anybody who reaches it may take part.
        alerts: Host and port of the status address, where edges post alerts; None: none are taken.
    """

    def __init__(self, port: int, roster: Roster | None, alerts: tuple[str, int] | None = None) -> None:
        self._superlink, self._roster, self._alerts = ("127.0.0.1", port), roster, alerts
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_S,
        )
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, keys = scope["raw_path"], [value for name, value in scope["headers"] if name == KEY_HEADER]
        try:
            entry = self._roster.find(keys[0]) if self._roster is not None and keys else None
            refused = self._refusal(scope["method"], path, keys, entry)
            if refused is None and entry is not None and path == ACTIVATE:
                await self._introduce(entry)
        except RosterError as error:
            log.error("nobody is let in reason=%s", error)
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE, "the server cannot read its roster")
            return
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE, f"SuperLink does not answer: {error!r}")
            return
        if refused is not None:
            self._tell(scope, refused, entry)
            await _answer(send, HTTPStatus.FORBIDDEN, refused, refused=True)
            return
        await self._pass_on(scope, receive, send)

    async def close(self) -> None:
        """Close the connections to SuperLink."""
        await self._pool.aclose()

    def _refusal(
        self, method: str, path: bytes, keys: list[bytes], entry: RegisteredClient | None
    ) -> str | None:
        """Why a request is not passed on; None for one that is."""
        if method == "POST" and path == ALERTS and self._alerts is not None:
            return None
        if method != "POST" or FLEET.fullmatch(path) is None:
            return "clients reach the Fleet API, POST /v1/fleet/..., and nothing else"
        if self._roster is None:
            return None
        if not keys:
            return "the request names no key: set client.key, and have its .pub file enrolled"
        if len(keys) > 1:  # the one that is looked up must be the one that SuperLink verifies
            return "the request names more than one key"
        if entry is None:
            return f"the key {_shown(keys[0])} is not registered: flockwatch enroll NAME KEY.pub"
        if entry.revoked is not None:
            return f"the key {entry.fingerprint} of '{entry.client}' was revoked on {entry.revoked}"
        if path in SELF_SERVICE:
            return "keys are registered by the operator alone: flockwatch enroll NAME KEY.pub"
        return None

    def _tell(self, scope: Scope, refused: str, entry: RegisteredClient | None) -> None:
        peer = (scope.get("client") or ("unknown",))[0]
        name = entry.client if entry is not None else "unknown"
        if self._refusals.due(f"{peer} {refused}", time.monotonic()):
            path = scope["raw_path"][:100].decode("ascii", "replace")
            log.warning("refused peer=%s client=%s path=%s reason=%s", peer, name, path, refused)

    async def _introduce(self, entry: RegisteredClient) -> None:
        """Have SuperLink know a registered key; it says 412 where it does already."""
        body = registration(entry.client, public_key_pem(parse_public_key(entry.key.encode(), entry.client)))
        headers = [(b"content-type", PROTOBUF), (b"content-length", b"%d" % len(body))]
        answer = await self._pool.request(
            "POST",
            self._url(CONTROL_REGISTER),
            headers=headers,
            content=body,
            extensions={"timeout": TIMEOUTS},
        )
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PRECONDITION_FAILED):
            log.error("key not taken by SuperLink client=%s status=%d", entry.client, answer.status)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        request = httpcore.Request(
            "POST",
            self._url(scope["raw_path"]),
            headers=_forwarded(scope["headers"]),
            content=_body(receive),
            extensions={"timeout": TIMEOUTS},
        )
        try:
            response = await self._pool.handle_async_request(request)
            try:
                headers = [(n, v) for n, v in response.headers if n.lower() not in HOP_BY_HOP]
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                begun = True
                async for chunk in response.aiter_stream():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                await response.aclose()
        except Gone:
            return
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            if begun:  # the client sees that its answer is cut short
                raise
            asked = "the status address" if scope["raw_path"] == ALERTS else "SuperLink"
            await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE, f"{asked} does not answer: {error!r}")

    def _url(self, path: bytes) -> httpcore.URL:
        host, port = self._alerts if self._alerts is not None and path == ALERTS else self._superlink
        return httpcore.URL(scheme=b"http", host=host.encode(), port=port, target=path)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _forwarded(headers: Headers) -> Headers:
    kept = [(name, value) for name, value in headers if name not in HOP_BY_HOP]
    if not any(name == b"content-length" for name, _ in kept):
        kept.append((b"transfer-encoding", b"chunked"))
    return [(b"host", b"127.0.0.1"), *kept]


async def _answer(send: Send, code: HTTPStatus, reason: str, refused: bool = False) -> None:
    """An answer of the gateway itself, in the form of Flower's, so that its programs print the reason."""
    body = json.dumps({"code": 0, "detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused:
        headers.append((REFUSED_HEADER, b"1"))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _shown(header: bytes) -> str:
    """The fingerprint of a key that nobody knows, if it is one."""
    try:
        return fingerprint(parse_public_pem(b64decode(header, validate=True)))
    except ValueError:  # also a KeyFileError
        return "(unreadable)"
