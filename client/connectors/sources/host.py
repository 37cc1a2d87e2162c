"""Metrics of this machine as events: a stream that needs no set-up."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable

import psutil

from client.connectors.addresses import Address
from client.connectors.sources.contract import EndOfStreamError, Position

Sample = dict[str, float]


class HostSource:
    """One JSON object per interval: processor, load, memory, disks and network. It has no positions.

    Counters of the system become rates, per second over the last interval. Intervals in which `read` is not
    called are skipped.

    Args:
        interval_s: Seconds between two events; the first event comes after one interval.
        timestamp: Name of the field with the event's time.
        clock: Returns seconds; `time.monotonic` except in tests.
    """

    problem: str | None = None

    def __init__(
        self,
        interval_s: float = 1.0,
        timestamp: str = "ts",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s, self._timestamp, self._clock = interval_s, timestamp, clock
        self._counters, self._at = counters(), clock()
        self._due = self._at + interval_s
        self._closed = False

    @classmethod
    def at(cls, address: Address, position: Position | None, timestamp: str | None) -> HostSource:
        """Open `host:?interval_s=1`."""
        address.expect_options("interval_s")
        address.expect_no_place()
        return cls(address.number("interval_s") or 1.0, timestamp or "ts")

    def read(self, timeout_s: float) -> list[bytes]:
        """Return one event if it is due; see `Source`."""
        if self._closed:
            raise EndOfStreamError("closed")
        now = self._clock()
        if now < self._due:
            time.sleep(min(timeout_s, self._due - now))
            now = self._clock()
            if now < self._due:
                return []
        missed = math.floor((now - self._due) / self._interval_s)
        self._due += (missed + 1) * self._interval_s
        return [json.dumps({**self._sample(now), self._timestamp: time.time()}).encode()]

    def position(self) -> Position:
        """Return no position: metrics of the past cannot be read."""
        return {}

    def close(self) -> None:
        """Stop reading."""
        self._closed = True

    def _sample(self, now: float) -> Sample:
        current = counters()
        passed_s = max(now - self._at, 1e-3)
        # The counters of a device that was removed jump back, which is not a negative rate.
        rates = {name: max(0.0, value - self._counters[name]) / passed_s for name, value in current.items()}
        self._counters, self._at = current, now
        return {**gauges(), **rates}


def gauges() -> Sample:
    """Return the metrics that have a value at each moment."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    one, five, fifteen = os.getloadavg()
    return {
        "load_1": one,
        "load_5": five,
        "load_15": fifteen,
        "memory_percent": memory.percent,
        "memory_available_bytes": float(memory.available),
        "swap_percent": swap.percent,
        "processes": float(len(psutil.pids())),
    }


def counters() -> Sample:
    """Return the counters since the start of the system; 0 for a device that the machine does not have."""
    cpu, disk, stats = psutil.cpu_times(), psutil.disk_io_counters(), psutil.cpu_stats()
    return {
        "cpu_user": cpu.user,
        "cpu_system": cpu.system,
        "cpu_iowait": float(getattr(cpu, "iowait", 0.0)),
        "cpu_idle": cpu.idle,
        "context_switches": float(stats.ctx_switches),
        "interrupts": float(stats.interrupts),
        "disk_reads": float(disk.read_count if disk else 0),
        "disk_writes": float(disk.write_count if disk else 0),
        "disk_read_bytes": float(disk.read_bytes if disk else 0),
        "disk_write_bytes": float(disk.write_bytes if disk else 0),
        **network_counters(),
    }


def network_counters() -> Sample:
    """Return the counters of all network interfaces together, but for loopback.

    Processes of this machine talk to each other through loopback, a server and its clients among them.
    """
    loopback = {name for name, interface in psutil.net_if_stats().items() if "loopback" in interface.flags}
    interfaces = [c for name, c in psutil.net_io_counters(pernic=True).items() if name not in loopback]
    return {
        "network_received_bytes": float(sum(counts.bytes_recv for counts in interfaces)),
        "network_sent_bytes": float(sum(counts.bytes_sent for counts in interfaces)),
        "network_received_packets": float(sum(counts.packets_recv for counts in interfaces)),
        "network_sent_packets": float(sum(counts.packets_sent for counts in interfaces)),
        "network_errors": float(sum(counts.errin + counts.errout for counts in interfaces)),
    }
