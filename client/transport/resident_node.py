"""A Flower client that stays in memory: one process, one node, one app, for any number of messages.

A stock SuperNode starts a process for each message, which imports TensorFlow each time. This node answers
only messages of flockwatch's own app, which is installed: it never fetches the code of a run, and answers
messages of other apps with an error.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.transport.errors import (
    AccessDeniedError,
    RequestRefusedError,
    RunEndedError,
    UnknownNodeError,
    UnreachableError,
)
from client.transport.fleet_connection import HEARTBEAT_INTERVAL_S, FleetConnection
from client.transport.polling import MIN_HEARTBEAT_S, BusyBackoff, PollSchedule, heartbeat_wait_s
from client.transport.sockets import Meter
from common.backoff import retry_interval_s
from common.display import shortened
from common.protocol.messages import COUNTED

log = logging.getLogger(__name__)

APP_ID = "flockwatch/flockwatch"
"""Publisher and name of the only app whose messages are answered."""

APP_FAILED, FOREIGN_APP = 1, 2
"""Codes of error replies."""

MAX_RUNS = 64
"""Runs that are remembered. A server has one at a time, and a new one after each restart."""

MAX_REASON = 1000
"""Longest reason in an error reply, in characters: it may quote a message of any size."""


class ResidentNode:
    """Runs one ClientApp for the messages of a server, until it is stopped.

    Args:
        address: The server as `host:port`.
        app: Answers the messages.
        root_certificates: CA certificates in PEM to verify the server with; None for plain HTTP.
        key: The client's private key; None: a new one for each connection.
        idle: Called whenever no message waits.
    """

    def __init__(
        self,
        address: str,
        app: ClientApp,
        root_certificates: bytes | None = None,
        key: EllipticCurvePrivateKey | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._app = app
        self._root_certificates, self._key = root_certificates, key
        self._idle = idle
        self._stop = threading.Event()
        self._states: dict[int, RecordDict] = {}
        """The app's state in each series of runs."""
        self._runs: dict[int, tuple[str, int]] = {}
        """The app and the series of each run."""
        self._must_register = threading.Event()
        """Set when the server has not recognised a heartbeat."""
        self._meter = Meter()
        self._failures = 0
        """Consecutive attempts without a useful answer of the server."""
        self._answered = False
        """Whether the server has answered a poll on the present connection."""

    def stop(self) -> None:
        """Finish the current message, sign off, and return from `serve`. Safe in a signal handler."""
        self._stop.set()

    def serve(self) -> None:
        """Connect, answer messages, and reconnect after errors; return only after `stop`."""
        while not self._stop.is_set():
            self._answered = False
            connection = FleetConnection(self._address, self._root_certificates, self._key, self._meter)
            try:
                connection.open()
                log.info("connected server=%s node=%s", self._address, connection.node_id)
                self._serve_connection(connection)
            except UnknownNodeError as error:
                if self._answered:
                    log.warning("connecting again server=%s reason=%s", self._address, error)
                else:
                    self._wait_for_server(error)
            except (UnreachableError, AccessDeniedError, RequestRefusedError, RunEndedError) as error:
                self._wait_for_server(error)
            finally:
                connection.close()

    def _serve_connection(self, connection: FleetConnection) -> None:
        """Poll and answer until stopped.

        Raises:
            UnknownNodeError: the node must register again.
        """
        self._must_register.clear()
        done = threading.Event()
        heartbeats = threading.Thread(
            target=self._send_heartbeats, args=(connection, done), name="heartbeat", daemon=True
        )
        heartbeats.start()
        schedule, backoff = PollSchedule(time.monotonic()), BusyBackoff()
        try:
            while not self._stop.is_set():
                if self._must_register.is_set():
                    raise UnknownNodeError("the server did not recognise the heartbeat")
                polled = time.monotonic()
                try:
                    received = connection.receive()
                except (UnreachableError, RunEndedError) as error:
                    self._wait_for_server(error)
                    continue
                self._failures, self._answered = 0, True
                if received is None:
                    took_s = time.monotonic() - polled
                    self._idle()
                    now = time.monotonic()
                    self._stop.wait(max(schedule.wait_s(now), backoff.wait_s(took_s)))
                    continue
                schedule.message_received(time.monotonic())
                self._handle(connection, *received)
                schedule.message_replied(time.monotonic())
        finally:
            done.set()
            heartbeats.join()

    def _wait_for_server(self, error: Exception) -> None:
        """Log an error of the server, and wait before the next attempt: longer each time."""
        self._failures += 1
        wait_s = retry_interval_s(self._failures)
        log.log(
            logging.ERROR if isinstance(error, AccessDeniedError) else logging.WARNING,
            "waiting for the server server=%s attempt=%d retry_in_s=%.1f reason=%s",
            self._address, self._failures, wait_s, error or type(error).__name__,
        )  # fmt: skip
        self._idle()
        self._stop.wait(wait_s)

    def _send_heartbeats(self, connection: FleetConnection, done: threading.Event) -> None:
        wait_s = MIN_HEARTBEAT_S
        while not done.wait(wait_s * random.uniform(0.8, 1.0)):  # noqa: S311  jitter
            started = time.monotonic()
            try:
                connection.heartbeat()
            except (UnreachableError, AccessDeniedError) as error:
                log.debug("heartbeat missed reason=%s", error)
            except (UnknownNodeError, RequestRefusedError, RunEndedError):
                self._must_register.set()
            wait_s = heartbeat_wait_s(time.monotonic() - started, wait_s, HEARTBEAT_INTERVAL_S)

    def _handle(self, connection: FleetConnection, message: Message, inline: bool) -> None:
        started = time.monotonic()
        reply = self._answer(connection, message)
        if reply is not None:
            runtime_s = time.monotonic() - started
            self._deliver(connection, reply, inline, runtime_s, started + message.metadata.ttl)

    def _answer(self, connection: FleetConnection, message: Message) -> Message | None:
        meta = message.metadata
        try:
            app_id, series = self._run(connection, meta.run_id)
        except (RunEndedError, RequestRefusedError) as error:
            log.warning("message of an unknown run dropped run=%s reason=%s", meta.run_id, error)
            return None
        if app_id != APP_ID:
            reason = f"this client runs only {APP_ID}, not {app_id}"
            log.error("message refused run=%s reason=%s", meta.run_id, reason)
            return Message(Error(FOREIGN_APP, reason), reply_to=message)
        context = Context(
            run_id=meta.run_id,
            node_id=connection.node_id,
            node_config=self._traffic(),
            state=self._states.get(series, RecordDict()),
            run_config={},
        )
        try:
            reply = self._app(message, context)
        except Exception as error:
            log.error("message failed run=%s type=%s reason=%s", meta.run_id, meta.message_type, error)
            log.debug("%s", traceback.format_exc())
            reason = shortened(f"{type(error).__name__}: {error}", MAX_REASON)
            return Message(Error(APP_FAILED, reason), reply_to=message)
        if series not in self._states:
            _forget_oldest(self._states)
        self._states[series] = context.state
        return reply

    def _traffic(self) -> dict[str, bool | float | int | str]:
        """Return the traffic of the sockets so far, which the app adds to its answer."""
        traffic = self._meter.traffic
        return {name: getattr(traffic, name) for name in COUNTED}

    def _run(self, connection: FleetConnection, run_id: int) -> tuple[str, int]:
        """Return the app and the series of a run."""
        while run_id not in self._runs:
            try:
                run = connection.run(run_id)
                _forget_oldest(self._runs)
                self._runs[run_id] = (run.fab_id, run.series_id)
            except UnreachableError as error:
                if self._stop.is_set():
                    raise RunEndedError from error
                self._wait_for_server(error)
        return self._runs[run_id]

    def _deliver(
        self, connection: FleetConnection, reply: Message, inline: bool, runtime_s: float, deadline: float
    ) -> None:
        """Send a reply, again after connection errors, until the server has it or its deadline has passed."""
        while time.monotonic() < deadline:
            try:
                with suppress(RunEndedError):
                    connection.send(reply, inline, runtime_s)
                return
            except UnreachableError as error:
                if self._stop.is_set():
                    return
                self._wait_for_server(error)
            except RequestRefusedError as error:
                log.error("reply refused run=%s reason=%s", reply.metadata.run_id, error)
                return


def _forget_oldest(known: dict[int, Any]) -> None:
    """Make room for another entry among at most `MAX_RUNS`."""
    while len(known) >= MAX_RUNS:
        del known[next(iter(known))]
