"""A reverse proxy between clients and SuperLink, which admits registered clients to the Fleet API only.

SuperLink's Control API requires no credentials and shares its port with the Fleet API. Therefore SuperLink
listens on the loopback address, and clients connect to this ASGI application
(`docs/decisions/0011-gateway.md`). Alerts are forwarded to the status server. Bodies are streamed.
"""

from __future__ import annotations

import json
import logging
import re
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import httpcore

from common.protocol.wire import REFUSED_HEADER
from common.security.keys import fingerprint, parse_public_key, parse_public_pem, public_key_pem
from server.access.audit import AuditLog
from server.access.bodies import BodyTooLargeError, ClientDisconnectError, RequestBody
from server.access.roster import RegisteredClient, Roster, RosterError
from server.flower.endpoints import (
    ACTIVATE,
    CONTROL_REGISTER,
    KEY_HEADER,
    PROTOBUF,
    SELF_REGISTRATION,
    registration,
)
from server.http.connections import Connections

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLEET_PATH = re.compile(rb"/v1/fleet/[a-z-]+")
ALERTS_PATH = b"/alerts"
"""Forwarded to the status server, which checks its own token."""

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"host", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
"""Headers of a connection, which a proxy must not forward. Source: RFC 9110, section 7.6.1."""

TIMEOUTS = {"connect": 5.0, "read": 60.0, "write": 60.0, "pool": 60.0}
"""Limits on requests to SuperLink, in seconds."""

KEEP_ALIVE_S = 3.0
"""Close idle connections to SuperLink before it does: its default keep-alive is 5 s."""

MAX_CONNECTIONS = 100
"""Connections to SuperLink."""
MAX_ALERT_CONNECTIONS = 16
"""Connections to the status server, limited separately, so that notices keep no client out."""
MAX_AT_ONCE = 8
"""Requests of one client that are answered at the same time."""

MAX_SMALL_BYTES = 256 * 1024
"""Largest body of a request that carries no part of a model, and of a notice."""
MAX_UPDATE_BYTES = 256 << 20
"""Largest body that carries a part of a model, by default."""
CARRY_MODELS = (b"/v1/fleet/push-messages", b"/v1/fleet/push-object")

LOG_EVERY_S = 10.0
"""The same warning is logged at most once in this time."""
MAX_WARNINGS = 100
"""Different warnings that are logged in this time."""


