"""The server's pages over HTTP: the status page and what it is made of, probes, and the alerts of edges."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.protocol.alerts import AlertError, Notice
from server.monitoring import alerts
from server.monitoring.alerts import MAX_BYTES
from server.monitoring.status import Scrape, ServerStatus
from server.storage.database import NOTICES, ROUNDS, DatabaseError
from server.storage.history import History
from server.web import WebServer

PAGE = Path(__file__).parent / "page"
MAX_ROUNDS = 2000
"""That `/rounds` gives at once: the newest."""
MAX_SHOWN = 100
"""Notices of incidents that go on, and of those that have ended, that `/incidents` is made of."""
POST_WITHIN_S = 10.0
MAX_CONNECTIONS = 256
END_WITHIN_S = 2
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class StatusServer:
    """Serves a run's pages at `HOST:PORT` until closed.

    Args:
        address: To listen on; port 0: any free one.
        status: Of the run.
        history: Where rounds and incidents are read, and alerts are kept.
        token: That an edge shows to post alerts. None: none are taken.

    Raises:
        OSError: the address is in use, or not this machine's.
    """

    def __init__(
        self, address: str, status: ServerStatus, history: History, token: str | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._web = WebServer(
            "site",
            _application(status, history, token),
            host,
            int(port),
            END_WITHIN_S,
            limit_concurrency=MAX_CONNECTIONS,
        )
        self.port = self._web.port

    def close(self) -> None:
        """Stop serving."""
        self._web.close()


def _application(status: ServerStatus, history: History, token: str | None) -> Starlette:
    scrape, process = Scrape(status), secrets.token_hex(4)

    def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    def state(request: Request) -> Response:
        return _json(status.status())

    def health(request: Request) -> Response:
        code, body = status.health()
        return _json(body, code)

    def metrics(request: Request) -> Response:
        return Response(scrape.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def rounds(request: Request) -> Response:
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            return PlainTextResponse("after: expected the id of a round\n", 400)
        found = history.newest_rounds(MAX_ROUNDS, min(max(after, 0), 2**62))
        return _json({"newest": history.newest_id(ROUNDS), "rounds": found})

    def incidents(request: Request) -> Response:
        tag = f'"{process}-{history.newest_id(NOTICES)}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        found = alerts.incidents(history.notices(MAX_SHOWN))
        return _json({"taken": token is not None, "incidents": found}, headers={"ETag": tag})

    async def take_alert(request: Request) -> Response:
        if token is None:
            return PlainTextResponse("this server takes no alerts: server.alerts_token is not set\n", 403)
        if not alerts.admits(token, request.headers.get("authorization", "")):
            text = "this is not the server's server.alerts_token\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})
        try:
            async with asyncio.timeout(POST_WITHIN_S):
                content = await _body(request)
            if content is None:
                return PlainTextResponse(f"more than {MAX_BYTES} bytes\n", 413)
            notice = Notice.unpack(content)
        except TimeoutError:
            return PlainTextResponse(f"not whole after {POST_WITHIN_S:.0f} s\n", 408)
        except ClientDisconnect:
            return Response(status_code=400)
        except AlertError as error:
            return PlainTextResponse(f"{error}\n", 422)
        if await run_in_threadpool(alerts.record, history, notice):
            status.notices[notice.kind] += 1
        return Response(status_code=204)

    def unavailable(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", 503)

    routes = [
        Route("/", page), Route("/status", state), Route("/healthz", health), Route("/metrics", metrics),
        Route("/rounds", rounds), Route("/incidents", incidents),
        Route("/alerts", take_alert, methods=["POST"]),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guarded)],
        exception_handlers={DatabaseError: unavailable},
    )


class _Guarded:
    """Every answer says what a browser may do with it: nothing but what comes from here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, guarded)


async def _body(request: Request) -> bytes | None:
    """All that was posted; None if it is too much."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            return None
    return bytes(content)


def _json(values: Mapping[str, Any], code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(_plain(values), indent=1, allow_nan=False)
    return Response(text, code, headers, "application/json")


def _plain(value: Any) -> Any:
    """Values that JSON has: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
