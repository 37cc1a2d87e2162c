"""Versions as a chain of steps: each is the one before it plus a difference that was encoded once, for all.

What an encoding leaves out is not in the version: the server publishes what its clients can reconstruct, to
the last bit, and carries the rest into the next version (error feedback, as on the clients' side).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.compression.choice import NONE, Block, name_of, rng_of
from common.compression.codec import size_of
from common.compression.feedback import Feedback
from common.formats.bundle import BundleError
from common.model.manifest import Manifest
from common.model.weights import Weights, add, is_finite, shapes, subtract
from common.protocol.changes import VersionStep

log = logging.getLogger(__name__)

_LEFT = "left/"


class VersionChain:
    """The steps to the newest version, and what the last one left out.

    Args:
        steps: As packed; damaged ones are named in the log, and make the chain shorter.
        memory: What `memory` gave when the newest version was written.
    """

    def __init__(self, steps: Iterable[bytes] = (), memory: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._steps: dict[str, VersionStep] = {}
        for content in steps:
            try:
                step = VersionStep.unpack(content)
            except BundleError as error:
                log.error("step passed over reason=%s", error)
            else:
                self._steps[step.base] = step
        left = {n.removeprefix(_LEFT): a for n, a in (memory or {}).items() if n.startswith(_LEFT)}
        self._feedback = Feedback(left if is_finite(left) else {})

    def encoded(self, current: Manifest, weights: Weights, codec: str) -> tuple[Weights, Block | None]:
        """What the next version's weights are, where these are meant, and the block that leads to them.

        Without a codec they are what is meant, and there is no block.
        """
        true = subtract(weights, current.weights)
        expected = shapes(current.weights)
        if self._feedback.error and shapes(self._feedback.error) != expected:
            self._feedback = Feedback()
        wanted = self._feedback.carried(true)
        if codec == NONE or not is_finite(wanted):
            self._feedback = Feedback()
            return (add(current.weights, wanted), None) if is_finite(wanted) else (weights, None)
        block = Block.of(codec, wanted, rng_of("server", current.version + 1))
        decoded = block.decoded(expected)
        with np.errstate(over="ignore", invalid="ignore"):
            published = add(current.weights, decoded)
        if not is_finite(published):
            self._feedback = Feedback()
            return weights, None
        self._feedback = Feedback(self._feedback.after(0, true, decoded, 1).error)
        return published, block

    def extend(self, current: Manifest, manifest: Manifest, block: Block | None) -> VersionStep | None:
        """The step between two versions that are written now; None where there is no block."""
        if block is None:
            return None
        step = VersionStep(manifest.version, current.hash, manifest.hash, block)
        self._steps[step.base] = step
        return step

    def keep_from(self, version: int) -> None:
        """Let go of steps to earlier versions."""
        self._steps = {base: step for base, step in self._steps.items() if step.version >= version}

    def path(self, held: str, to: Manifest, codecs: Iterable[str]) -> tuple[VersionStep, ...] | None:
        """The steps from a version to another; None if none lead there, or they are longer than the model.

        Args:
            held: Hash of the first.
            to: The last.
            codecs: By name, those that the receiver has.
        """
        found: list[VersionStep] = []
        most, known = 4 * size_of(to.architecture.shapes), set(codecs)
        while held != to.hash:
            step = self._steps.get(held)
            if step is None or step.version > to.version or name_of(step.block.codec) not in known:
                return None
            most -= len(step.block.content)
            if most <= 0:
                return None
            found.append(step)
            held = step.hash
        return tuple(found)

    def memory(self) -> dict[str, NDArray[Any]]:
        """What must not be forgotten in a restart, as named arrays."""
        return {_LEFT + name: array for name, array in self._feedback.error.items()}
