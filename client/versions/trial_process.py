"""A trial in a process of its own: Python's lock would hold up the live loop for all that a thread does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from client.data.training_buffer import BufferedRows, read
from client.versions.trial import Limit, TrialResult, run_trial
from common.formats.bundle import pack, unpack
from common.model.manifest import Manifest
from common.model.schema import Schema, SchemaError
from common.model.sketch import ScoreSketch
from common.packages import SAFE_PATH, check_packages, python_module
from common.processes import lower_priority

MAX_S = 120.0
"""A trial that takes longer has failed."""


class TrialError(RuntimeError):
    """A trial came to no result."""


@dataclass(frozen=True)
class TrialRequest:
    """What is tried, and beside what."""

    folder: Path
    """The client's state folder, with its normal events."""
    schema: Schema
    """Of the stream."""
    version: Path
    """The file of the version on trial."""
    limit: Limit
    live: Path | None = None
    """The file of the version at work, if there is one."""
    live_threshold: float = 0.0


class Trial(Protocol):
    """One version's trial."""

    def findings(self) -> TrialResult | None:
        """The result; None until there is one.

        Raises:
            TrialFailed: there will be none.
        """
        ...

    def end(self) -> None:
        """Give it up, or let go of what it held."""
        ...


class InlineTrial:
    """A trial in this process, for who has the time."""

    def __init__(self, case: TrialRequest) -> None:
        self._findings = findings_of(case)

    def findings(self) -> TrialResult:
        """The result."""
        return self._findings

    def end(self) -> None:
        """Nothing is held."""


class TrialProcess:
    """A trial in a process of its own, of lower priority."""

    def __init__(self, case: TrialRequest) -> None:
        self._deadline = time.monotonic() + MAX_S
        self._child = subprocess.Popen(
            python_module("client.versions.trial_process"),
            env={**os.environ, **SAFE_PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        _stand_aside(self._child.pid)
        assert self._child.stdin is not None and self._child.stdout is not None  # noqa: S101  they are pipes
        self._pipe, self._output = self._child.stdout, b""
        os.set_blocking(self._pipe.fileno(), False)
        with suppress(BrokenPipeError), self._child.stdin as pipe:
            pipe.write(json.dumps(_as_values(case)).encode())

    def findings(self) -> TrialResult | None:
        """The result; None until there is one.

        Raises:
            TrialFailed: the process failed, or took too long.
        """
        code = self._child.poll()
        self._output += self._pipe.read() or b""
        if code is None:
            if time.monotonic() < self._deadline:
                return None
            raise TrialError(f"its trial took longer than {MAX_S:.0f} s")
        if code:
            raise TrialError(f"its trial ended with code {code}; see the log")
        return _unpacked(self._output)

    def end(self) -> None:
        """Kill the process, if it still runs."""
        self._child.kill()
        self._child.wait()
        self._pipe.close()


def _stand_aside(pid: int) -> None:
    """Keep a child off the core of the live loop, which is this process's main thread."""
    lower_priority(pid)
    with suppress(psutil.Error, AttributeError):  # not every system has such a thing
        own = psutil.Process()
        others = {*own.cpu_affinity()} - {own.cpu_num()}
        if others:
            psutil.Process(pid).cpu_affinity(sorted(others))


def findings_of(case: TrialRequest) -> TrialResult:
    """Read both versions and the kept events from disk, and try the one beside the other."""
    live = Manifest.unpack(case.live.read_bytes()).aligned(case.schema) if case.live else None
    try:
        new = Manifest.unpack(case.version.read_bytes()).aligned(case.schema)
    except SchemaError as error:
        return TrialResult(str(error))
    kept = read(case.folder, case.schema) or BufferedRows.empty(len(case.schema))
    return run_trial(new, kept, case.limit, live, case.live_threshold)


def main() -> None:
    """Try the case on standard input, and write the findings to standard output."""
    check_packages("client")
    sys.stdout.buffer.write(_packed(findings_of(_of_values(json.load(sys.stdin)))))


def _as_values(case: TrialRequest) -> dict[str, Any]:
    return {
        "folder": str(case.folder),
        "features": case.schema.features,
        "version": str(case.version),
        "limit": [case.limit.value, case.limit.rate],
        "live": str(case.live) if case.live else None,
        "live_threshold": case.live_threshold,
    }


def _of_values(values: dict[str, Any]) -> TrialRequest:
    live = values["live"]
    return TrialRequest(
        folder=Path(values["folder"]),
        schema=Schema(tuple(values["features"])),
        version=Path(values["version"]),
        limit=Limit(*values["limit"]),
        live=Path(live) if live else None,
        live_threshold=values["live_threshold"],
    )


def _packed(findings: TrialResult) -> bytes:
    return pack(
        {"wrong": findings.wrong, "windows": findings.windows},
        {
            "scores": np.frombuffer(findings.scores.pack(), np.uint8),
            "calibration": np.frombuffer(findings.calibration, np.uint8),
        },
    )


def _unpacked(content: bytes) -> TrialResult:
    fields, arrays = unpack(content)
    return TrialResult(
        wrong=fields["wrong"],
        windows=fields["windows"],
        scores=ScoreSketch.unpack(arrays["scores"].tobytes()),
        calibration=arrays["calibration"].tobytes(),
    )


if __name__ == "__main__":
    main()
