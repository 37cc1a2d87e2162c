"""Generated machines that never stop: each sends its telemetry to a broker, and now and then has a fault."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.connectors.addresses import Address
from client.connectors.mqtt import KEEPALIVE_S, MqttBroker
from common.settings import DataSettings
from flockwatch.simulation import telemetry
from flockwatch.simulation.telemetry import METRICS, MINUTES_A_DAY, Recording

log = logging.getLogger(__name__)

WEEK = 7 * MINUTES_A_DAY
"""Rows after which a machine's seasons are where they were."""
FAULT_S = 5.0
FAULT_STDS = 8.0
MAX_WAITING = 1000
"""Events that wait for a broker that is away; later ones are lost, as a machine's are."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one machine for a while."""

    machine: int
    metric: int
    begin: int
    """Number of the first event that shows it."""
    end: int
    """Number of the first that no longer does."""


def history(machines: int, seed: int, folder: Path) -> list[Path]:
    """Write a file for each machine with the week before the one that is played."""
    return telemetry.write([_week(recording, 0) for recording in _recordings(machines, seed)], folder)


def play(
    address: str,
    machines: int,
    rate: float,
    fault_every_s: float,
    first_fault_s: float,
    seed: int,
    stop: threading.Event,
) -> None:
    """Send events until `stop` is set.

    Args:
        address: Of the broker, `mqtt://HOST/TOPIC`; machine NAME's events go to TOPIC/NAME.
        machines: How many.
        rate: Events a second of each.
        fault_every_s: From one fault to the next. They come to the machines in turn.
        first_fault_s: To the first one: what an edge sees before it has a version it takes for normal.
        seed: Of the machines and their faults.
        stop: Set by a signal handler.

    Raises:
        AddressError: it is no broker's address.
    """
    broker = MqttBroker.at(Address.parse(address), "player")
    weeks = [_week(recording, 1) for recording in _recordings(machines, seed)]
    rows = [week.partition.rows for week in weeks]
    spread = [week.std(axis=0) for week in rows]
    client = broker.client(clean_session=True)
    client.max_queued_messages_set(MAX_WAITING)
    client.connect_async(broker.host, broker.port, KEEPALIVE_S)
    client.loop_start()
    log.info("playing machines=%d rate=%g topic=%s/", machines, rate, broker.topic)
    started, faults = time.monotonic(), _faults(machines, rate, fault_every_s, first_fault_s, seed)
    number, fault = 0, next(faults)
    while not stop.is_set():
        if number == fault.end:
            log.info("fault over machine=%s", weeks[fault.machine].machine.name)
            fault = next(faults)
        if number == fault.begin:
            name, metric = weeks[fault.machine].machine.name, METRICS[fault.metric]
            log.warning("fault begins machine=%s metric=%s", name, metric)
        for machine, week in enumerate(weeks):
            row = rows[machine][number % WEEK].copy()
            if machine == fault.machine and number >= fault.begin:
                row[fault.metric] += FAULT_STDS * spread[machine][fault.metric]
            client.publish(f"{broker.topic}/{week.machine.name}", _line(row), qos=1)
        number += 1
        stop.wait(max(0.0, started + number / rate - time.monotonic()))
    client.disconnect()
    client.loop_stop()


def _faults(machines: int, rate: float, every_s: float, first_s: float, seed: int) -> Iterator[Fault]:
    rng = np.random.default_rng((seed, machines))
    step, length = max(2, round(every_s * rate)), max(1, round(FAULT_S * rate))
    first, number = max(1, round(first_s * rate)), 0
    while True:
        begin = first + number * step
        yield Fault(number % machines, int(rng.integers(len(METRICS))), begin, begin + min(length, step - 1))
        number += 1


def _recordings(machines: int, seed: int) -> list[Recording]:
    return telemetry.record(machines, 2 * WEEK, 0, seed=seed)


def _week(recording: Recording, number: int) -> Recording:
    rows = recording.partition.rows[number * WEEK :][:WEEK]
    return replace(recording, partition=replace(recording.partition, rows=rows))


def _line(row: NDArray[np.float32]) -> bytes:
    values = {DataSettings().timestamp: time.time(), **dict(zip(METRICS, row.tolist(), strict=True))}
    return json.dumps(values).encode()
