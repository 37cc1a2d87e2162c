"""The live process: one loop from the source to the sinks, and around it all that may take its time."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from client.connectors.addresses import Address
from client.connectors.outbox import Outbox
from client.connectors.sinks import open_sink
from client.connectors.sources import Ended, Source, open_source
from client.data.decoding import features
from client.detection.detector import Detector, Outcome
from client.service.identity import Identity
from client.service.maintenance import SAVE_EVERY_S, DetectorMaintenance
from client.service.status import DetectorStatusServer, Latency, Queue, Status
from client.service.supervisor import TrainerSupervisor
from client.versions.version_store import VersionStore
from common.config import ConfigError
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.settings import Settings

log = logging.getLogger(__name__)

WAIT_S = 0.2
"""The longest that the loop waits for an event before it looks whether it is to stop."""
REPORT_EVERY_S = 10.0
"""Refused lines are logged this often, with their number."""
CLOSE_S = 10.0
SWITCH_S = 0.0001
"""The longest that another thread may keep the loop from going on, where it does not let go by itself."""


class DetectorProcess:
    """One machine's stream, watched.

    Args:
        settings: Sections `live`, `threshold`, `data` and `client`.
        folder: The client's state folder.
        name: The client's name.
        fixed: The only version, on a machine that never trains; None: versions of the store.
        supervisor: Of the trainer, where there is one.
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
        self._stop = threading.Event()
        self._latency = Latency()
        self._turned = time.monotonic()
        self._reported = 0.0
        self._outboxes: dict[str, Outbox] = {}
        self._detector: Detector | None = None
        self._keeper: DetectorMaintenance | None = None
        self._source: Source | None = None
        self._unread = 0
        """Lines that came before the features were known."""

    @cached_property
    def _store(self) -> VersionStore:
        return VersionStore(self._folder)

    def stop(self) -> None:
        """Return from `run` soon. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Watch until `stop`, or until the source ends.

        Raises:
            SourceError, SinkError: an address is wrong.
            IdentityError: another process uses the state folder.
        """
        sys.setswitchinterval(SWITCH_S)
        with ExitStack() as closing:
            closing.callback(Identity(self._folder, "detector").release)
            self._source = open_source(self._address, self._last_position())
            closing.callback(self._source.close)
            for address in self._settings.live.sinks:
                name = Address.parse(address).text  # without its password
                key = hashlib.sha256(address.encode()).hexdigest()[:12]
                outbox = Outbox(open_sink(address), self._folder / "spool" / key)
                self._outboxes[name] = outbox
                closing.callback(outbox.close, CLOSE_S)
            log.info(
                "watching client=%s source=%s sinks=%s",
                self._name, Address.parse(self._address).text, " ".join(self._outboxes) or "none",
            )  # fmt: skip
            if self._settings.live.status is not None:
                host, _, port = self._settings.live.status.rpartition(":")
                closing.callback(DetectorStatusServer(host.strip("[]"), int(port), self.status).close)
            if self._supervisor is not None:
                closing.callback(self._supervisor.stop)
                self._supervisor.start()
            if (schema := self._known_schema()) is not None:
                self._begin(schema)
            try:
                self._loop(self._source)
            finally:
                self._finish()

    def status(self) -> Status:
        """What goes on now; any thread may ask."""
        detector, keeper, supervisor = self._detector, self._keeper, self._supervisor
        live = detector.live if detector else None
        recent = detector.recent if detector else None
        score = float(recent.scores[(recent.count - 1) % recent.size]) if recent and recent.count else None
        return Status(
            client=self._name,
            version=live.scorer.version if live else None,
            pinned=keeper is not None and keeper.pinned,
            threshold=live.threshold if live else None,
            score=score if score == score else None,
            events=recent.count if recent else 0,
            refused=dict(detector.refused) if detector else {},
            alerts=detector.alerts if detector else 0,
            incidents=detector.incidents.started if detector else 0,
            incident_open=detector is not None and detector.incidents.open,
            drifted=keeper is not None and keeper.drifted,
            swaps=keeper.swaps if keeper else 0,
            refusals=keeper.refusals if keeper else 0,
            trainer_restarts=supervisor.restarts if supervisor else 0,
            trainer_memory_bytes=supervisor.memory_bytes if supervisor else 0,
            buffered=keeper.buffered if keeper else 0,
            silent_s=time.monotonic() - self._turned,
            queues=tuple(Queue(n, o.waiting, o.delivered, o.lost) for n, o in self._outboxes.items()),
            problems=tuple(self._problems()),
            latency=self._latency,
        )

    def _problems(self) -> list[str]:
        found = [o.problem for o in self._outboxes.values()]
        found.append(self._source.problem if self._source else None)
        found.append(self._supervisor.problem if self._supervisor else None)
        found.extend(self._keeper.problems.values() if self._keeper else ())
        if self._detector is None and self._unread:
            found.append(
                f"the features are not known, and the stream's {self._unread} lines do not name them: "
                "set data.features, or send JSON objects"
            )
        return [problem for problem in found if problem is not None]

    def _loop(self, source: Source) -> None:
        save_at = look_at = 0.0
        while not self._stop.is_set():
            try:
                lines = source.read(WAIT_S)
            except Ended as end:
                log.info("source ended source=%s reason=%s", Address.parse(self._address).text, end)
                return
            arrived = time.perf_counter_ns()
            self._turned = time.monotonic()
            if self._detector is None and self._turned >= look_at:
                self._meet_a_version()
                look_at = self._turned + WAIT_S
            if lines:
                self._score(lines, arrived)
            if self._keeper is not None and self._turned > save_at:
                self._keeper.reached(self._address, source.position())
                save_at = self._turned + SAVE_EVERY_S

    def _score(self, lines: list[bytes], arrived: int) -> None:
        detector = self._detector or self._meet(lines)
        if detector is None:
            return
        outcome = detector.step(lines, time.time())
        self._latency.add(time.perf_counter_ns() - arrived, len(outcome.verdicts))
        if outcome.notices or outcome.refused:
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        for notice in outcome.notices:
            log.warning(
                "%s client=%s id=%s score=%.4g threshold=%.4g version=%d",
                notice.kind, notice.client, notice.id, notice.alert.score, notice.alert.threshold,
                notice.alert.version,
            )  # fmt: skip
            content = notice.pack()
            for outbox in self._outboxes.values():
                outbox.post(content)
        if outcome.refused and self._turned - self._reported > REPORT_EVERY_S:
            self._reported = self._turned
            assert self._detector is not None  # noqa: S101
            log.warning(
                "events refused counts=%s newest=%s",
                json.dumps(dict(self._detector.refused)), outcome.refused[-1],
            )  # fmt: skip

    def _known_schema(self) -> Schema | None:
        """The features as far as they are known before the first event."""
        if self._fixed is not None:
            return self._fixed.schema
        if self._settings.data.features is not None:
            return Schema(self._settings.data.features)
        manifest = self._store.current()
        return manifest.schema if manifest is not None else None

    def _meet(self, lines: list[bytes]) -> Detector | None:
        """Begin with the features that the stream itself names, once a line does."""
        for line in lines:
            if (schema := features(line, self._settings.data)) is not None:
                log.info("features learned from the stream features=%s", ",".join(schema.features))
                return self._begin(schema)
        self._unread += len(lines)
        return None

    def _meet_a_version(self) -> None:
        """Begin with the features of the first version that training brings, before any event names them."""
        try:
            offered = self._store.candidate()
        except (ManifestError, OSError) as error:
            log.warning("version not used reason=%s", error)
        else:
            if offered is not None:
                self._begin(offered.schema)

    def _begin(self, schema: Schema) -> Detector:
        settings = self._settings
        self._detector = Detector(self._name, schema, settings.data, settings.live)
        self._keeper = DetectorMaintenance(
            self._detector, settings, self._folder, self._store, list(self._outboxes.values()), self._fixed
        )
        self._keeper.start()
        return self._detector

    def _finish(self) -> None:
        """An incident that is going on ends with the watch; what was reached is saved."""
        if self._detector is None or self._keeper is None:
            return
        if (notice := self._detector.incidents.end()) is not None:
            self._tell(Outcome(notices=[notice]))
        if self._source is not None:
            self._keeper.reached(self._address, self._source.position())
        self._keeper.stop()

    def _last_position(self) -> dict[str, Any] | None:
        """Where an earlier process stopped in the same source."""
        try:
            saved = json.loads((self._folder / "source.json").read_bytes())
            return dict(saved["position"]) if saved["source"] == self._address else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("position lost file=%s reason=%s", self._folder / "source.json", error)
            return None
