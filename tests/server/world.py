"""A fleet under a fake clock: clients that work in order, a wire that loses, delays and repeats, a disk."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from common.settings import FederationSettings
from server.coordination.coordinator import step
from server.coordination.progress import progress_of, resumed
from server.coordination.state import (
    AbandonRound,
    Action,
    Aggregate,
    Aggregated,
    AggregationFailed,
    AskDescription,
    Described,
    DescribeFailed,
    DropUpdate,
    EvaluationDone,
    Event,
    NodesSeen,
    ReplyAdmitted,
    SendTasks,
    State,
    Stop,
    TaskFailed,
    Tick,
)
from server.coordination.tasks import MAX_GONE
from server.coordination.waiting import waiting_for

FEATURES = ("cpu", "memory")


@dataclass(frozen=True)
class Letter:
    """A question (kind "") or a task on its way to a client."""

    run: int
    number: int
    kind: str


@dataclass
class Client:
    """One node: it does what it was sent in that order, one thing at a time."""

    name: str
    instance: str
    features: tuple[str, ...]
    inbox: deque[Letter] = field(default_factory=deque)
    outbox: deque[tuple[int, Event]] = field(default_factory=deque)
    """Replies on their way, each with the run that it belongs to; they arrive in order."""
    alive: bool = True
    listed: bool = True
    """Whether the server sees it; a dead one is seen for a while, a living one may be out of sight."""


class World:
    """Checks, at every step, all that must hold of the coordinator."""

    def __init__(self, rules: FederationSettings, features: tuple[str, ...] | None = None) -> None:
        self.rules = rules
        self.state = State(features=features)
        self.now = 0.0
        self.run = 0
        self.clients: dict[int, Client] = {}
        self.next_node = 1
        self.disk: tuple[int, tuple[str, ...], dict[str, object]] | None = None
        self.updates: dict[int, int] = {}
        """Of this run: admitted updates neither folded nor dropped yet, with their node."""
        self.folded: set[tuple[int, int]] = set()
        self.past: list[Event] = []
        self.error = 1.0
        self.fold_fails = False
        self.stops = 0

    # What happens.

    def join(self, name: str, instance: str = "one", features: tuple[str, ...] = FEATURES) -> None:
        self.clients[self.next_node] = Client(name, instance, features)
        self.next_node += 1
        self.look()

    def die(self, node: int) -> None:
        """A client is killed: what it had is gone, and the server does not know yet."""
        client = self.clients[node]
        client.alive = False
        client.inbox.clear()

    def hide(self, node: int) -> None:
        """A client is out of sight: dead for the server, though it may live."""
        self.clients[node].listed = False
        self.look()

    def show(self, node: int) -> None:
        self.clients[node].listed = self.clients[node].alive
        self.look()

    def look(self) -> None:
        self.do(NodesSeen(frozenset(n for n, c in self.clients.items() if c.listed)))
        if self.state.stopped is None:
            # A dead node that is off the list never comes back; its replies may still be under way.
            self.clients = {n: c for n, c in self.clients.items() if c.listed or c.alive or c.outbox}

    def work(self, node: int, sound: bool = True, drifted: bool = False) -> None:
        """A client does the next thing."""
        client = self.clients[node]
        if not client.alive or not client.inbox:
            return
        letter = client.inbox.popleft()
        reply: Event
        if letter.kind:
            answer, failure = (
                ReplyAdmitted(node, letter.number, drifted),
                TaskFailed(node, letter.number, "NaN"),
            )
            reply = answer if sound else failure
        else:
            who = (client.name, client.instance, client.features)
            reply = Described(node, letter.number, *who) if sound else DescribeFailed(node, "?")
        client.outbox.append((letter.run, reply))

    def lose(self, node: int) -> None:
        """The server believes that a message was delivered, but it was not."""
        if self.clients[node].inbox:
            self.clients[node].inbox.popleft()

    def deliver(self, node: int) -> None:
        """The next reply of a node arrives, if its run still goes on."""
        outbox = self.clients[node].outbox
        if outbox:
            run, event = outbox.popleft()
            if run == self.run:
                self.past.append(event)
                self.arrive(event)

    def repeat(self, index: int) -> None:
        """Something arrives once more."""
        if self.past:
            self.do(self.past[index % len(self.past)])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.do(Tick())

    def restart(self) -> None:
        """The server dies, and another goes on from what is on disk."""
        self.run += 1
        self.updates.clear()
        self.past.clear()
        self.state = State(features=self.rules_features)
        if self.disk is not None:
            version, features, progress = self.disk
            self.state = resumed(State(), version, features, progress)
        self.stops = 0
        self.look()

    rules_features: tuple[str, ...] | None = None

    def arrive(self, event: Event) -> None:
        if isinstance(event, ReplyAdmitted):
            work = self.state.tasks.get(event.node)
            if work is not None and work.number == event.number and work.kind == "train":
                self.updates[event.number] = event.node
        self.do(event)

    # What must hold.

    def do(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(before, event, self.now, self.rules)
        assert self.state.version == before.version + isinstance(event, Aggregated)
        if before.stopped is not None:
            assert actions == []
            assert self.state == before
        if before.features is not None:
            assert self.state.features == before.features
        self.check()
        for action in actions:
            assert self.stops == 0, "nothing follows a stop"
            self.obey(action)
        if not self.state.folding:
            assert self.state.stopped or waiting_for(self.state, self.now, self.rules)
            assert set(self.updates) == {h.number for h in self.state.buffer} or self.state.stopped

    def check(self) -> None:
        state = self.state
        ready = [m for m in state.members.values() if m.status == "ready"]
        assert len({m.name for m in ready}) == len(ready)
        if state.features is not None:
            assert all(sorted(m.features) == sorted(state.features) for m in ready)
        if state.round is not None:
            assert not state.round.awaited & state.round.answered
            assert state.round.awaited <= state.members.keys() & state.tasks.keys()
        # Memory: what is kept is bounded by the clients that are there, and by constants.
        assert len(state.tasks) <= len(state.members) + MAX_GONE
        assert len(state.buffer) <= self.rules.buffer + 2 * self.next_node
        assert len({held.number for held in state.buffer}) == len(state.buffer)
        for held in state.buffer:
            assert state.version - held.version <= self.rules.staleness_limit
        if self.rules.in_flight and self.rules.mode == "asynchronous":
            streamed = [w for w in state.tasks.values() if w.awaited and not w.wave]
            assert len(streamed) <= self.rules.in_flight

    def obey(self, action: Action) -> None:
        match action:
            case AskDescription(node, number):
                self.post(node, Letter(self.run, number, ""))
            case SendTasks(kind, orders):
                assert orders
                for order in orders:
                    client = self.clients[order.node]
                    assert not [x for x in client.inbox if x.kind], f"node {order.node} holds a task already"
                    assert self.state.tasks[order.node].version == self.state.version
                    self.post(order.node, Letter(self.run, order.number, kind))
            case Aggregate(shares):
                assert shares
                for share in shares:
                    assert self.updates.pop(share.number) == share.node
                    assert (self.run, share.number) not in self.folded, "folded twice"
                    self.folded.add((self.run, share.number))
                    assert 0 <= share.staleness <= self.rules.staleness_limit
                    assert 0 < share.discount <= 1
                if self.fold_fails:
                    self.do(AggregationFailed("not finite"))
                    return
                event = Aggregated(self.error, len(shares))
                after, _ = step(self.state, event, self.now, self.rules)
                features = after.features
                assert features is not None
                assert self.disk is None or after.version == self.disk[0] + 1
                self.disk = (after.version, features, progress_of(after))
                self.do(event)
            case DropUpdate(number, node, reason):
                assert reason
                assert self.updates.pop(number) == node
            case Stop(reason):
                assert reason
                self.stops += 1
            case EvaluationDone() | AbandonRound():
                pass

    def post(self, node: int, letter: Letter) -> None:
        client = self.clients.get(node)
        if client is not None and client.alive:
            client.inbox.append(letter)

    def end(self) -> None:
        """Nobody answers any more: in the end the run stops, and says why."""
        limit = self.now + 4 * self.rules.wait_s + 2 * self.rules.deadline_s + 60
        while self.state.stopped is None:
            assert self.now < limit, waiting_for(self.state, self.now, self.rules)
            self.pass_time(3.0)
        assert self.stops == 1
        assert self.state.stopped

    def finish(self, most: int = 5000) -> None:
        """All clients that live do their work at once: the run comes to its end."""
        for client in self.clients.values():
            client.listed = client.alive
        self.fold_fails = False
        self.look()
        for _ in range(most):
            if self.state.stopped is not None:
                return
            for node in list(self.clients):
                if node in self.clients:
                    self.work(node)
                    self.deliver(node)
            self.pass_time(0.5)
        raise AssertionError(f"no end: {waiting_for(self.state, self.now, self.rules)}")