class LogThrottle:
    """Limits how often the same warning is logged: once per `LOG_EVERY_S`, and how many different ones.

    >>> throttle = LogThrottle()
    >>> throttle.allows("plain HTTP", now=0.0), throttle.allows("plain HTTP", now=1.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def allows(self, warning: str, now: float) -> bool:
        """Return whether to log a warning at time `now`, in seconds."""
        self._logged_at = {text: at for text, at in self._logged_at.items() if now < at + LOG_EVERY_S}
        if warning not in self._logged_at and len(self._logged_at) >= MAX_WARNINGS:
            return False
        return self._logged_at.setdefault(warning, now) == now


class Gateway:
    """ASGI application that checks each request and forwards it to SuperLink or to the status server.

    Args:
        port: SuperLink's port on the loopback address.
        roster: The registered clients; None admits every client.
        alerts: Host and port of the status server, to which clients post notices; None refuses notices.
        connections: The connections of the gateway; None: their number is not limited.
        max_update_bytes: Returns the largest body that may carry a part of a model.
        audit: Records refusals; None: they are only logged.
    """

    def __init__(
        self,
        port: int,
        roster: Roster | None,
        alerts: tuple[str, int] | None = None,
        connections: Connections | None = None,
        max_update_bytes: Callable[[], int] = lambda: MAX_UPDATE_BYTES,
        audit: AuditLog | None = None,
    ) -> None:
        self._superlink, self._roster, self._alerts = ("127.0.0.1", port), roster, alerts
        self._connections, self._max_update_bytes, self._audit = connections, max_update_bytes, audit
        self._pool, self._alerts_pool = _pool(MAX_CONNECTIONS), _pool(MAX_ALERT_CONNECTIONS)
        self._at_once: Counter[tuple[str, str]] = Counter()
        self._throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, keys = scope["raw_path"], [value for name, value in scope["headers"] if name == KEY_HEADER]
        try:
            client = self._roster.find(keys[0]) if self._roster is not None and keys else None
            refusal = self._refusal(scope["method"], path, keys, client)
            if refusal is None and client is not None and path == ACTIVATE:
                await self._register_with_superlink(client)
        except RosterError as error:
            log.error("all clients are refused: the roster cannot be read reason=%s", error)
            await _respond(send, HTTPStatus.SERVICE_UNAVAILABLE, "the server cannot read its roster")
            return
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            await _respond(send, HTTPStatus.SERVICE_UNAVAILABLE, f"SuperLink does not answer: {error!r}")
            return
        if refusal is not None:
            self._log_refusal(scope, refusal, client)
            await _respond(send, HTTPStatus.FORBIDDEN, refusal, refused=True)
            return
        # Only SuperLink checks signatures, so requests with this key from another address count separately.
        sender = (client.fingerprint if client is not None else "", (scope.get("client") or ("",))[0])
        if client is not None and self._at_once[sender] >= MAX_AT_ONCE:
            reason = f"'{client.client}' has {MAX_AT_ONCE} requests at once"
            await _respond(send, HTTPStatus.SERVICE_UNAVAILABLE, reason, close=True)
            return
        self._at_once[sender] += 1
        try:
            await self._forward(scope, receive, send, client)
        except BodyTooLargeError as error:
            self._log_refusal(scope, str(error), client)
            await _respond(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error), refused=True, close=True)
        finally:
            self._at_once[sender] -= 1
            if not self._at_once[sender]:
                del self._at_once[sender]

    async def close(self) -> None:
        """Close the connections to SuperLink and the status server."""
        await self._pool.aclose()
        await self._alerts_pool.aclose()

    def _refusal(
        self, method: str, path: bytes, keys: list[bytes], client: RegisteredClient | None
    ) -> str | None:
        """Return why a request is refused, or None if it is admitted.

        Args:
            method: The request's HTTP method.
            path: The request's path, without the query.
            keys: The values of the request's public key headers.
            client: The roster's entry for the first key.
        """
        if method == "POST" and path == ALERTS_PATH and self._alerts is not None:
            return None
        if method != "POST" or FLEET_PATH.fullmatch(path) is None:
            return "clients may only use the Fleet API, POST /v1/fleet/..."
        if self._roster is None:
            return None
        if not keys:
            return "the request has no client key: set client.key, and register its .pub file on the server"
        if len(keys) > 1:  # SuperLink must verify the same key that was looked up here
            return "the request has more than one client key"
        if client is None:
            return f"the key {_fingerprint(keys[0])} is not registered: flockwatch enroll NAME KEY.pub"
        if client.revoked is not None:
            return f"the key {client.fingerprint} of '{client.client}' was revoked on {client.revoked}"
        if path in SELF_REGISTRATION:
            return "only the operator registers keys: flockwatch enroll NAME KEY.pub"
        return None

    def _log_refusal(self, scope: Scope, refusal: str, client: RegisteredClient | None) -> None:
        peer = (scope.get("client") or ("unknown",))[0]
        name = client.client if client is not None else "unknown"
        if self._throttle.allows(f"{peer} {refusal}", time.monotonic()):
            path = scope["raw_path"][:100].decode("ascii", "replace")
            log.warning("refused peer=%s client=%s path=%s reason=%s", peer, name, path, refusal)
            if self._audit is not None:
                self._audit.record("refused", name, refusal, peer)

    async def _register_with_superlink(self, client: RegisteredClient) -> None:
        """Register a client's key with SuperLink, which answers 412 if it has it already."""
        key = parse_public_key(client.key.encode(), client.client)
        body = registration(client.client, public_key_pem(key))
        headers = [(b"content-type", PROTOBUF), (b"content-length", b"%d" % len(body))]
        response = await self._pool.request(
            "POST",
            self._url(CONTROL_REGISTER),
            headers=headers,
            content=body,
            extensions={"timeout": TIMEOUTS},
        )
        if response.status not in (HTTPStatus.OK, HTTPStatus.PRECONDITION_FAILED):
            log.error("SuperLink refused a key client=%s status=%d", client.client, response.status)

    async def _forward(
        self, scope: Scope, receive: Receive, send: Send, client: RegisteredClient | None
    ) -> None:
        """Send a request to SuperLink or the status server, and its response to the client.

        Args:
            scope: The request.
            receive: The ASGI channel from the client.
            send: The ASGI channel to the client.
            client: The client whose key the request names; None for a notice, and without a roster.

        Raises:
            BodyTooLargeError: the body is too large; no response has begun.
        """
        response_started, is_alert = False, scope["raw_path"] == ALERTS_PATH
        body = RequestBody(receive, self._max_body_bytes(scope["raw_path"]), scope["headers"])
        try:
            await body.read_first()
            response = await (self._alerts_pool if is_alert else self._pool).handle_async_request(
                httpcore.Request(
                    "POST",
                    self._url(scope["raw_path"]),
                    headers=_forwarded_headers(scope["headers"]),
                    content=body.chunks(),
                    extensions={"timeout": TIMEOUTS},
                )
            )
            try:
                if response.status < HTTPStatus.BAD_REQUEST:
                    self._admit(scope, client)
                headers = [(n, v) for n, v in response.headers if n.lower() not in HOP_BY_HOP]
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                response_started = True
                async for chunk in response.aiter_stream():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                await response.aclose()
        except ClientDisconnectError:
            return
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            if response_started:  # this closes the connection, which marks the response as incomplete
                raise
            target = "the status server" if is_alert else "SuperLink"
            await _respond(send, HTTPStatus.SERVICE_UNAVAILABLE, f"{target} does not answer: {error!r}")

    def _admit(self, scope: Scope, client: RegisteredClient | None) -> None:
        """Record the client of a connection after a request on it was accepted."""
        if self._connections is None:
            return
        if self._roster is None:  # anybody may take part, and keys are not registered
            host, port = scope["client"]
            self._connections.admit(scope["client"], f"{host}:{port}")
        else:
            self._connections.admit(scope["client"], None if client is None else client.fingerprint)

    def _max_body_bytes(self, path: bytes) -> int:
        return self._max_update_bytes() if path in CARRY_MODELS else MAX_SMALL_BYTES

    def _url(self, path: bytes) -> httpcore.URL:
        host, port = self._alerts if self._alerts is not None and path == ALERTS_PATH else self._superlink
        return httpcore.URL(scheme=b"http", host=host.encode(), port=port, target=path)


def _pool(connections: int) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEP_ALIVE_S,
    )


def _forwarded_headers(headers: Headers) -> Headers:
    forwarded = [(name, value) for name, value in headers if name not in HOP_BY_HOP]
    if not any(name == b"content-length" for name, _ in forwarded):
        forwarded.append((b"transfer-encoding", b"chunked"))
    return [(b"host", b"127.0.0.1"), *forwarded]


async def _respond(
    send: Send, code: HTTPStatus, reason: str, refused: bool = False, close: bool = False
) -> None:
    """Send a response of the gateway itself, in Flower's error format, so that SuperNodes print the reason.

    Args:
        send: The ASGI channel to the client.
        code: HTTP status.
        reason: The error message.
        refused: Mark the response as a refusal, which the client does not retry at once.
        close: Close the connection: the rest of the body is not read.
    """
    body = json.dumps({"code": 0, "detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused:
        headers.append((REFUSED_HEADER, b"1"))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _fingerprint(header: bytes) -> str:
    """Return the fingerprint of the key in a request's header, or `(unreadable)`."""
    try:
        return fingerprint(parse_public_pem(b64decode(header, validate=True)))
    except ValueError:  # also a KeyFileError
        return "(unreadable)"
