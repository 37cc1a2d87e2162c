"""The report of a failed scenario says what its processes did last."""

from __future__ import annotations

from pathlib import Path

from server.federation import status_file
from server.storage.history import History
from tests.scenarios.report import LINES, sections


def test_a_report_has_the_ends_of_the_logs_and_the_counts_of_each_client(tmp_path: Path) -> None:
    state = tmp_path / "server"
    state.mkdir()
    (state / "run.log").write_text("".join(f"line {i}\n" for i in range(100)))
    History(state / "history.sqlite").close()
    client = {"state": "gone", "admitted": 3, "refused": {"norm": 1}, "rows": 10}
    status_file.write(state / "fleet.json", {"at": 1.0, "clients": {"a": client}})
    shown = dict(sections(tmp_path))
    assert shown["server/run.log"].splitlines() == [f"line {i}" for i in range(100 - LINES, 100)]
    assert shown["clients"] == "a: state gone, admitted 3, refused {'norm': 1}"
    assert "rounds" not in shown
