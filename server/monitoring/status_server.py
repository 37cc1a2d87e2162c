"""The status server: serves the status page, its data, metrics and probes over HTTP, and receives notices."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic as clock
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import UserError
from common.protocol.alerts import AlertError, Notice
from common.security.hosts import HostCheck
from common.security.tokens import edge_token
from server.http.connections import Connections, Limits
from server.http.web import WebServer
from server.monitoring import alerts
from server.monitoring.alerts import MAX_BYTES
from server.monitoring.status import MetricsCollector, ServerStatus
from server.storage.database import NOTICES, ROUNDS, DatabaseError
from server.storage.history import History

PAGE = Path(__file__).parent / "page"
MAX_ROUNDS = 2000
"""Rounds that `/rounds` returns: the newest."""
MAX_NOTICES = 100
"""Notices that `/incidents` reads, for open and for ended incidents each."""
POST_WITHIN_S = 10.0
MAX_CONNECTIONS = 256
"""The connection that has been there longest is closed for a further one, so that probes are answered."""
END_WITHIN_S = 2
OPEN_PATHS = ("/healthz", "/alerts")
"""Paths that are served under every name."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


Refused = Callable[[str, str, str], None]
"""Gets the client that a refused notice names, the reason, and the address that it came from."""


class StatusServer:
    """Serves the status of a run from construction until it is closed.

    Args:
        address: `HOST:PORT` to listen on; port 0 for any free port.
        status: The status of the run.
        history: Contains the rounds and notices, and stores new notices.
        token: The secret that the clients' tokens follow from (`edge_token`); None refuses notices.
        admits: Returns whether a client of this name may post notices; an error means that it is not known.
        hosts: Further names of this server; see `HostCheck`.
        refused: Records a notice with a wrong token, or of a client that was revoked.

    Raises:
        OSError: the address is in use, or is not an address of this machine.
    """

    def __init__(
        self,
        address: str,
        status: ServerStatus,
        history: History,
        token: str | None = None,
        hosts: Iterable[str] = (),
        admits: Callable[[str], bool] = lambda _: True,
        refused: Refused = lambda client, reason, peer: None,
    ) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._web = WebServer(
            "status server",
            _application(
                status, history, token, HostCheck(host, hosts, "server.status_hosts"), admits, refused
            ),
            host,
            int(port),
            END_WITHIN_S,
            Connections(Limits(MAX_CONNECTIONS, MAX_CONNECTIONS, MAX_CONNECTIONS, MAX_CONNECTIONS)),
        )
        self.port = self._web.port

    def close(self) -> None:
        """Stop serving."""
        self._web.close()


def _application(
    status: ServerStatus,
    history: History,
    token: str | None,
    check: HostCheck,
    admits: Callable[[str], bool],
    refused: Refused,
) -> Starlette:
    """Return the application; see `StatusServer`."""
    limit = alerts.PostLimit()
    collector, process_id = MetricsCollector(status), secrets.token_hex(4)

    def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    def state(request: Request) -> Response:
        return _json(status.status())

    def health(request: Request) -> Response:
        code, body = status.health()
        return _json(body, code)

    def metrics(request: Request) -> Response:
        return Response(collector.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def rounds(request: Request) -> Response:
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            return PlainTextResponse("after: expected the rowid of a round\n", 400)
        newest = history.newest_rounds(MAX_ROUNDS, min(max(after, 0), 2**62))
        return _json({"newest": history.newest_id(ROUNDS), "rounds": newest})

    def incidents(request: Request) -> Response:
        tag = f'"{process_id}-{history.newest_id(NOTICES)}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        merged = alerts.incidents(history.notices(MAX_NOTICES))
        return _json({"accepts_notices": token is not None, "incidents": merged}, headers={"ETag": tag})

    async def receive_notice(request: Request) -> Response:
        if token is None:
            return PlainTextResponse("this server accepts no alerts: server.alerts_token is not set\n", 403)
        presented = alerts.presented_token(request.headers.get("authorization", ""))
        if not presented:
            return unauthorized("missing token: `flockwatch enroll NAME` on the server prints it")
        try:
            async with asyncio.timeout(POST_WITHIN_S):
                content = await _body(request)
            if content is None:
                return PlainTextResponse(f"the body has more than {MAX_BYTES} bytes\n", 413)
            notice = Notice.unpack(content)
        except TimeoutError:
            return PlainTextResponse(f"the body is incomplete after {POST_WITHIN_S:.0f} s\n", 408)
        except ClientDisconnect:
            return Response(status_code=400)
        except AlertError as error:
            return PlainTextResponse(f"{error}\n", 422)
        peer = request.client.host if request.client is not None else "unknown"
        if not hmac.compare_digest(presented, edge_token(token, notice.client).encode()):
            await run_in_threadpool(refused, notice.client, "a notice with a wrong token", peer)
            return unauthorized(f"wrong token: `flockwatch enroll {notice.client}` on the server prints it")
        if not admits(notice.client):
            await run_in_threadpool(refused, notice.client, "a notice of a revoked client", peer)
            return PlainTextResponse(f"'{notice.client}' was revoked\n", 403)
        if wait_s := limit.wait_s(notice.client, clock()):
            text = f"more than {alerts.MAX_PER_MINUTE} notices in a minute\n"
            return PlainTextResponse(text, 429, {"Retry-After": str(wait_s)})
        if await run_in_threadpool(alerts.record, history, notice):
            status.notices[notice.kind] += 1
        return Response(status_code=204)

    def unauthorized(reason: str) -> Response:
        return PlainTextResponse(f"{reason}\n", 401, {"WWW-Authenticate": "Bearer"})

    def unavailable(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", 503)

    routes = [
        Route("/", page), Route("/status", state), Route("/healthz", health), Route("/metrics", metrics),
        Route("/rounds", rounds), Route("/incidents", incidents),
        Route("/alerts", receive_notice, methods=["POST"]),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    return Starlette(
        routes=routes,
        middleware=[Middleware(_SecurityHeaders), Middleware(_KnownHosts, check=check)],
        exception_handlers={DatabaseError: unavailable, UserError: unavailable},
    )


class _KnownHosts:
    """Middleware that refuses requests to names that are not this server's (`HostCheck`).

    `OPEN_PATHS` need no such check: probes say nothing of the fleet, and notices have a token.

    Args:
        app: The next application.
        check: The check.
    """

    def __init__(self, app: ASGIApp, check: HostCheck) -> None:
        self._app, self._check = app, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._check.refusal(Headers(scope=scope).get("host", ""))
        if scope["path"] in OPEN_PATHS or refusal is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(f"{refusal}\n", 421)(scope, receive, send)


class _SecurityHeaders:
    """Middleware that adds `HEADERS` to each response: browsers load nothing from other origins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _body(request: Request) -> bytes | None:
    """Return the request's body; None if it is larger than `MAX_BYTES`."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            return None
    return bytes(content)


def _json(values: Mapping[str, Any], code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(_finite(values), indent=1, allow_nan=False)
    return Response(text, code, headers, "application/json")


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
