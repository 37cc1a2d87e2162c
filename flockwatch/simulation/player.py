"""Plays the recorded or generated rows of machines as live streams, with faults.

`play` is the loop for any transport. `publish` plays generated machines to an MQTT broker until it is
stopped; the live part of `flockwatch local` (`flockwatch.simulation.live`) plays test rows to clients over
TCP.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from client.connectors.addresses import Address
from client.connectors.mqtt import KEEPALIVE_S, MqttBroker
from common.settings import DataSettings
from flockwatch.simulation import telemetry
from flockwatch.simulation.telemetry import METRICS, MINUTES_A_DAY, Recording

log = logging.getLogger(__name__)

WEEK = 7 * MINUTES_A_DAY
"""Rows after which a generated machine's seasons repeat."""
FAULT_S = 5.0
"""Duration of a fault that `publish` plays."""
FAULT_STDS = 8.0
"""Amount that a fault adds to a feature, in standard deviations of the feature in its stream."""
MAX_QUEUED = 1000
"""Events that wait for a broker that is not reachable; later ones are lost."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The rows that one machine sends, one event for each."""

    name: str
    features: tuple[str, ...]
    rows: NDArray[np.float32]
    """Shape (events, features)."""
    timestamp: str
    """Field that holds an event's time stamp."""
    start_s: float | None = None
    """Time stamp of the first event; None: each event has the time at which it is sent."""
    interval_s: float = 0.0
    """Difference between consecutive time stamps, if `start_s` is given."""
    repeat: bool = False
    """Whether the first row follows the last."""

    @cached_property
    def stds(self) -> NDArray[np.float32]:
        """Standard deviation of each feature, shape (features,)."""
        stds: NDArray[np.float32] = self.rows.std(axis=0)
        return stds

    def event(self, number: int, faulty_feature: int | None = None) -> bytes | None:
        """Return an event as a JSON object; None after the last one.

        Args:
            number: Number of the event, from 0.
            faulty_feature: Index of the feature that shows a fault.
        """
        if number >= len(self.rows) and not self.repeat:
            return None
        row = self.rows[number % len(self.rows)].copy()
        if faulty_feature is not None:
            row[faulty_feature] += FAULT_STDS * self.stds[faulty_feature]
        time_s = time.time() if self.start_s is None else self.start_s + self.interval_s * number
        values = dict(zip(self.features, row.tolist(), strict=True))
        return msgspec.json.encode({self.timestamp: time_s, **values})


@dataclass(frozen=True)
class Fault:
    """A fault in one feature of one machine."""

    machine: int
    """Index of the machine."""
    feature: int
    """Index of the feature."""
    begin: int
    """Number of the first event that shows it."""
    end: int
    """Number of the first event that no longer does."""


def play(
    streams: Sequence[Stream],
    faults: Iterable[Fault],
    rate: float,
    send: Callable[[int, bytes], object],
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[tuple[int, Fault | None]]:
    """Send the events of all streams, one of each at a time, until none has events left.

    Yields:
        After each event: the number of events sent from each stream, and the present fault.

    Args:
        streams: One for each machine.
        faults: In the order of their time, none of which overlap.
        rate: Events per second of each stream.
        send: Called with a machine's index and an event.
        wait: Waits for a number of seconds.
    """
    started = time.monotonic()
    upcoming = iter(faults)
    fault = next(upcoming, None)
    for number in itertools.count():
        if fault is not None and number == fault.end:
            fault = next(upcoming, None)
        present = fault if fault is not None and number >= fault.begin else None
        ended = True
        for machine, stream in enumerate(streams):
            is_faulty = present is not None and present.machine == machine
            event = stream.event(number, present.feature if present is not None and is_faulty else None)
            if event is not None:
                send(machine, event)
                ended = False
        if ended:
            return
        yield number + 1, present
        wait(max(0.0, started + (number + 1) / rate - time.monotonic()))


def write_history(machines: int, seed: int, folder: Path) -> list[Path]:
    """Write a file for each machine with the week before the one that `publish` plays; return the files."""
    return telemetry.write([_week(recording, 0) for recording in _recordings(machines, seed)], folder)


def publish(
    address: str,
    machines: int,
    rate: float,
    fault_every_s: float,
    first_fault_s: float,
    seed: int,
    stop: threading.Event,
) -> None:
    """Publish the events of generated machines to an MQTT broker until `stop` is set.

    Args:
        address: The broker, `mqtt://HOST/TOPIC`; machine NAME publishes to TOPIC/NAME.
        machines: Number of machines.
        rate: Events per second of each machine.
        fault_every_s: Time from the start of one fault to the start of the next. The machines take turns.
        first_fault_s: Time until the first fault. A client without a model version learns from the events of
            a fault as if they were normal.
        seed: Random seed of the machines and their faults.
        stop: Set by a signal handler.

    Raises:
        AddressError: the address is not that of a broker with a topic.
    """
    broker = MqttBroker.at(Address.parse(address), "player")
    streams = [
        Stream(r.machine.name, METRICS, _week(r, 1).partition.rows, DataSettings().time_name, repeat=True)
        for r in _recordings(machines, seed)
    ]
    client = broker.client(clean_session=True)
    client.max_queued_messages_set(MAX_QUEUED)
    client.connect_async(broker.host, broker.port, KEEPALIVE_S)
    client.loop_start()
    log.info("playing machines=%d rate=%g topic=%s/", machines, rate, broker.topic)
    faults = faults_in_turn(machines, rate, fault_every_s, first_fault_s, seed)

    def send(machine: int, event: bytes) -> None:
        client.publish(f"{broker.topic}/{streams[machine].name}", event, qos=1)

    logged: Fault | None = None
    for _, fault in play(streams, faults, rate, send, stop.wait):
        if logged is not None and fault != logged:
            log.info("fault over machine=%s", streams[logged.machine].name)
        if fault is not None and fault != logged:
            name, metric = streams[fault.machine].name, METRICS[fault.feature]
            log.warning("fault begins machine=%s metric=%s", name, metric)
        logged = fault
        if stop.is_set():
            break
    client.disconnect()
    client.loop_stop()


def faults_in_turn(machines: int, rate: float, every_s: float, first_s: float, seed: int) -> Iterator[Fault]:
    """Yield endless faults of `FAULT_S`, one machine after the other, each in a random feature.

    Args:
        machines: Number of machines.
        rate: Events per second.
        every_s: Time from the start of one fault to the start of the next.
        first_s: Time until the first fault.
        seed: Random seed.
    """
    rng = np.random.default_rng((seed, machines))
    step, length = max(2, round(every_s * rate)), max(1, round(FAULT_S * rate))
    first = max(1, round(first_s * rate))
    for number in itertools.count():
        begin = first + number * step
        feature = int(rng.integers(len(METRICS)))
        yield Fault(number % machines, feature, begin, begin + min(length, step - 1))


def _recordings(machines: int, seed: int) -> list[Recording]:
    return telemetry.record(machines, 2 * WEEK, 0, seed=seed)


def _week(recording: Recording, number: int) -> Recording:
    rows = recording.partition.rows[number * WEEK :][:WEEK]
    return replace(recording, partition=replace(recording.partition, rows=rows))
