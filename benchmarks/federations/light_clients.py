"""Many clients in one process, with real connections and messages but random updates instead of training."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

import numpy as np
from msgspec.structs import asdict

from client.app import build
from client.transport.compression_state import CompressionState
from client.transport.resident_node import ResidentNode
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.protocol.messages import Description, Evaluation, Task, Update

FEATURES = 16


class LightWorker:
    """A stand-in for `ClientWorker` that replies with random updates."""

    def __init__(self, name: str, seed: int, compression: CompressionState | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self.name = name
        self.compression = compression or CompressionState()
        rows = self._rng.standard_normal((200, FEATURES)).astype(np.float32)
        self._moments = Moments.of(rows)
        self._errors = np.square(rows).mean(axis=1)
        self._scores = ScoreHistogram.of(self._errors)

    def describe(self, window: int | None = None) -> Description:
        """Describe this client."""
        schema = Schema(tuple(f"f{i:02d}" for i in range(FEATURES)))
        return Description(
            self.name,
            self.name,
            schema,
            self._moments,
            True,
            False,
            self.compression.codecs,
            self.compression.held_hash,
        )

    def receive(self, manifest: Manifest) -> None:
        """Take a version without a task; there is no detector that would use it."""

    def evaluate(self, task: Task) -> Evaluation:
        """Return the same made-up errors for every version."""
        return Evaluation(
            self.name, task.manifest.version, 200, ErrorSummary.of(self._errors), self._scores, False
        )

    def train(self, task: Task) -> Update:
        """Return a small random step."""
        difference = {
            name: (0.001 * self._rng.standard_normal(shape)).astype(np.float32)
            for name, shape in task.manifest.architecture.shapes.items()
        }
        measured = asdict(self.evaluate(task))
        return Update(**measured, loss=0.1, train_s=0.001, difference=difference)


def main() -> None:
    """Serve the clients until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    nodes = []
    for number in range(arguments.first, arguments.first + arguments.clients):
        worker = LightWorker(f"light-{number:03d}", number)
        nodes.append(ResidentNode(arguments.server, build(lambda _, worker=worker: worker)))
    signal.signal(signal.SIGTERM, lambda *_: [node.stop() for node in nodes])
    threads = [threading.Thread(target=node.serve, daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)


if __name__ == "__main__":
    main()
