"""One client of the straggler benchmark: a real client whose training takes a minimum time."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from client.app import build
from client.data.files.partitions import read_partition
from client.service.identity import Identity
from client.training.worker import ClientWorker
from client.transport.resident_node import ResidentNode
from common.protocol.messages import Task, Update
from common.settings import DataSettings


class SlowWorker(ClientWorker):
    """A worker whose training takes at least `training_s` seconds; it sleeps for the rest of them."""

    training_s = 0.0

    def train(self, task: Task) -> Update:
        """Train, and sleep until `training_s` seconds have passed."""
        end = time.monotonic() + self.training_s
        update = super().train(task)
        time.sleep(max(0.0, end - time.monotonic()))
        return update


def main() -> None:
    """Run the client until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--training-s", type=float, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    arguments.state.mkdir(parents=True, exist_ok=True)
    partition = read_partition(arguments.data, DataSettings())
    worker = SlowWorker(partition, Identity(arguments.state).instance, inline=True)
    worker.training_s = arguments.training_s
    import_module("client.training.trainer")  # imports TensorFlow before the first task arrives
    node = ResidentNode(arguments.server, build(lambda _: worker))
    signal.signal(signal.SIGTERM, lambda *_: node.stop())
    node.serve()


if __name__ == "__main__":
    main()
