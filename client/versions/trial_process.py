"""Trials in a process of their own: a thread would hold Python's global lock and delay the live loop."""

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

from client.buffers.training_buffer import BufferedRows, read_buffer
from client.versions.trial import ThresholdRule, TrialResult, run_trial
from client.versions.warm_up import warm_up
from common.formats.bundle import pack, unpack
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.schema import Schema, SchemaError
from common.model.scoring import window_starts
from common.processes.children import lower_priority
from common.processes.packages import SAFE_PATH, check_packages, python_module

MAX_TRIAL_S = 120.0
"""Seconds after which a trial has failed."""


class TrialError(RuntimeError):
    """A trial ended without a result."""


@dataclass(frozen=True)
class TrialRequest:
    """The version to try, and the version in use to compare it with."""

    folder: Path
    """The client's state folder, which holds the training buffer."""
    schema: Schema
    """The features of the stream."""
    new: Path
    """File of the version on trial."""
    rule: ThresholdRule
    """The rule that its threshold is set by."""
    current: Path | None = None
    """File of the version in use; None: there is none."""
    current_threshold: float = 0.0


class Trial(Protocol):
    """The trial of one version."""

    def result(self) -> TrialResult | None:
        """Return the result; None while the trial is running.

        Raises:
            TrialError: the trial failed.
        """
        ...

    def close(self) -> None:
        """Stop the trial if it is running, and release its resources."""
        ...


class InlineTrial:
    """A trial in this process, which blocks until it is done."""

    def __init__(self, request: TrialRequest) -> None:
        self._result = run_request(request)

    def result(self) -> TrialResult:
        """Return the result."""
        return self._result

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class TrialProcess:
    """A trial in a process of its own, of lower priority."""

    def __init__(self, request: TrialRequest) -> None:
        self._deadline = time.monotonic() + MAX_TRIAL_S
        self._child = subprocess.Popen(
            python_module("client.versions.trial_process"),
            env={**os.environ, **SAFE_PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        _deprioritise(self._child.pid)
        assert self._child.stdin is not None and self._child.stdout is not None  # noqa: S101  they are pipes
        self._pipe, self._output = self._child.stdout, b""
        os.set_blocking(self._pipe.fileno(), False)
        with suppress(BrokenPipeError), self._child.stdin as pipe:
            pipe.write(json.dumps(_to_json(request)).encode())

    def result(self) -> TrialResult | None:
        """Return the result; None while the process is running.

        Raises:
            TrialError: the process failed, or took longer than `MAX_TRIAL_S`.
        """
        code = self._child.poll()
        self._output += self._pipe.read() or b""
        if code is None:
            if time.monotonic() < self._deadline:
                return None
            raise TrialError(f"its trial took longer than {MAX_TRIAL_S:.0f} s")
        if code:
            raise TrialError(f"its trial ended with code {code}; see the log")
        return _unpack(self._output)

    def close(self) -> None:
        """Kill the process if it is running."""
        self._child.kill()
        self._child.wait()
        self._pipe.close()


def _deprioritise(pid: int) -> None:
    """Lower a child's priority, and keep it off the core that this process's live loop runs on."""
    lower_priority(pid)
    with suppress(psutil.Error, AttributeError):  # not every system has CPU affinity
        own = psutil.Process()
        others = {*own.cpu_affinity()} - {own.cpu_num()}
        if others:
            psutil.Process(pid).cpu_affinity(sorted(others))


def run_request(request: TrialRequest) -> TrialResult:
    """Read the versions and the training buffer from disk, and try the new version.

    Raises:
        ManifestError: a version file is damaged.
        OSError: a version file cannot be read.
    """
    schema = request.schema
    current = Manifest.unpack(request.current.read_bytes()).aligned(schema) if request.current else None
    try:
        new = Manifest.unpack(request.new.read_bytes()).aligned(schema)
    except SchemaError as error:
        return TrialResult(str(error))
    events = read_buffer(request.folder, schema) or BufferedRows.empty(len(schema))
    current = _adapted(current, events) if current is not None else None
    return run_trial(
        _adapted(new, events), events, request.rule, current, request.current_threshold, try_faults=True
    )


def _adapted(manifest: Manifest, events: BufferedRows) -> Manifest:
    """Return a version as the detector would score by it: one of the fleet is adapted to the events."""
    if manifest.personalised or not len(
        window_starts(events.rows, events.breaks, manifest.architecture.window)
    ):
        return manifest
    return warm_up(manifest, events).manifest


def main() -> None:
    """Read a request from standard input, and write the result to standard output."""
    check_packages("client")
    sys.stdout.buffer.write(_pack(run_request(_from_json(json.load(sys.stdin)))))


def _to_json(request: TrialRequest) -> dict[str, Any]:
    return {
        "folder": str(request.folder),
        "features": request.schema.features,
        "new": str(request.new),
        "rule": [request.rule.value, request.rule.rate],
        "current": str(request.current) if request.current else None,
        "current_threshold": request.current_threshold,
    }


def _from_json(values: dict[str, Any]) -> TrialRequest:
    current = values["current"]
    return TrialRequest(
        folder=Path(values["folder"]),
        schema=Schema(tuple(values["features"])),
        new=Path(values["new"]),
        rule=ThresholdRule(*values["rule"]),
        current=Path(current) if current else None,
        current_threshold=values["current_threshold"],
    )


def _pack(result: TrialResult) -> bytes:
    return pack(
        {"rejection": result.rejection, "windows": result.windows, "scale": result.scale},
        {"scores": np.frombuffer(result.scores.pack(), np.uint8)},
    )


def _unpack(content: bytes) -> TrialResult:
    fields, arrays = unpack(content)
    return TrialResult(
        rejection=fields["rejection"],
        windows=fields["windows"],
        scores=ScoreHistogram.unpack(arrays["scores"].tobytes()),
        scale=fields["scale"],
    )


if __name__ == "__main__":
    main()
