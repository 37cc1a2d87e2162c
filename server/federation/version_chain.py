"""The chain of steps between versions: each step is one encoded difference, the same for all clients.

What an encoding leaves out is not part of the version: the server publishes exactly what its clients can
reconstruct, and adds the rest to the next version (error feedback, as the clients do).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.compression.choice import NONE, Block, codec_name, seeded_rng
from common.compression.codec import size_of
from common.compression.feedback import Feedback
from common.formats.bundle import BundleError
from common.model.manifest import Manifest
from common.model.weights import Weights, add, is_finite, shapes, subtract
from common.protocol.tasks import VersionStep

log = logging.getLogger(__name__)

_PREFIX = "left/"
"""Prefix of the names under which the error feedback is saved."""


class VersionChain:
    """The steps to the newest version, and the error feedback of its encoding.

    Args:
        steps: Packed steps, oldest first; damaged ones are logged and skipped.
        memory: What `memory` returned when the newest version was written.
    """

    def __init__(self, steps: Iterable[bytes] = (), memory: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._steps: dict[str, VersionStep] = {}
        for content in steps:
            try:
                step = VersionStep.unpack(content)
            except BundleError as error:
                log.error("version step skipped reason=%s", error)
            else:
                self._steps[step.base] = step
        named = (memory or {}).items()
        rest = {n.removeprefix(_PREFIX): array for n, array in named if n.startswith(_PREFIX)}
        self._feedback = Feedback(rest if is_finite(rest) else {})

    def encoded(self, current: Manifest, weights: Weights, codec: str) -> tuple[Weights, Block | None]:
        """Encode the step to the next version.

        Args:
            current: The newest version.
            weights: The aggregated weights.
            codec: Of the step.

        Returns:
            The weights to publish, which are those that clients reconstruct, and the encoded step. Without a
            codec they are the aggregated weights, and there is no step.
        """
        difference = subtract(weights, current.weights)
        expected = shapes(current.weights)
        if self._feedback.error and shapes(self._feedback.error) != expected:
            self._feedback = Feedback()
        corrected = self._feedback.corrected(difference)
        if codec == NONE or not is_finite(corrected):
            self._feedback = Feedback()
            return (add(current.weights, corrected), None) if is_finite(corrected) else (weights, None)
        block = Block.of(codec, corrected, seeded_rng("server", current.version + 1))
        decoded = block.decoded(expected)
        with np.errstate(over="ignore", invalid="ignore"):
            published = add(current.weights, decoded)
        if not is_finite(published):
            self._feedback = Feedback()
            return weights, None
        self._feedback = Feedback(self._feedback.after_encoding(0, difference, decoded, 1).error)
        return published, block

    def extend(self, current: Manifest, manifest: Manifest, block: Block | None) -> VersionStep | None:
        """Add the step between two versions and return it; None without a block."""
        if block is None:
            return None
        step = VersionStep(manifest.version, current.hash, manifest.hash, block)
        self._steps[step.base] = step
        return step

    def keep_from(self, version: int) -> None:
        """Remove the steps to earlier versions."""
        self._steps = {base: step for base, step in self._steps.items() if step.version >= version}

    def path(self, held: str, to: Manifest, codecs: Iterable[str]) -> tuple[VersionStep, ...] | None:
        """Return the steps from one version to another; None if there are none, or the model is smaller.

        Args:
            held: Hash of the first version.
            to: The last version.
            codecs: Names of the codecs that the client can decode.
        """
        steps: list[VersionStep] = []
        max_bytes, known = 4 * size_of(to.architecture.shapes), set(codecs)
        while held != to.hash:
            step = self._steps.get(held)
            if step is None or step.version > to.version or codec_name(step.block.codec) not in known:
                return None
            max_bytes -= len(step.block.content)
            if max_bytes <= 0:
                return None
            steps.append(step)
            held = step.hash
        return tuple(steps)

    def memory(self) -> dict[str, NDArray[Any]]:
        """Return the error feedback, which must survive a restart, as named arrays."""
        return {_PREFIX + name: array for name, array in self._feedback.error.items()}
