"""The sound messages that a server sends to a client, for mutations to start from."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from flwr.app import MessageType

from common.compression.choice import Block
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.protocol.messages import Describe, Task, TaskOptions, VersionChange, WholeVersion
from common.protocol.wire import pack
from tests.client.sample_versions import rows, version


class Server:
    """Makes the honest messages of a server, which has a newer version each time."""

    def __init__(self) -> None:
        base = version(0, window=2, **{"scaling": {"by": "shared", "clip": 10.0}})
        moments = Moments.of(rows(2000, seed=3))
        self.newest = replace(base, personalised=False, moments=moments, residuals=Residuals())
        self.before = self.newest

    def advance(self) -> None:
        """Make the next version."""
        rng = np.random.default_rng(self.newest.version)
        weights = {
            name: (array + 0.002 * rng.standard_normal(array.shape)).astype(np.float32)
            for name, array in self.newest.weights.items()
        }
        self.before = self.newest
        self.newest = replace(self.newest, version=self.newest.version + 1, weights=weights)

    def message(self, kind: str, draw: random.Random) -> bytes:
        """Return a sound message of this kind."""
        if kind == MessageType.QUERY and draw.random() < 0.5:
            return pack(Describe(draw.choice((None, "no work")), draw.choice((None, 2))))
        options = TaskOptions(
            draw.choice(("none", "int8", "topk:0.1", "ternary:0.1")), draw.random() < 0.5,
            covariances=draw.random() < 0.3, leaf_counts=draw.random() < 0.3,
        )  # fmt: skip
        task = Task(self.newest, draw.choice((0, 1)), options)
        if kind == MessageType.QUERY or draw.random() < 0.6:
            return pack(WholeVersion.of(task))
        return self.change(task, draw)

    def change(self, task: Task, draw: random.Random) -> bytes:
        """Return a task as the change of the version before."""
        difference = {
            name: task.manifest.weights[name] - self.before.weights[name] for name in self.newest.weights
        }
        block = Block.of(draw.choice(("none", "int8", "topk:0.1")), difference, np.random.default_rng(0))
        return pack(VersionChange.of(task, [(task.manifest.version, block)]))
