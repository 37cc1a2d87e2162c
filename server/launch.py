"""The `server` process: SuperLink and one run, kept going until the run has come to its end."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from common.config import save
from common.settings import Settings
from server.access.client_endpoint import ClientEndpoint
from server.federation.first_version import transfer_source
from server.flower.superlink_process import SuperLinkError, SuperLinkProcess
from server.monitoring.status import ServerStatus
from server.monitoring.status_server import StatusServer
from server.storage.history import History
from server.storage.lease import Lease

log = logging.getLogger(__name__)

WATCH_EVERY_S = 0.2
APPEAR_WITHIN_S = 60.0
"""A submitted ServerApp that does not begin within this time has failed to start."""

MAX_REFUSALS = 5
"""Give up when a SuperLink that is up does not take the run this often in a row."""

MAX_FRUITLESS_STARTS = 5
"""Give up when the ServerApp dies this often in a row without a new version."""


def serve(settings: Settings, stop: threading.Event) -> str:
    """Run a federation to its end, whatever dies on the way.

    Args:
        settings: What to run, and where.
        stop: Set by another thread or a signal handler to end early.

    Returns:
        Why the run ended.

    Raises:
        ConfigError: it would listen to other machines without TLS.
        CertificateError: the certificate cannot work.
        DatabaseError: there is no way to the database.
        LinkError: SuperLink cannot be started or the ServerApp cannot be kept alive.
        ListenError: the address cannot be listened on.
        TransferError: the version to start from cannot be read.
        OSError: the state folder cannot be written.
    """
    if (source := settings.federation.start_from) is not None:
        settings = settings.with_values(federation={"start_from": source.resolve()})
        transfer_source(settings)
    folder = settings.server.state.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / "settings.yaml"
    save(settings, config_file)
    lease = Lease(folder)
    if lease.held:
        raise SuperLinkError(f"{folder}: another server works on this state folder")
    lease.clear()
    entrance = ClientEndpoint(settings.server, folder)
    link = SuperLinkProcess(folder, entrance.superlink_host, entrance.superlink_port)
    history = History(settings.server.database or folder / "history.sqlite")
    history.check()
    run_config = {"config": str(config_file), "state": str(folder)}
    fruitless, newest, refusals = 0, "", 0
    status = ServerStatus(folder, lambda: link.alive)
    with ExitStack() as closing:
        closing.callback(history.close)
        if settings.server.status is not None:
            site = StatusServer(settings.server.status, status, history, settings.server.alerts_token)
            closing.callback(site.close)
        closing.callback(link.end)
        closing.callback(entrance.close)
        entrance.open()
        while not stop.is_set() and lease.ended is None:
            if not link.alive:
                link.end()
                link.start()
            try:
                link.submit(run_config)
            except SuperLinkError as error:
                # It died meanwhile and is started again, or it is busy with a fleet that returns all at once.
                refusals += link.alive
                if refusals >= MAX_REFUSALS:
                    raise
                log.warning("the run is not submitted yet attempt=%d reason=%s", refusals, error)
                stop.wait(refusals)
                continue
            refusals = 0
            _watch(link, lease, stop)
            if stop.is_set() or lease.ended is not None:
                break
            version = _newest_version(folder)
            fruitless, newest = (0 if version != newest else fruitless + 1), version
            if fruitless >= MAX_FRUITLESS_STARTS:
                raise SuperLinkError(
                    f"the ServerApp died {fruitless} times without a new version; see {folder}/run.log"
                )
            log.warning("the run died and is resubmitted newest=%s", version or "none")
            status.restarts += 1
            stop.wait(fruitless)
    return lease.ended or "stopped by a signal"


def _watch(link: SuperLinkProcess, lease: Lease, stop: threading.Event) -> None:
    """Return when the run has ended or died, SuperLink has died, or `stop` is set."""
    begun, deadline = False, time.monotonic() + APPEAR_WITHIN_S
    while link.alive and lease.ended is None and not stop.wait(WATCH_EVERY_S):
        held = lease.held
        begun = begun or held
        if (begun and not held) or (not begun and time.monotonic() > deadline):
            return


def _newest_version(folder: Path) -> str:
    return max((path.name for path in (folder / "versions").glob("v*.safetensors")), default="")
