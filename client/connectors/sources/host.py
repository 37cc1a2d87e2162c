"""This machine's own metrics: a real stream with nothing to set up."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable

import psutil

from client.connectors.addresses import Address
from client.connectors.sources.contract import Ended, Position

Sample = dict[str, float]


class HostSource:
    """One event an interval: processor, load, memory, disks and network, as a JSON object.

    What the system counts since it started is given as a rate, per second over the last interval. After a
    pause of the reader there is one event, not one for each interval that was missed.
    """

    problem: str | None = None

    def __init__(self, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """The first event comes after one interval."""
        self._interval_s = interval_s
        self._clock = clock
        self._counts, self._at = counts(), clock()
        self._due = self._at + interval_s
        self._closed = False

    @classmethod
    def at(cls, address: Address, position: Position | None) -> HostSource:
        """The source at `host:`; there is no way back."""
        address.only("interval_s")
        address.nothing()
        return cls(address.number("interval_s") or 1.0)

    def read(self, timeout_s: float) -> list[bytes]:
        """One event, if one is due; see `Source`."""
        if self._closed:
            raise Ended("closed")
        now = self._clock()
        if now < self._due:
            time.sleep(min(timeout_s, self._due - now))
            now = self._clock()
            if now < self._due:
                return []
        missed = math.floor((now - self._due) / self._interval_s)
        self._due += (missed + 1) * self._interval_s
        return [json.dumps({"ts": time.time(), **self._sample(now)}).encode()]

    def position(self) -> Position:
        """There is no way back."""
        return {}

    def close(self) -> None:
        """Read no more."""
        self._closed = True

    def _sample(self, now: float) -> Sample:
        found = counts()
        passed_s = max(now - self._at, 1e-3)
        # Counters of a device that went away jump back; that is no negative rate.
        rates = {name: max(0.0, value - self._counts[name]) / passed_s for name, value in found.items()}
        self._counts, self._at = found, now
        return {**levels(), **rates}


def levels() -> Sample:
    """What has a value at each moment."""
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


def counts() -> Sample:
    """What is counted since the system started; where there is no such device, 0."""
    cpu, disk, network = psutil.cpu_times(), psutil.disk_io_counters(), psutil.net_io_counters()
    stats = psutil.cpu_stats()
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
        "network_received_bytes": float(network.bytes_recv if network else 0),
        "network_sent_bytes": float(network.bytes_sent if network else 0),
        "network_received_packets": float(network.packets_recv if network else 0),
        "network_sent_packets": float(network.packets_sent if network else 0),
        "network_errors": float(network.errin + network.errout if network else 0),
    }
