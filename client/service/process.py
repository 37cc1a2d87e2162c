"""The detector process: opens source and sinks, resolves the schema, runs the event loop."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from client.buffers.training_buffer import forget_schema
from client.connectors.addresses import Address
from client.connectors.sources import EndOfStreamError, open_source
from client.data.streams.schema import SchemaResolver
from client.detection.detector import Detector
from client.maintenance.checkpoint import Checkpoint, saved_position
from client.maintenance.thread import DetectorMaintenance
from client.service.event_loop import READ_TIMEOUT_S, EventLoop
from client.service.identity import Identity
from client.service.notifier import Notifier
from client.service.snapshot import ProcessParts, snapshot
from client.service.status import DetectorStatusServer, Status
from client.service.stream_watch import Moment, StreamWatch
from client.service.supervisor import TrainerSupervisor
from client.versions.version_store import VersionStore
from common.config import ConfigError
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.settings import Settings

log = logging.getLogger(__name__)

ONE_WRITER = ("file", "stdin")
"""Schemes of the sources that one program writes: their first header applies to the whole stream."""
SWITCH_INTERVAL_S = 0.0001
"""Longest time that another thread may keep the interpreter lock from the event loop."""


class DetectorProcess:
    """Scores the stream of one client.

    Args:
        settings: Sections `live`, `threshold`, `data` and `client`.
        folder: The client's state folder.
        name: The client's name.
        fixed: The only model version to use, on a client that never trains; None: the versions of the store.
        supervisor: Runs the trainer; None for a client that never trains.

    Raises:
        ConfigError: `live.source` is not set.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        name: str,
        fixed: Manifest | None = None,
        supervisor: TrainerSupervisor | None = None,
    ) -> None:
        if settings.live.source is None:
            raise ConfigError(
                "'live.source' is not set: say where events come from, or pass --source ADDRESS"
            )
        self._settings, self._folder, self._name = settings, folder, name
        self._fixed, self._supervisor = fixed, supervisor
        self._address = settings.live.source
        address = Address.parse(self._address)
        self._source_name = address.text
        self._one_writer = address.scheme in ONE_WRITER
        self._is_recording = self._one_writer and not address.flag("follow")
        self._resolver = SchemaResolver(
            settings.data, fixed.schema if fixed else None, self._current_schema, self._offered_schema
        )
        self._stop = threading.Event()
        self._next_lookup = 0.0
        self._parts = ProcessParts(self._resolver, supervisor)

    def stop(self) -> None:
        """Make `run` return soon. It is safe in a signal handler."""
        self._stop.set()

    def run(self) -> int:
        """Process the stream until `stop` is called or the source ends.

        Returns:
            The exit code: 1 if the source has ended and no line of it was an event, else 0.

        Raises:
            AddressError, SourceError: an address is wrong, or a file's header does not name the features.
            IdentityError: another process uses the state folder.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        with ExitStack() as closing:
            closing.callback(Identity(self._folder, "detector").release)
            if self._fixed is None:
                forget_schema(self._folder)
            position = saved_position(self._folder, self._address)
            source = open_source(self._address, position, self._settings.data.timestamp, self._name)
            closing.callback(source.close)
            notifier = Notifier(self._settings.live.sinks, self._folder, self._name)
            closing.callback(notifier.close)
            checkpoint = Checkpoint(self._folder, self._address, notifier.outboxes)
            loop = EventLoop(source, notifier, checkpoint, self._stop, self._one_writer)
            self._parts.source, self._parts.notifier, self._parts.loop = source, notifier, loop
            log.info(
                "detector started client=%s source=%s sinks=%s",
                self._name, self._source_name, " ".join(notifier.sinks) or "none",
            )  # fmt: skip
            if self._settings.live.status is not None:
                host, _, port = self._settings.live.status.rpartition(":")
                hosts = self._settings.live.status_hosts
                served = DetectorStatusServer(host.strip("[]"), int(port), self.status, hosts)
                closing.callback(served.close)
            if self._supervisor is not None:
                closing.callback(self._supervisor.stop)
                self._supervisor.start()
            try:
                schema, lines = loop.resolve_schema(self._resolver)
                while schema is not None:
                    schema, lines = self._detect(loop, checkpoint, schema, lines)
            except EndOfStreamError as end:
                detector = self._parts.detector
                log.info(
                    "source ended source=%s reason=%s events=%d refused=%s",
                    self._source_name, end, detector.recent.count if detector else 0,
                    json.dumps(dict(detector.refused)) if detector else self._resolver.skipped_lines,
                )  # fmt: skip
                return self._exit_code(loop)
            return 0

    def status(self) -> Status:
        """Return a snapshot of the process. Any thread may call it."""
        return snapshot(self._name, self._parts)

    def _exit_code(self, loop: EventLoop) -> int:
        """Return the exit code after the end of the source: 1 if no line of it was an event."""
        detector = self._parts.detector
        refused = sum(detector.refused.values()) if detector else self._resolver.skipped_lines
        problem = self._resolver.problem if detector is None else None
        if (detector is not None and detector.recent.count) or not (refused or problem):
            return 0
        log.error(
            "no line of the source is an event source=%s lines=%d reason=%s",
            self._source_name, refused, problem or loop.newest_refusal,
        )  # fmt: skip
        return 1

    def _detect(
        self, loop: EventLoop, checkpoint: Checkpoint, schema: Schema, lines: list[bytes]
    ) -> tuple[Schema | None, list[bytes]]:
        """Run the event loop and the maintenance of a new detector.

        Args:
            loop: The event loop.
            checkpoint: Position in the stream.
            schema: The features.
            lines: The first lines to be scored.

        Returns:
            A changed schema and the lines to score with it; None for the schema after a stop.
        """
        columns, data = self._resolver.columns, self._settings.data
        if columns is not None:  # the time column is known, and the ignored fields were already logged
            known = {"timestamp": data.timestamp or columns.time, "ignore": (*data.ignore, *columns.ignored)}
            data = data.model_copy(update=known)
        detector = Detector(self._name, schema, data, self._settings.live)
        watch = StreamWatch(
            self._name, schema.features, self._settings.live, Moment(time.monotonic(), time.time())
        )
        maintenance = DetectorMaintenance(
            detector, self._settings, self._folder, self._store, checkpoint, self._fixed,
            recording=self._is_recording,
        )  # fmt: skip
        self._parts.detector, self._parts.maintenance, self._parts.watch = detector, maintenance, watch
        maintenance.start()
        try:
            return loop.run(detector, watch, self._resolver, lines, maintenance.await_allowance)
        finally:
            maintenance.await_tick()
            loop.finish(detector, watch)
            maintenance.stop()

    @cached_property
    def _store(self) -> VersionStore:
        return VersionStore(self._folder)

    def _current_schema(self) -> Schema | None:
        manifest = self._store.current()
        return manifest.schema if manifest is not None else None

    def _offered_schema(self) -> Schema | None:
        """Return the schema of a version that training offers, looked up every `READ_TIMEOUT_S` at most."""
        now = time.monotonic()
        if now < self._next_lookup:
            return None
        self._next_lookup = now + READ_TIMEOUT_S
        try:
            offered = self._store.candidate()
        except (ManifestError, OSError) as error:
            log.warning("version not used reason=%s", error)
            return None
        return offered.schema if offered is not None else None
