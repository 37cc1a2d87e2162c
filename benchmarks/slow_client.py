"""One client of the straggler benchmark: real, with training as long as a slow machine's."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from client.app import build
from client.data.partition import read
from client.service.identity import Identity
from client.training.worker import ClientWorker
from client.transport.resident_node import ResidentNode
from common.protocol.messages import Task, Update
from common.settings import DataSettings


class SlowEdge(ClientWorker):
    """An edge whose training takes at least so many seconds, and leaves the processor free for others."""

    training_s = 0.0

    def train(self, task: Task) -> Update:
        """Train, and then be as slow as this machine is."""
        until = time.monotonic() + self.training_s
        update = super().train(task)
        time.sleep(max(0.0, until - time.monotonic()))
        return update


def main() -> None:
    """Take part until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--training-s", type=float, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    given.state.mkdir(parents=True, exist_ok=True)
    edge = SlowEdge(read(given.data, DataSettings()), Identity(given.state).instance, inline=True)
    edge.training_s = given.training_s
    import client.training.trainer  # noqa: F401  seconds of imports, taken now and not out of the first task

    link = ResidentNode(given.server, build(lambda _: edge))
    signal.signal(signal.SIGTERM, lambda *_: link.stop())
    link.serve()


if __name__ == "__main__":
    main()
