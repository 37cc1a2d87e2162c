"""The event loop: reads lines from the source, scores them with the detector, and posts the notices."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

from client.connectors.sources import EndOfStreamError, Source, SourceError
from client.data.streams.schema import SchemaResolver
from client.detection.detector import Detector
from client.maintenance.checkpoint import SAVE_EVERY_S, Checkpoint
from client.service.latency import LatencyHistogram
from client.service.notifier import Notifier
from client.service.stream_watch import Moment, StreamWatch
from common.model.schema import Schema

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 0.2
"""Longest wait for an event, and therefore the longest delay of a stop."""
LOOK_EVERY_S, LOOK_EVERY_EVENTS = 1.0, 256
"""Between two calls of `StreamWatch.look`: the longest time, and about the largest number of events."""
REPORT_EVERY_S = 10.0
"""Shortest time between two log lines about refused events."""


class EventLoop:
    """Processes one stream in the thread that calls it.

    Args:
        source: The source of the stream.
        notifier: Gets the notices.
        checkpoint: Gets the position in the stream.
        stop: Ends the loop when it is set.
        one_writer: Whether one program writes the stream, as it does a file: then the loop ends if the first
            header does not name the features. Of several writers, one may have sent a wrong header.
    """

    def __init__(
        self,
        source: Source,
        notifier: Notifier,
        checkpoint: Checkpoint,
        stop: threading.Event,
        one_writer: bool = False,
    ) -> None:
        self._one_writer = one_writer
        self._source, self._notifier, self._checkpoint, self._stop = source, notifier, checkpoint, stop
        self._next_report = 0.0
        self._looked = 0
        """Number of events at the last look."""
        self.newest_refusal = ""
        """The reason why the newest refused line is not an event."""
        self.latency = LatencyHistogram()
        self.last_turn = time.monotonic()
        """The time when the source was last read, on the clock of `time.monotonic`."""

    def resolve_schema(self, resolver: SchemaResolver) -> tuple[Schema | None, list[bytes]]:
        """Read the source until the schema is known.

        Returns:
            The schema, and the lines read so far, which are not scored yet; None for the schema after a stop.

        Raises:
            EndOfStreamError: the source ended first.
        """
        schema, lines = resolver.without_stream(), list[bytes]()
        while schema is None and not self._stop.is_set():
            try:
                read = self._source.read(READ_TIMEOUT_S)
            except EndOfStreamError:
                schema, lines = resolver.from_stream([], ended=True)
                if schema is None:
                    raise
            else:
                schema, lines = resolver.from_stream(read)
            self.last_turn = time.monotonic()
            if (problem := resolver.problem) is not None and self.last_turn >= self._next_report:
                self._next_report = self.last_turn + REPORT_EVERY_S
                log.warning("features not known: %s", problem)
        return schema, lines

    def run(
        self,
        detector: Detector,
        watch: StreamWatch,
        resolver: SchemaResolver,
        lines: list[bytes],
        await_allowance: Callable[[], int | None] = lambda: None,
    ) -> tuple[Schema | None, list[bytes]]:
        """Score `lines`, and then the events of the source until a stop.

        Args:
            detector: Scores the events.
            watch: Detects silent sensors, a silent stream and refused lines.
            resolver: Chooses the features again as long as there is no version.
            lines: The first lines to score.
            await_allowance: Blocks until more events may be scored, and returns how many until its next call;
                None: any number.

        Returns:
            A changed schema, because the stream has other features, and the lines to score with it; None for
            the schema after a stop.

        Raises:
            EndOfStreamError: the source ended.
            SourceError: the header of a stream with one writer does not name the features.
        """
        next_checkpoint = next_look = 0.0
        self._score(detector, lines, time.perf_counter_ns(), await_allowance)
        while not self._stop.is_set():
            lines = self._source.read(READ_TIMEOUT_S)
            arrived = time.perf_counter_ns()
            self.last_turn = time.monotonic()
            if lines:
                if detector.active is None and (schema := resolver.reconsider(lines)) is not None:
                    return schema, lines
                self._score(detector, lines, arrived, await_allowance)
            if self.last_turn > next_look or detector.recent.count - self._looked >= LOOK_EVERY_EVENTS:
                self.look(detector, watch)
                next_look = self.last_turn + LOOK_EVERY_S
            if self.last_turn > next_checkpoint:
                self._checkpoint.reached(self._source.position())
                next_checkpoint = self.last_turn + SAVE_EVERY_S
        return None, []

    def look(self, detector: Detector, watch: StreamWatch) -> None:
        """Check the stream up to the newest event, and post the notices about it."""
        self._looked = detector.recent.count
        now = Moment(time.monotonic(), time.time())
        for notice in watch.look(detector.recent, sum(detector.refused.values()), self.newest_refusal, now):
            self._notifier.post(notice)

    def finish(self, detector: Detector, watch: StreamWatch) -> None:
        """End the open incidents, and record the position reached."""
        self.look(detector, watch)
        for notice in detector.end():
            self._notifier.post(notice)
        self._checkpoint.reached(self._source.position())

    def _score(
        self, detector: Detector, lines: list[bytes], arrived: int, await_allowance: Callable[[], int | None]
    ) -> None:
        while lines:
            count = await_allowance() or len(lines)
            self._score_part(detector, lines[:count], arrived)
            lines = lines[count:]

    def _score_part(self, detector: Detector, lines: list[bytes], arrived: int) -> None:
        outcome = detector.step(lines, time.time())
        self.latency.add(time.perf_counter_ns() - arrived, len(outcome.verdicts))
        for notice in outcome.notices:
            self._notifier.post(notice)
        if not outcome.refused:
            return
        self.newest_refusal = str(outcome.refused[-1])
        if self._one_writer and not detector.recent.count and (wrong := detector.decoder.header_problem):
            raise SourceError(wrong)
        if self.last_turn >= self._next_report:
            self._next_report = self.last_turn + REPORT_EVERY_S
            log.warning(
                "events refused counts=%s newest=%s",
                json.dumps(dict(detector.refused)), outcome.refused[-1],
            )  # fmt: skip
