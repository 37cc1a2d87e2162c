"""A Flower strategy that runs the coordinator over a Grid.

It is the shell around `server.coordination.coordinator`: replies become events, actions become messages and
versions. Another Flower strategy does the arithmetic.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.model.manifest import Manifest
from common.settings import Settings
from server.access.audit import AuditLog
from server.access.roster import Roster, RosterError
from server.coordination import coordinator
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
from server.coordination.events import Described, Event, NodesConnected, ReplyAdmitted, Tick
from server.coordination.state import Kind, NodeId, State, client_name, ready_names, resumed
from server.federation import status_file
from server.federation.admission import ReplyIntake
from server.federation.client_records import ClientRecords
from server.federation.compression import TaskBuilder
from server.federation.exchange import MessageExchange
from server.federation.first_version import max_features
from server.federation.journal import Journal
from server.federation.publisher import VersionPublisher
from server.federation.replies import AdmittedReplies, OutgoingTask, SentMessage, error_text
from server.flower.grid import PollTimer
from server.storage.history import History
from server.storage.registry import Registry
from server.versions.aggregation import Aggregator, as_arrays

log = logging.getLogger(__name__)

NODES_INTERVAL_S = 0.5
"""Time between two reads of the list of connected nodes."""


class FlockStrategy(Strategy):
    """A federation, synchronous or asynchronous, that continues from the newest version on disk.

    Args:
        inner: Any Flower strategy; its `aggregate_train` makes one set of arrays of many.
        settings: The federation's rules, model and training.
        registry: Where versions are kept.
        history: Where rounds are recorded.
        clock: Returns seconds that never go back.
        status: The status file, from which clients' records of an earlier run are read; None: there is none.
        roster: The registered clients, whose keys decide their names; None: names are not checked.

    Raises:
        ConfigError: the model of the declared features is larger than `federation.max_model_mb`.
    """

    def __init__(
        self,
        inner: Strategy,
        settings: Settings,
        registry: Registry,
        history: History,
        clock: Callable[[], float] = time.monotonic,
        status: Path | None = None,
        roster: Roster | None = None,
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._clock = clock
        self._roster = roster
        self._records = ClientRecords(status_file.read_client_records(status) if status else None)
        self._journal = Journal(
            history, settings.federation, clock, status, AuditLog(status.parent) if status else None
        )
        self._replies = AdmittedReplies()
        self._intake = ReplyIntake(self._replies, self._records, self._journal)
        self._publisher = VersionPublisher(
            Aggregator(inner), settings, registry, self._replies, self._records, self._journal
        )
        self._unseen: frozenset[str] = frozenset()
        """Registered clients that have never taken part."""
        declared = settings.data.features
        self._state = State(
            features=declared, declared=declared is not None, max_features=max_features(settings)
        )
        progress = self._publisher.resume()
        newest = self._publisher.newest
        if newest is not None and progress is not None:
            self._state = self._resumed(newest, progress)
        self._tasks = TaskBuilder(settings.compression, self._records, self._replies, self._publisher.applied)

    def _resumed(self, newest: Manifest, progress: Mapping[str, Any]) -> State:
        """Return the state that continues from a version; without its progress if that is damaged."""
        try:
            return resumed(self._state, newest.version, newest.schema.features, progress)
        except ValueError as error:
            self._journal.damage_found(f"the progress of version {newest.version}: {error}")
            return resumed(self._state, newest.version, newest.schema.features, {})

    @property
    def reason(self) -> str:
        """The reason why the run ended; empty while it continues."""
        return self._state.stopped or ""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Call the inner strategy."""
        return self._inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Call the inner strategy."""
        return self._inner.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Call the inner strategy."""
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Call the inner strategy."""
        return self._inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the rules of the federation."""
        log.info("strategy name=%s settings: %s", type(self._inner).__name__, self._settings.federation)

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run until the coordinator stops.

        Weights, rounds and time limits come from the settings, so Flower's other arguments are not used.
        """
        self.summary()
        window = self._settings.model.window
        exchange = MessageExchange(grid, self._publisher.chain, self._roster, window)
        nodes_at = self._clock()
        polls = PollTimer(nodes_at, self._settings.federation.mode == "asynchronous")
        while self._state.stopped is None:
            now = self._clock()
            if now >= nodes_at:
                self._handle([NodesConnected(exchange.connected_nodes(now))], exchange)
                exchange.keep_only({task.number for task in self._state.tasks.values()})
                self._note_presence()
                nodes_at = now + NODES_INTERVAL_S
            replies = exchange.receive()
            self._journal.tasks_sent(exchange.take_bytes_down())
            polls.received(len(replies), now)
            newest = self._publisher.newest
            events = [self._intake.event(reply, self._state, newest) for reply in replies]
            self._handle([event for event in events if event is not None], exchange)
            self._handle([Tick()], exchange)
            self._publisher.delete_old_versions()  # after the tasks are sent: nobody waits for it
            self._journal.waiting(self._state, self._unseen)
            if self._journal.status_due():
                self._publisher.write_again()
                self._write_status()
            time.sleep(polls.wait_s(self._clock()))
        self._write_status()
        result = Result()
        if self._publisher.newest is not None:
            result.arrays = as_arrays(self._publisher.newest.weights)
        return result

    def _handle(self, events: Iterable[Event], exchange: MessageExchange) -> None:
        """Step the coordinator through the events, take its actions, and send the messages that result.

        Messages go out together at the end: a request for each would cost a busy SuperLink more than the
        work itself.
        """
        queue, outbox = deque(events), _Outbox()
        while queue:
            for action in self._step(queue.popleft()):
                if (event := self._take(action, outbox)) is not None:
                    queue.appendleft(event)
        self._replies.keep_only({update.number for update in self._state.buffer})
        self._send(outbox, exchange)
        if outbox.failed:
            self._handle(outbox.failed, exchange)

    def _step(self, event: Event) -> list[Action]:
        """Step the coordinator through an event; an error in this counts as the client's fault."""
        try:
            self._state, actions = coordinator.step(
                self._state, event, self._clock(), self._settings.federation
            )
        except Exception as error:
            if not isinstance(event, Described | ReplyAdmitted):
                raise
            log.exception("event not handled node=%d", event.node)
            kind: Kind | None = None if isinstance(event, Described) else "train"
            sent = SentMessage(event.node, event.number, kind)
            return self._step(self._intake.rejected(sent, error_text(error), "error", self._state))
        return actions

    def _take(self, action: Action, outbox: _Outbox) -> Event | None:
        """Take an action; return the event that it must be answered with."""
        match action:
            case RequestDescription(node, _, refused):
                outbox.requests.append(action)
                if refused:
                    self._journal.client_refused(client_name(self._state, node), refused)
            case CreateFirstVersion(clients=nodes):
                descriptions = [self._state.clients[node].description for node in nodes]
                self._publisher.create_first(action, [d for d in descriptions if d is not None])
            case SendTasks():
                self._prepare(action, outbox)
            case Aggregate():
                ready = [c for c in self._state.clients.values() if c.status == "ready"]
                known = [c.description for c in ready if c.description is not None]
                return self._publisher.aggregate(action, ready_names(self._state), known)
            case Publish():
                self._publisher.publish(action)
            case DropUpdate(number, node, reason):
                self._drop(number, node, reason)
            case EvaluationDone():
                version, replies = self._state.version, self._replies.evaluations()
                self._journal.round_closed("evaluate", version + 1, version, replies, {})
            case AbandonRound(number, failures):
                reasons = {failure.client: failure.reason for failure in failures}
                self._journal.round_abandoned(number, self._state.version, reasons)
            case Stop(reason):
                self._journal.run_stopped(self._state.version, reason)
        return None

    def _prepare(self, action: SendTasks, outbox: _Outbox) -> None:
        manifest = self._publisher.newest
        assert manifest is not None  # noqa: S101  version 0 is created before the first task
        self._replies.clear_evaluations()
        if self._state.round is not None:
            self._journal.round_opened()
        for order in action.orders:
            description = self._state.clients[order.node].description
            assert description is not None  # noqa: S101  only clients that are ready get tasks
            try:
                task = self._tasks.task(manifest, order.repeats, description)
            except Exception as error:  # the task follows from the client's description
                log.exception("task not made node=%d", order.node)
                sent = SentMessage(order.node, order.number, action.kind)
                outbox.failed.append(self._intake.rejected(sent, error_text(error), "error", self._state))
            else:
                outbox.tasks.append(OutgoingTask(order.node, order.number, action.kind, task, description))

    def _send(self, outbox: _Outbox, exchange: MessageExchange) -> None:
        if outbox.requests:
            clients = self._state.clients.items()
            inline = {node for node, c in clients if c.description is not None and c.description.inline}
            exchange.request_descriptions(outbox.requests, inline, self._publisher.newest)
        tasks = outbox.tasks
        if tasks:
            exchange.send_tasks(tasks, self._settings.federation.wait_s)
            self._journal.tasks_sent(exchange.take_bytes_down())
        counts = Counter((task.kind, task.task.manifest.version) for task in tasks)
        for (kind, version), count in counts.items():
            log.info("sent kind=%s version=%d clients=%d", kind, version, count)

    def _drop(self, number: int, node: NodeId, reason: str) -> None:
        reply, client = self._replies.drop(number), client_name(self._state, node)
        if reply is not None:
            client = reply.client
            self._records.count_dropped(client)
        self._journal.update_dropped(client, number, reason)

    def _note_presence(self) -> None:
        """Record which clients take part, and find the registered ones that never have."""
        clients = self._state.clients.values()
        self._records.note_seen(c.name for c in clients if c.status in ("learning", "ready"))
        try:
            enrolled = self._roster.clients() if self._roster is not None else frozenset()
        except RosterError as error:
            log.warning("roster not read reason=%s", error)
        else:
            self._unseen = enrolled - set(self._records)

    def _write_status(self) -> None:
        self._records.update_distances(ready_names(self._state))
        self._journal.write_status(self._state, self._records, self._unseen)


@dataclass(frozen=True)
class _Outbox:
    """Messages to send after the events at hand are handled."""

    requests: list[RequestDescription] = field(default_factory=list)
    tasks: list[OutgoingTask] = field(default_factory=list)
    failed: list[Event] = field(default_factory=list)
    """Events of clients whose task cannot be made."""
