"""A client whose answers cannot be used is left alone for a while."""

from __future__ import annotations

from server.coordination.clients import MAX_FAULTS, MAX_REMEMBERED, QUARANTINE_S, with_fault
from server.coordination.coordinator import step
from server.coordination.events import DescriptionFailed, TaskFailed
from server.coordination.state import State, ready_names
from tests.server.coordination.test_asynchronous import streaming
from tests.server.coordination.test_coordinator import FEATURES, Run


def fault(run: Run, node: int) -> None:
    """Give a client time to get a task, and let its answer be at fault."""
    if node not in run.state.tasks:
        run.after(10.0)
    run.do(TaskFailed(node, run.state.tasks[node].number, "moments of 1e200", fault=True))


def quarantined() -> Run:
    """Return a run in which client `c`, on node 3, has just been quarantined."""
    run = streaming("abc", min_clients=2, max_rounds=None)
    for _ in range(MAX_FAULTS):
        assert "c" in ready_names(run.state)
        fault(run, 3)
    return run


def test_a_few_faults_in_a_row_cost_a_client_its_place_for_a_while() -> None:
    run = quarantined()
    assert ready_names(run.state) == {"a", "b"}
    assert "moments of 1e200" in run.state.clients[3].reason
    run.after(QUARANTINE_S - 1)
    run.describe(3, "c", "instance of c", FEATURES)
    assert ready_names(run.state) == {"a", "b"}
    run.after(1.0)
    run.describe(3, "c", "instance of c", FEATURES)
    assert ready_names(run.state) == {"a", "b", "c"}


def test_a_reconnection_does_not_end_a_quarantine() -> None:
    run = quarantined()
    run.leave(3)
    run.join("c")
    assert ready_names(run.state) == {"a", "b"}


def test_a_sound_answer_makes_earlier_faults_good() -> None:
    run = streaming("abc", min_clients=2, max_rounds=None)
    for _ in range(3):
        for _ in range(MAX_FAULTS - 1):
            fault(run, 3)
        run.after(10.0)
        run.answer_newest(3)
        run.after(10.0)
    assert "c" in ready_names(run.state)


def test_errors_that_a_client_reports_are_no_faults() -> None:
    run = streaming("abc", min_clients=2, max_rounds=None)
    for _ in range(3 * MAX_FAULTS):
        run.after(10.0)
        run.fail(3, "out of memory")
    assert "c" in ready_names(run.state)


def test_descriptions_that_are_at_fault_are_asked_for_seldom() -> None:
    run = streaming("ab", min_clients=2)
    run.after(0)
    for _ in range(MAX_FAULTS):
        run.state, _ = step(run.state, DescriptionFailed(1, "deep", fault=True), run.now, run.rules)
    assert run.state.clients[1].status == "refused"
    assert run.state.clients[1].ask_at == run.now + QUARANTINE_S


def test_faults_of_names_that_come_and_go_are_forgotten() -> None:
    state = State()
    for i in range(MAX_REMEMBERED + 10):
        state = with_fault(state, f"client-{i}", "x", 0.0)
    assert len(state.faults) == MAX_REMEMBERED


def test_a_synchronous_fleet_does_not_wait_for_one_that_is_quarantined() -> None:
    run = Run(min_clients=3, max_rounds=None)
    run.join("a", "b", "c")
    for _ in range(MAX_FAULTS):
        fault(run, 3)
        run.answer(1, 2)
        run.after(10.0)
    assert "c" not in ready_names(run.state)
    version = run.state.version
    run.answer(1, 2)
    assert run.state.version == version + 1
