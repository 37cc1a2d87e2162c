"""Compressed messages between real processes: both directions, through deaths of either side."""

from __future__ import annotations

import os
import signal

import pytest

from tests.scenarios.fleet import Federation
from tests.waiting import eventually

COMPRESSED = {
    "detector.family": "autoencoder",  # no sums over rows beside the weights
    "model.hidden": "[64, 16, 64]",
    "compression.up": "topk",
    "compression.up_share": "0.05",
    "compression.down": "topk",
    "compression.down_share": "0.05",
}
WHOLE_BYTES = 4 * 2_500
"""Less than what this model's 2,966 weights take, compressed or not."""


def test_changes_go_both_ways_and_bytes_are_counted_on_the_socket(federation) -> None:
    run: Federation = federation(COMPRESSED | {"federation.max_rounds": "6"})
    run.start_server()
    files = [run.rows(name, rows=1000, seed=i) for i, name in enumerate(("a", "b"))]
    for file in files:
        run.start_client(file)
    run.finish()
    first, *later, last = run.rounds()
    assert first["bytes_down"] > 2 * WHOLE_BYTES  # the version, whole, to each
    assert all(r["bytes_down"] < WHOLE_BYTES and r["bytes_up"] < WHOLE_BYTES for r in [*later, last])
    assert last["error"] < first["error"]
    for r in later:
        for reply in r["replies"]:
            assert reply["codec"] == "topk:0.05+zstd"
            # What the reply before cost on the socket: its content, and HTTP and Flower around it.
            assert reply["bytes_up"] < reply["replies_bytes"] < reply["bytes_up"] + 5000
            assert reply["sent_bytes"] > reply["replies_bytes"]
            assert reply["received_bytes"] > 0
    assert run.clients()["a"]["sent_bytes"] > 0


@pytest.mark.e2e
def test_both_sides_continue_with_changes_after_they_were_killed(federation) -> None:
    run: Federation = federation(COMPRESSED | {"federation.max_rounds": "100000"})
    run.start_server()
    files = {name: run.rows(name, rows=1000, seed=i) for i, name in enumerate(("a", "b"))}
    for file in files.values():
        run.start_client(file)
    eventually(lambda: run.version() >= 3)
    os.kill(run.processes.pid("a"), signal.SIGKILL)
    run.kill_server()
    eventually(lambda: run.processes.exit_code("a") is not None)
    version, closed = run.version(), len(run.rounds())
    run.start_client(files["a"], name="a", state="a")
    run.start_server("server-again")
    eventually(lambda: run.version() >= version + 3)
    after = run.rounds()[closed:]
    # Not even the first task after the restart was whole: both sides know what the clients hold.
    assert all(0 < r["bytes_down"] < WHOLE_BYTES for r in after if r["answered"] == 2)
    assert "whole version" not in run.log("a") + run.log("b")
