"""The event loop: reads the source, has its lines scored by the detector, and posts the notices."""

from __future__ import annotations

import json
import logging
import threading
import time

from client.connectors.sources import Source
from client.data.stream_schema import SchemaResolver
from client.detection.detector import Detector
from client.service.checkpoint import SAVE_EVERY_S, Checkpoint
from client.service.latency import LatencyHistogram
from client.service.notifier import Notifier
from common.model.schema import Schema

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 0.2
"""Longest wait for an event, and so the longest delay of a stop."""
REPORT_EVERY_S = 10.0
"""Shortest time between two log lines about refused events."""


class EventLoop:
    """Processes one stream in the thread that calls it.

    Args:
        source: The source of the stream.
        notifier: Gets the notices.
        checkpoint: Gets the position in the stream.
        stop: Ends the loop when it is set.
    """

    def __init__(
        self, source: Source, notifier: Notifier, checkpoint: Checkpoint, stop: threading.Event
    ) -> None:
        self._source, self._notifier, self._checkpoint, self._stop = source, notifier, checkpoint, stop
        self._next_report = 0.0
        self.latency = LatencyHistogram()
        self.last_turn = time.monotonic()
        """When the source was last read, on the clock of `time.monotonic`."""

    def resolve_schema(self, resolver: SchemaResolver) -> tuple[Schema | None, list[bytes]]:
        """Read the source until the schema is known.

        Returns:
            The schema, and the lines read last, which are not scored yet; no schema after a stop.

        Raises:
            EndOfStreamError: the source ended first.
        """
        schema, lines = resolver.without_stream(), list[bytes]()
        while schema is None and not self._stop.is_set():
            lines = self._source.read(READ_TIMEOUT_S)
            self.last_turn = time.monotonic()
            schema = resolver.from_stream(lines)
        return schema, lines

    def run(self, detector: Detector, lines: list[bytes]) -> None:
        """Score `lines`, and then the events of the source until a stop.

        Raises:
            EndOfStreamError: the source ended.
        """
        next_checkpoint = 0.0
        self._score(detector, lines, time.perf_counter_ns())
        while not self._stop.is_set():
            lines = self._source.read(READ_TIMEOUT_S)
            arrived = time.perf_counter_ns()
            self.last_turn = time.monotonic()
            if lines:
                self._score(detector, lines, arrived)
            if self.last_turn > next_checkpoint:
                self._checkpoint.reached(self._source.position())
                next_checkpoint = self.last_turn + SAVE_EVERY_S

    def finish(self, detector: Detector) -> None:
        """End the open incident, and record the position reached."""
        if (notice := detector.incidents.end()) is not None:
            self._notifier.post(notice)
        self._checkpoint.reached(self._source.position())

    def _score(self, detector: Detector, lines: list[bytes], arrived: int) -> None:
        outcome = detector.step(lines, time.time())
        self.latency.add(time.perf_counter_ns() - arrived, len(outcome.verdicts))
        for notice in outcome.notices:
            self._notifier.post(notice)
        if outcome.refused and self.last_turn >= self._next_report:
            self._next_report = self.last_turn + REPORT_EVERY_S
            log.warning(
                "events refused counts=%s newest=%s",
                json.dumps(dict(detector.refused)), outcome.refused[-1],
            )  # fmt: skip
