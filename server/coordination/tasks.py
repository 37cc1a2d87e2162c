"""Tasks in flight: who has one, how long it may take, what a late answer is still worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.settings import FederationSettings
from server.coordination.state import (
    Action,
    AskDescription,
    Kind,
    Member,
    Node,
    PendingTask,
    SendTasks,
    State,
    TaskDuration,
    TaskOrder,
)

MIN_DUE_S = 5.0
"""No client is given up sooner, however quick it was so far."""

OVERDUE_ASK_S = 30.0
"""How often a client that is overdue is asked whether it is still at work."""

MAX_GONE = 1000
"""Tasks of vanished nodes that are remembered: clients that crash again and again must not fill memory."""

MAX_PACES = 10_000


def ready(state: State) -> list[Node]:
    """The clients that fit the federation."""
    return sorted(node for node, member in state.members.items() if member.status == "ready")


def idle(state: State, now: float) -> list[Node]:
    """The clients that could be given a task."""
    return [n for n in ready(state) if n not in state.tasks and now >= state.members[n].rest_until]


def at_work(state: State, kind: Kind = "train") -> list[Node]:
    """The clients whose answer to a task of this kind is waited for."""
    return sorted(node for node, work in state.tasks.items() if work.awaited and work.kind == kind)


def name_of(state: State, node: Node) -> str:
    """What a node is called, as far as it has said."""
    member, work = state.members.get(node), state.tasks.get(node)
    return (member.name if member else "") or (work.name if work else "") or str(node)


def put(state: State, node: Node, member: Member) -> State:
    """The state with this member."""
    return replace(state, members={**state.members, node: member})


def give(
    state: State,
    kind: Kind,
    nodes: Sequence[Node],
    now: float,
    settings: FederationSettings,
    wave: int,
    actions: list[Action],
) -> State:
    """Give the newest version to idle clients. `wave` is 0 where each task has a deadline of its own."""
    members, tasks, orders, number = dict(state.members), dict(state.tasks), [], state.numbers
    for node in nodes:
        number += 1
        member = members[node]
        again = member.again + 1 if member.given == state.version else 0
        if kind == "train":
            members[node] = replace(member, given=state.version, again=again, turn=number)
        allowed_s = settings.deadline_s if wave else due_s(state.paces.get(member.name), settings)
        tasks[node] = PendingTask(number, kind, member.name, state.version, now, now + allowed_s, wave)
        orders.append(TaskOrder(node, number, again if kind == "train" else 0))
    actions.append(SendTasks(kind, tuple(orders)))
    return replace(state, members=members, tasks=tasks, numbers=number)


def settled(state: State, node: Node) -> State:
    """The state in which a node has no task."""
    return replace(state, tasks={n: work for n, work in state.tasks.items() if n != node})


def given_up(state: State, node: Node, ask_at: float = 0.0) -> State:
    """The state in which nothing waits for a node's task; an update that still comes can be used."""
    work = state.tasks.get(node)
    if work is None:
        return state
    if node not in state.members and work.kind == "evaluate":
        return settled(state, node)
    return replace(state, tasks={**state.tasks, node: replace(work, awaited=False, ask_at=ask_at)})


def overdue(state: State, now: float, actions: list[Action]) -> State:
    """Give up what is past its time, outside of rounds; ask who is late if it still has its task."""
    for node, work in state.tasks.items():
        if work.awaited and not work.wave and now >= work.due:
            state = given_up(state, node, now)
            late = f"no answer in {now - work.sent:.0f} s"
            state = replace(state, failed={**state.failed, node: f"{work.name}: {late}"})
    for node, work in state.tasks.items():
        member = state.members.get(node)
        late_now = not work.awaited or now >= work.due
        if late_now and member is not None and member.status == "ready" and now >= work.ask_at:
            number, asked = state.numbers + 1, replace(work, ask_at=now + OVERDUE_ASK_S)
            state = replace(state, numbers=number, tasks={**state.tasks, node: asked})
            actions.append(AskDescription(node, number))
    return state


def without_relics(state: State, settings: FederationSettings) -> State:
    """The state without tasks of vanished nodes that could no longer be used, and without ancient paces."""
    oldest = state.version - settings.staleness_limit
    gone = [n for n, w in state.tasks.items() if n not in state.members]
    useless = {n for n in gone if state.tasks[n].version < oldest} | set(gone[:-MAX_GONE])
    if useless:
        state = replace(state, tasks={n: w for n, w in state.tasks.items() if n not in useless})
    if len(state.failed) > MAX_GONE:
        state = replace(state, failed=dict(list(state.failed.items())[-MAX_GONE:]))
    if len(state.paces) > MAX_PACES + len(state.members):
        names = {member.name for member in state.members.values()}
        state = replace(state, paces={n: p for n, p in state.paces.items() if n in names})
    return state


def due_s(pace: TaskDuration | None, settings: FederationSettings) -> float:
    """How long a client's task may take: by its own past times, or `deadline_s` while it has none.

    Source: RFC 6298, the retransmission timer of TCP.
    """
    if pace is None:
        return settings.deadline_s
    return min(max(pace.mean_s + 4 * pace.spread_s, MIN_DUE_S), settings.deadline_s)


def learned(pace: TaskDuration | None, took_s: float) -> TaskDuration:
    """A pace that has seen one more task. Source: RFC 6298, section 2."""
    if pace is None:
        return TaskDuration(took_s, took_s / 2)
    return TaskDuration(
        mean_s=pace.mean_s + (took_s - pace.mean_s) / 8,
        spread_s=pace.spread_s + (abs(took_s - pace.mean_s) - pace.spread_s) / 4,
    )


def discount(staleness: int, settings: FederationSettings) -> float:
    """What share of an update counts that is so many versions behind; 1 if it is of the newest.

    Source: Xie et al. 2019 (FedAsync), section 5.2; Nguyen et al. 2022 (FedBuff) use the square root.

    >>> [round(discount(s, FederationSettings()), 2) for s in (0, 1, 3, 8)]
    [1.0, 0.71, 0.5, 0.33]
    """
    power, free = settings.staleness_power, settings.staleness_free
    match settings.staleness:
        case "constant":
            return 1.0
        case "polynomial":
            return float((1 + staleness) ** -power)
        case "hinge":
            return 1.0 if staleness <= free else 1 / (1 + power * (staleness - free))
