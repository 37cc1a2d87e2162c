"""The process of `flockwatch server`: starts SuperLink, and keeps a Flower run going."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from common.config import ConfigError, load, save
from common.formats.files import private_folder, turn_over
from common.settings import LogSettings, Settings
from server.access.audit import AuditLog
from server.access.client_endpoint import ClientEndpoint
from server.access.roster import Roster
from server.federation.first_version import max_features, transfer_source
from server.flower.superlink_process import SuperLinkError, SuperLinkProcess
from server.monitoring.status import ServerStatus
from server.monitoring.status_server import StatusServer
from server.storage.history import History
from server.storage.lease import Lease, LeaseTakenError, only_server

log = logging.getLogger(__name__)

SETTINGS_FILE = "settings.yaml"
POLL_INTERVAL_S = 0.2
START_TIMEOUT_S = 60.0
"""A submitted ServerApp that does not start within this time has failed."""

MAX_REFUSALS = 5
"""Consecutive times that a running SuperLink may refuse the run before the server gives up."""

CLOCK_WAIT_S = 5.0
"""Wait before another try while the clock is that wrong."""

MAX_FRUITLESS_STARTS = 5
"""Consecutive times that the ServerApp may die soon and without a new version before the server gives up."""

EARLIEST_S = 1_740_700_800
"""28 February 2025, in seconds since 1970: Flower takes no message that was made before."""

STEADY_S = 600.0
"""A ServerApp that dies after a longer time does not count for `MAX_FRUITLESS_STARTS`."""


def serve(settings: Settings, stop: threading.Event) -> str:
    """Serve a federation until it is stopped or ends; start SuperLink and the ServerApp again when they die.

    Args:
        settings: All sections.
        stop: Set by another thread or a signal handler to end the run.

    Returns:
        Why the run ended.

    Raises:
        ConfigError: the settings would allow other machines to connect without TLS, or the declared features
        make too large a model. CertificateError: the certificate cannot be used. DatabaseError: the URL of
        the database is invalid. SuperLinkError: SuperLink cannot be started, the ServerApp dies again and
        again, or another server uses the folder.
        ListenError: the server cannot listen on its address.
        TransferError: the version to start from cannot be read.
        OSError: the state folder cannot be written.
    """
    max_features(settings)
    if (source := settings.federation.start_from) is not None:
        settings = settings.with_values(federation={"start_from": source.resolve()})
        transfer_source(settings)
    folder = settings.server.state.resolve()
    private_folder(folder)
    with ExitStack() as closing:
        try:
            closing.enter_context(only_server(folder))
        except LeaseTakenError as error:
            raise SuperLinkError(str(error)) from error
        # The ServerApp reads the settings of this process, with those from flags and environment.
        _save(settings, folder / SETTINGS_FILE)
        endpoint = ClientEndpoint(settings.server, folder)
        superlink = SuperLinkProcess(folder, endpoint.superlink_host, endpoint.superlink_port)
        superlink.end_orphans()
        lease = Lease(folder)
        if lease.held:
            raise SuperLinkError(f"{folder}: another run uses this state folder")
        lease.clear()
        where = settings.server.database or folder / "history.sqlite"
        history = History(where, settings.logs.history_days)
        problem = history.prepare()
        status = ServerStatus(folder, lambda: superlink.alive)
        if problem is not None and settings.server.database is None:
            status.trouble["history"] = problem
        closing.callback(history.close)
        roster = Roster(folder)
        if settings.server.status is not None:
            status_server = StatusServer(
                settings.server.status,
                status,
                history,
                settings.server.alerts_token,
                settings.server.status_hosts,
                lambda client: not roster.is_revoked(client),
                partial(AuditLog(folder).record, "refused"),
            )
            closing.callback(status_server.close)
        closing.callback(superlink.end)
        closing.callback(endpoint.close)
        endpoint.open()
        return _supervise(superlink, lease, status, folder, settings.logs, stop)


def _save(settings: Settings, path: Path) -> None:
    """Write the settings for the ServerApp.

    Raises:
        OSError: the folder cannot be written, and the settings are not those of an earlier start.
    """
    try:
        save(settings, path)
    except OSError as error:
        try:
            known = load(path)
        except (OSError, ConfigError):
            raise error from None
        if known != settings:
            raise
        log.error("settings not written, those of the earlier start are the same reason=%s", error)


def _supervise(
    superlink: SuperLinkProcess,
    lease: Lease,
    status: ServerStatus,
    folder: Path,
    logs: LogSettings,
    stop: threading.Event,
) -> str:
    """Keep SuperLink and the ServerApp running until the run has ended; return why it ended.

    Args:
        superlink: Started here.
        lease: Held by the ServerApp while it runs.
        status: Counts the restarts of the ServerApp.
        folder: The state folder.
        logs: How large SuperLink's log may become.
        stop: Set to end the run.

    Raises:
        SuperLinkError: SuperLink cannot be started, or the ServerApp died `MAX_FRUITLESS_STARTS` times.
    """
    run_config = {"config": str(folder / SETTINGS_FILE), "state": str(folder)}
    fruitless, newest, refusals = 0, "", 0
    while not stop.is_set() and lease.ended is None:
        if not superlink.alive:
            superlink.end()
            superlink.start()
        try:
            superlink.submit(run_config)
        except SuperLinkError as error:
            # SuperLink has died and will be started again, or is busy with clients that reconnect.
            refusals += superlink.alive
            if refusals >= MAX_REFUSALS:
                raise
            log.warning("run not submitted attempt=%d reason=%s", refusals, error)
            stop.wait(refusals)
            continue
        refusals, submitted = 0, time.monotonic()
        _wait_for_end(superlink, lease, logs, stop)
        if stop.is_set() or lease.ended is not None:
            break
        version, steady = _newest_version(folder), time.monotonic() - submitted > STEADY_S
        clock = clock_problem(time.time())
        useful = steady or version != newest or clock  # a clock that is wrong after the start will be set
        fruitless, newest = (0 if useful else fruitless + 1), version
        if fruitless >= MAX_FRUITLESS_STARTS:
            raise SuperLinkError(
                f"the ServerApp died {fruitless} times without a new model version; see {folder}/run.log"
            )
        log.warning("run died and is resubmitted newest=%s%s", version or "none", clock)
        status.restarts += 1
        stop.wait(CLOCK_WAIT_S if clock else fruitless)
    return lease.ended or "stopped by a signal"


def clock_problem(now: float) -> str:
    """Return why Flower can send no message now, for a log line; empty if this machine's clock may be right.

    Args:
        now: Seconds since 1970, by this machine's clock.

    >>> clock_problem(0.0)
    " reason=this machine's clock says 1970-01-01, and Flower takes no message from before 2025-02-28: set it"
    """
    if now >= EARLIEST_S:
        return ""
    says, first = (f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}" for seconds in (now, EARLIEST_S))
    return (
        f" reason=this machine's clock says {says}, and Flower takes no message from before {first}: set it"
    )


def _wait_for_end(
    superlink: SuperLinkProcess, lease: Lease, logs: LogSettings, stop: threading.Event
) -> None:
    """Wait until the ServerApp has ended or died, SuperLink has died, or `stop` is set."""
    started, deadline = False, time.monotonic() + START_TIMEOUT_S
    while superlink.alive and lease.ended is None and not stop.wait(POLL_INTERVAL_S):
        turn_over(superlink.log, logs.max_mb << 20, logs.max_days, open_=True)
        held = lease.held
        started = started or held
        if (started and not held) or (not started and time.monotonic() > deadline):
            return


def _newest_version(folder: Path) -> str:
    return max((path.name for path in (folder / "versions").glob("v*.safetensors")), default="")
