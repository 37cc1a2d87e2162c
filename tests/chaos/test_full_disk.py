"""A federation whose disk is full for some versions goes on, says so, and writes when it can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, logging, resource, sys
from pathlib import Path
from flwr.supercore.task_identity import TaskIdentity
from benchmarks.federations.light_clients import LightWorker
from client.app import build
from common.flower.stamps import TASK
from server.federation import status_file
from server.monitoring.status import ServerStatus
from server.storage.history import History
from server.storage.registry import Registry
from tests.chaos import test_damaged_state as chaos

for name, value in TASK.items():
    setattr(TaskIdentity, name, value)
folder, seen = Path(sys.argv[1]), []
MAX = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

class Filling(LightWorker):
    def train(self, task):
        version = task.manifest.version
        if version == 2:  # as on a nearly full disk: versions and history do not fit, the status does
            resource.setrlimit(resource.RLIMIT_FSIZE, (3200, MAX))
        if version == 5:
            seen.append(ServerStatus(folder, lambda: True).health()[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX, MAX))
        return super().train(task)

chaos.LightWorker = Filling
import server.federation.journal as journal
journal.STATUS_INTERVAL_S = 0.0
import server.storage.history as history
history.RETRY_S = 0.0
newest = chaos.serve(folder, 8)
with_history = history.History(folder / "history.sqlite")
rounds = [row["version"] for row in with_history.rounds()]
last = ServerStatus(folder, lambda: True).health()[1]
print(json.dumps({"newest": newest, "rounds": rounds, "during": seen[0], "after": last}))
"""


def test_a_full_disk_costs_no_version_and_no_record(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["newest"] == 8
    assert [version for version in result["rounds"] if version <= 8][:8] == list(range(1, 9))
    assert result["during"]["status"] == "degraded"
    assert "versions" in result["during"]["trouble"] or "history" in result["during"]["trouble"]
    assert result["after"]["trouble"] == {}
