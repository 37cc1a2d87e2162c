"""A simulated federation: a fake clock, clients, a network that loses and repeats messages, a disk."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from common.settings import FederationSettings
from server.coordination.actions import (
    AbandonRound,
    Action,
    Aggregate,
    CreateFirstVersion,
    DropUpdate,
    EvaluationDone,
    Publish,
    RequestDescription,
    SendTasks,
    Stop,
)
from server.coordination.coordinator import MAX_GONE, step
from server.coordination.events import (
    Aggregated,
    AggregationFailed,
    Described,
    DescriptionFailed,
    Event,
    NodesConnected,
    ReplyAdmitted,
    TaskFailed,
    Tick,
)
from server.coordination.state import State, progress_of, resumed
from server.coordination.waiting import waiting_for
from tests.server.descriptions import description

FEATURES = ("cpu", "memory")


@dataclass(frozen=True)
class Request:
    """A description request (kind "") or a task on its way to a client."""

    run: int
    number: int
    kind: str


@dataclass
class Client:
    """One client: it handles its messages one by one, in the order in which they were sent."""

    name: str
    instance: str
    features: tuple[str, ...]
    inbox: deque[Request] = field(default_factory=deque)
    outbox: deque[tuple[int, Event]] = field(default_factory=deque)
    """Replies on their way, each with its run; they arrive in order."""
    alive: bool = True
    listed: bool = True
    """Whether SuperLink lists it: a dead client is listed for a while, a living one may be unreachable."""


class World:
    """Runs the coordinator and checks its invariants at every step."""

    def __init__(self, rules: FederationSettings, features: tuple[str, ...] | None = None) -> None:
        self.rules = rules
        self.state = State(features=features)
        self.now = 0.0
        self.run = 0
        self.clients: dict[int, Client] = {}
        self.next_node = 1
        self.disk: tuple[int, tuple[str, ...], dict[str, object]] | None = None
        self.updates: dict[int, int] = {}
        """By task, the node of each admitted update that is neither aggregated nor dropped yet."""
        self.aggregated: set[tuple[int, int]] = set()
        self.past: list[Event] = []
        self.error = 1.0
        self.aggregation_fails = False
        self.stops = 0

    # Things that happen.

    def join(self, name: str, instance: str = "one", features: tuple[str, ...] = FEATURES) -> None:
        self.clients[self.next_node] = Client(name, instance, features)
        self.next_node += 1
        self.look()

    def die(self, node: int) -> None:
        """Kill a client: its messages are lost, and the server does not know yet."""
        client = self.clients[node]
        client.alive = False
        client.inbox.clear()

    def hide(self, node: int) -> None:
        """Make a client unreachable: the server considers it disconnected, though it may live."""
        self.clients[node].listed = False
        self.look()

    def show(self, node: int) -> None:
        self.clients[node].listed = self.clients[node].alive
        self.look()

    def look(self) -> None:
        self.do(NodesConnected(frozenset(n for n, c in self.clients.items() if c.listed)))
        if self.state.stopped is None:
            # A dead node that is no longer listed never returns; its replies may still arrive.
            self.clients = {n: c for n, c in self.clients.items() if c.listed or c.alive or c.outbox}

    def work(self, node: int, sound: bool = True, drifted: bool = False) -> None:
        """Let a client handle its next message."""
        client = self.clients[node]
        if not client.alive or not client.inbox:
            return
        request = client.inbox.popleft()
        reply: Event
        if request.kind:
            admitted = ReplyAdmitted(node, request.number, drifted)
            reply = admitted if sound else TaskFailed(node, request.number, "NaN")
        else:
            answer = description(client.name, client.instance, client.features)
            reply = Described(node, request.number, answer) if sound else DescriptionFailed(node, "?")
        client.outbox.append((request.run, reply))

    def lose(self, node: int) -> None:
        """Lose a message that counts as delivered on the server."""
        if self.clients[node].inbox:
            self.clients[node].inbox.popleft()

    def deliver(self, node: int) -> None:
        """Deliver the next reply of a node, if its run has not ended."""
        outbox = self.clients[node].outbox
        if outbox:
            run, event = outbox.popleft()
            if run == self.run:
                self.past.append(event)
                self.arrive(event)

    def repeat(self, index: int) -> None:
        """Deliver an earlier reply again."""
        if self.past:
            self.do(self.past[index % len(self.past)])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.do(Tick())

    def restart(self) -> None:
        """Kill the server, and start another from what is on disk."""
        self.run += 1
        self.updates.clear()
        self.past.clear()
        self.state = State(features=self.first_features)
        if self.disk is not None:
            version, features, progress = self.disk
            self.state = resumed(State(), version, features, progress)
        self.stops = 0
        self.look()

    first_features: tuple[str, ...] | None = None

    def arrive(self, event: Event) -> None:
        if isinstance(event, ReplyAdmitted):
            task = self.state.tasks.get(event.node)
            if task is not None and task.number == event.number and task.kind == "train":
                self.updates[event.number] = event.node
        self.do(event)

    # Invariants.

    def do(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(before, event, self.now, self.rules)
        anew = self.state.features != before.features and before.initialised
        assert self.state.version == before.version + (isinstance(event, Aggregated) or anew)
        if before.stopped is not None:
            assert actions == []
            assert self.state == before
        if before.features is not None and before.declared:
            assert self.state.features == before.features
        self.check()
        for action in actions:
            assert self.stops == 0, "nothing follows a stop"
            self.execute(action)
        if not self.state.aggregating:
            assert self.state.stopped or waiting_for(self.state, self.now, self.rules)
            assert set(self.updates) == {update.number for update in self.state.buffer} or self.state.stopped

    def check(self) -> None:
        state = self.state
        ready = [client for client in state.clients.values() if client.status == "ready"]
        assert len({client.name for client in ready}) == len(ready)
        for client in ready:
            assert client.description is not None
            fits = sorted(client.description.schema.features) == sorted(state.features or ())
            assert fits or state.features is None
        if state.round is not None:
            assert not state.round.awaited & state.round.answered
            assert state.round.awaited <= state.clients.keys() & state.tasks.keys()
        # Memory is bounded by the number of connected clients and by constants.
        assert len(state.tasks) <= len(state.clients) + MAX_GONE
        assert len(state.buffer) <= self.rules.buffer + 2 * self.next_node
        assert len({update.number for update in state.buffer}) == len(state.buffer)
        for update in state.buffer:
            assert state.version - update.version <= self.rules.staleness_limit
        if self.rules.in_flight and self.rules.mode == "asynchronous":
            in_flight = [task for task in state.tasks.values() if task.awaited and not task.round_id]
            assert len(in_flight) <= self.rules.in_flight

    def execute(self, action: Action) -> None:
        match action:
            case RequestDescription(node, number):
                self.send(node, Request(self.run, number, ""))
            case SendTasks(kind, orders):
                assert orders
                assert self.disk is not None
                assert self.disk[0] == self.state.version, "a version is sent before it is on disk"
                for order in orders:
                    client = self.clients[order.node]
                    assert not [x for x in client.inbox if x.kind], f"node {order.node} has a task already"
                    assert self.state.tasks[order.node].version == self.state.version
                    self.send(order.node, Request(self.run, order.number, kind))
            case Aggregate(shares):
                assert shares
                for share in shares:
                    assert self.updates.pop(share.number) == share.node
                    assert (self.run, share.number) not in self.aggregated, "aggregated twice"
                    self.aggregated.add((self.run, share.number))
                    assert 0 <= share.staleness <= self.rules.staleness_limit
                    assert 0 < share.discount <= 1
                if self.aggregation_fails:
                    self.do(AggregationFailed("not finite"))
                    return
                self.do(Aggregated(self.error, len(shares)))
            case CreateFirstVersion(version, features, nodes, progress):
                assert version == self.state.version == self.state.first_version
                assert version > self.disk[0] if self.disk is not None else True
                assert nodes
                assert all(self.state.clients[node].description is not None for node in nodes)
                self.disk = (version, features, dict(progress))
            case Publish(version, progress):
                assert self.disk is not None
                assert version == self.state.version == self.disk[0] + 1
                assert progress == progress_of(self.state)
                self.disk = (version, self.disk[1], dict(progress))
            case DropUpdate(number, node, reason):
                assert reason
                assert self.updates.pop(number) == node
            case Stop(reason):
                assert reason
                self.stops += 1
            case EvaluationDone() | AbandonRound():
                pass

    def send(self, node: int, request: Request) -> None:
        client = self.clients.get(node)
        if client is not None and client.alive:
            client.inbox.append(request)

    def end(self) -> None:
        """Let no client answer any more: the run must stop, with a reason."""
        limit = self.now + 4 * self.rules.wait_s + 2 * self.rules.deadline_s + 60
        while self.state.stopped is None:
            assert self.now < limit, waiting_for(self.state, self.now, self.rules)
            self.pass_time(3.0)
        assert self.stops == 1
        assert self.state.stopped

    def finish(self, max_rounds: int = 5000) -> None:
        """Let all living clients work without faults: the run must come to its end."""
        for client in self.clients.values():
            client.listed = client.alive
        self.aggregation_fails = False
        self.look()
        for _ in range(max_rounds):
            if self.state.stopped is not None:
                return
            for node in list(self.clients):
                if node in self.clients:
                    self.work(node)
                    self.deliver(node)
            self.pass_time(0.5)
        raise AssertionError(f"no end: {waiting_for(self.state, self.now, self.rules)}")
