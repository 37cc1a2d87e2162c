"""Flower's own ways: a stock SuperNode takes part, and a resident client runs no app but its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import load, save
from server.flower.superlink_process import SuperLinkProcess, flower_environment, free_port
from tests.scenarios.fleet import Federation
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FOREIGN_SERVER = """
import json
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    content = RecordDict({"record": ConfigRecord({"order": "run this"})})
    messages = [Message(content, node, MessageType.QUERY) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages, timeout=200))
    reasons = [reply.error.reason if reply.has_error() else "obeyed" for reply in replies]
    open(context.run_config["answers"], "w").write(json.dumps(reasons))
"""
FOREIGN_CLIENT = """
from flwr.clientapp import ClientApp
app = ClientApp()
"""
FOREIGN_PROJECT = """
[project]
name = "intruder"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.42"]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "intruder.server_app:app"
clientapp = "intruder.client_app:app"
[tool.flwr.app.config]
answers = ""
"""


def test_a_stock_supernode_takes_part_beside_a_resident_client(federation) -> None:
    run: Federation = federation({"federation.max_rounds": "2", "federation.deadline_s": "240"})
    run.start_server()
    run.start_client(run.rows("resident"))
    data = run.rows("stock")
    eventually(lambda: "superlink ready" in run.log("server"))
    run.processes.start(
        "supernode",
        [
            str(Path(sys.executable).parent / "flower-supernode"), "--insecure", "--superlink", run.address,
            "--port", str(free_port()), "--node-config", f'data="{data}"',
        ],
        run.folder / "supernode.log",
        flower_environment(run.folder / "supernode-flower"),
    )  # fmt: skip
    run.finish()
    trained = [r for r in run.rounds() if r["kind"] == "train"]
    assert [{reply["client"] for reply in r["replies"]} for r in trained] == [{"resident", "stock"}] * 2
    assert all(reply["train_s"] > 0 for r in trained for reply in r["replies"])


def test_flwr_run_submits_the_app_to_a_superlink_that_is_there(federation) -> None:
    run: Federation = federation({"federation.max_rounds": "2", "federation.deadline_s": "240"})
    config = run.folder / "fleet.yaml"
    save(load(None, run.overrides, {}), config)
    link = SuperLinkProcess(run.folder, "127.0.0.1", run.port)
    try:
        link.start()
        run.start_client(run.rows("resident"))
        run.processes.start(
            "supernode",
            [
                str(Path(sys.executable).parent / "flower-supernode"), "--insecure",
                "--superlink", run.address, "--port", str(free_port()),
                "--node-config", f'name="stock" data="{run.rows("rows")}"',
            ],
            run.folder / "supernode.log",
            flower_environment(run.folder / "supernode-flower"),
        )  # fmt: skip
        flwr = str(Path(sys.executable).parent / "flwr")
        subprocess.run(
            [flwr, "run", str(ROOT), "here", "--run-config", f'config="{config}" state="{run.state}"'],
            env=flower_environment(run.folder / "flower"), check=True, capture_output=True, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
        eventually(lambda: [r for r in run.rounds() if r["kind"] == "evaluate"])
    finally:
        link.end()
    trained = [r for r in run.rounds() if r["kind"] == "train"]
    assert [{reply["client"] for reply in r["replies"]} for r in trained] == [{"resident", "stock"}] * 2
    assert run.version() == 2


def test_a_run_of_another_app_is_answered_with_an_error(federation) -> None:
    run: Federation = federation()
    link = SuperLinkProcess(run.folder, "127.0.0.1", run.port)
    try:
        link.start()
        run.start_client(run.rows("a"))
        eventually(lambda: "connected" in run.log("a"))
        answers = run.folder / "answers.json"
        submit_foreign_app(run.folder / "intruder", run.folder / "flower", answers)
        eventually(answers.exists)
        (reason,) = eventually(lambda: json.loads(answers.read_text() or "[]"))
    finally:
        link.end()
    assert "runs only flockwatch/flockwatch, not somebody/intruder" in reason
    assert run.processes.exit_code("a") is None


def submit_foreign_app(app: Path, home: Path, answers: Path) -> None:
    package = app / "intruder"
    package.mkdir(parents=True)
    (app / "pyproject.toml").write_text(FOREIGN_PROJECT)
    (package / "__init__.py").write_text("")
    (package / "server_app.py").write_text(FOREIGN_SERVER)
    (package / "client_app.py").write_text(FOREIGN_CLIENT)
    subprocess.run(
        [
            str(Path(sys.executable).parent / "flwr"), "run", str(app), "here",
            "--run-config", f'answers="{answers}"',
        ],
        env=flower_environment(home), check=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
