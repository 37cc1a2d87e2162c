"""A Flower strategy that runs the coordinator over a Grid; another Flower strategy does the arithmetic.

This is the shell around `server.coordination.coordinator`: replies become events, actions become messages,
and each version is on disk before it is announced.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.compression.codec import size_of
from common.model.manifest import Manifest
from common.protocol.changes import VersionStep
from common.protocol.messages import Description, TaskOptions
from common.settings import Settings
from server.access.roster import Roster
from server.coordination import coordinator
from server.coordination.progress import progress_of, resumed
from server.coordination.state import (
    AbandonRound,
    Aggregate,
    Aggregated,
    AggregationFailed,
    AskDescription,
    Described,
    DescribeFailed,
    DropUpdate,
    EvaluationDone,
    Event,
    Kind,
    Node,
    NodesSeen,
    ReplyAdmitted,
    SendTasks,
    State,
    Stop,
    TaskFailed,
    TaskOrder,
    Tick,
)
from server.coordination.tasks import name_of
from server.federation import aggregation, view
from server.federation.admission import AdmissionError, admit
from server.federation.aggregation import EmptyAggregationError
from server.federation.client_records import ClientRecords
from server.federation.exchange import MessageExchange, Reply
from server.federation.first_version import first_version
from server.federation.journal import Journal
from server.federation.ledger import Ledger, LedgerEntry, weighted_error
from server.federation.task_options import AppliedUpdates, down, task_options
from server.federation.version_chain import VersionChain
from server.storage.history import History
from server.storage.registry import Registry

log = logging.getLogger(__name__)

NODES_EVERY_S = 0.5
"""How often the list of connected nodes is read."""

MIN_POLL_S, MAX_POLL_S = 0.02, 0.25
POLL_SHARE = 0.05
"""The wait before the next poll for replies, as a share of the time since the last one."""

USUAL_WEIGHT = 0.1
"""Of the newest time between two replies in the running mean."""


class FlockStrategy(Strategy):
    """A federation, synchronous or not: liveness, a gate, a stop rule, a version on disk after each fold.

    Args:
        inner: Any Flower strategy; its `aggregate_train` makes one set of arrays of many.
        settings: The federation's rules, model and training.
        registry: Where versions are kept; the run goes on from the newest one found there.
        history: Where rounds are recorded.
        clock: Seconds that never go back.
        shown: File that tells `/status` of the run; None: it is not written.
        roster: The registered clients, each of which has its name by its key; None: a name is believed.
    """

    def __init__(
        self,
        inner: Strategy,
        settings: Settings,
        registry: Registry,
        history: History,
        clock: Callable[[], float] = time.monotonic,
        shown: Path | None = None,
        roster: Roster | None = None,
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._roster = roster
        self._fleet = ClientRecords(view.saved_clients(shown) if shown else None)
        self._state = State(features=settings.data.features)
        self._manifest: Manifest | None = None
        self._descriptions: dict[Node, Description] = {}
        self._ledger = Ledger(self._fleet, settings.gate)
        self._chain, self._fates = VersionChain(), AppliedUpdates()
        self._journal = Journal(history, self._fleet, settings.federation, clock, shown)
        self._outgoing: dict[tuple[int, Kind], tuple[Manifest, list[TaskOrder]]] = {}
        self._resume()

    @property
    def reason(self) -> str:
        """Why the run ended; empty while it goes on."""
        return self._state.stopped or ""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the inner strategy does it."""
        return self._inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As the inner strategy does it."""
        return self._inner.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the inner strategy does it."""
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the inner strategy does it."""
        return self._inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the rules of the federation."""
        log.info("strategy inner=%s %s", type(self._inner).__name__, self._settings.federation)

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run until the stop rule, or until waiting is given up.

        Weights, rounds and time limits come from the settings, so Flower's other arguments are not used.
        """
        self.summary()
        exchange = MessageExchange(grid, self._chain, self._roster)
        nodes_at = progress_at = self._clock()
        usual_s = MIN_POLL_S
        while self._state.stopped is None:
            now = self._clock()
            if now >= nodes_at:
                self._handle([NodesSeen(exchange.nodes(now))], exchange)
                self._forget(exchange)
                nodes_at = now + NODES_EVERY_S
            replies = exchange.replies()
            self._journal.sent(exchange.taken_bytes_down())
            self._handle([event for reply in replies for event in self._events_of(reply)], exchange)
            if replies:
                usual_s += USUAL_WEIGHT * ((now - progress_at) / len(replies) - usual_s)
                progress_at = now
            self._handle([Tick()], exchange)
            self._journal.meanwhile(self._state, self._connected())
            since_progress_s = self._clock() - progress_at
            # Where replies come in a stream, half of the usual time between two: each poll costs SuperLink as
            # much as a client's, and it is the fleet that it should have time for.
            stream_s = usual_s / 2 if self._settings.federation.mode == "asynchronous" else 0.0
            time.sleep(min(max(POLL_SHARE * since_progress_s, stream_s, MIN_POLL_S), MAX_POLL_S))
        self._journal.show(self._state, self._connected())
        result = Result()
        if self._manifest is not None:
            result.arrays = aggregation.as_arrays(self._manifest.weights)
        return result

    def _resume(self) -> None:
        found = self._registry.latest()
        if found is None:
            return
        self._manifest, progress = found
        newest = self._manifest
        self._state = resumed(self._state, newest.version, newest.schema.features, progress)
        memory = self._registry.memory(newest.version)
        aggregation.restore_memory(self._inner, memory)
        self._chain = VersionChain(self._registry.steps(), memory)
        self._fates = AppliedUpdates(progress.get("serials"))
        log.info("resuming version=%d hash=%s", self._manifest.version, self._manifest.hash[:12])

    def _events_of(self, reply: Reply) -> list[Event]:
        """What a reply means to the coordinator; keeps what the reply carries."""
        sent, answer = reply.sent, reply.answer
        if isinstance(answer, Description):
            self._descriptions[sent.node] = answer
            return [
                Described(
                    sent.node,
                    sent.number,
                    answer.client,
                    answer.instance,
                    answer.schema.features,
                    answer.drifted,
                    reply.owner,
                )
            ]
        if sent.kind is None:
            self._journal.silent(sent.node, reply.problem, self._state.members)
            return [DescribeFailed(sent.node, reply.problem)]
        name, problem, fault = name_of(self._state, sent.node), reply.problem, reply.fault
        if answer is not None:
            assert self._manifest is not None  # noqa: S101  tasks were sent with it
            try:
                self._check_name(sent.node, answer.client)
                with self._journal.decoding():
                    answer = admit(answer, sent.version, self._manifest)
                self._ledger.enter(sent, answer, reply)
                return [ReplyAdmitted(sent.node, sent.number, answer.drifted)]
            except AdmissionError as error:
                problem, fault = f"not admitted: {error}", error.kind
        self._journal.not_used(name, sent.number, fault, problem)
        return [] if fault == "twice" else [TaskFailed(sent.node, sent.number, problem)]

    def _check_name(self, node: Node, client: str) -> None:
        """An answer counts for the client that was asked.

        Raises:
            NotAdmitted: it says that it is another's.
        """
        member = self._state.members.get(node)
        if member is not None and member.name and member.name != client:
            raise AdmissionError("name", f"it says that it is of '{client}'")

    def _handle(self, happened: Iterable[Event], exchange: MessageExchange) -> None:
        """Step the coordinator, and do what it says until nothing more follows.

        Messages go out at the end, together: a request each would cost a busy SuperLink more than the work.
        """
        events, questions = deque(happened), []
        while events:
            self._state, actions = coordinator.step(
                self._state, events.popleft(), self._clock(), self._settings.federation
            )
            for action in actions:
                match action:
                    case AskDescription(node, _, refused):
                        questions.append(action)
                        if refused:
                            self._journal.refused(self._name(node), refused)
                    case SendTasks():
                        self._send(action)
                    case Aggregate():
                        events.appendleft(self._fold(action))
                    case DropUpdate(number, node, reason):
                        self._drop(number, node, reason)
                    case EvaluationDone():
                        version = self._state.version
                        self._journal.closed("evaluate", version + 1, version, self._ledger.measured(), {})
                    case AbandonRound(number, failed):
                        self._journal.abandoned(number, self._state.version, self._named(failed))
                    case Stop(reason):
                        self._journal.stopped(self._state.version, reason)
        self._ledger.keep_only({held.number for held in self._state.buffer})
        exchange.ask(questions)
        for (_, kind), (manifest, orders) in self._outgoing.items():
            order = SendTasks(kind, tuple(orders))
            exchange.send(order, manifest, self._settings.federation.wait_s, self._terms)
            self._journal.sent(exchange.taken_bytes_down())
            log.info("sent kind=%s version=%d clients=%d", kind, manifest.version, len(orders))
        self._outgoing.clear()

    def _send(self, order: SendTasks) -> None:
        self._manifest = self._manifest or self._first_version()
        self._ledger.forget_measured()
        if self._state.round is not None:
            self._journal.opened()
        key = (self._manifest.version, order.kind)
        self._outgoing.setdefault(key, (self._manifest, []))[1].extend(order.orders)

    def _terms(self, node: Node) -> TaskOptions:
        """What a client is told with its task of how its messages travel."""
        description, manifest = self._descriptions.get(node), self._manifest
        if description is None or manifest is None:
            return TaskOptions()
        client = description.client
        return task_options(
            self._settings.compression, description, size_of(manifest.architecture.shapes),
            self._fleet.speeds([client]).get(client), self._fates.of(client), self._ledger.waiting(client),
            manifest.version, self._fleet.scored(client),
        )  # fmt: skip

    def _first_version(self) -> Manifest:
        """Version 0, on disk."""
        assert self._state.features is not None  # noqa: S101  the coordinator sends no task without
        ready = [node for node, m in self._state.members.items() if m.status == "ready"]
        described = [self._descriptions[node] for node in ready]
        manifest = first_version(self._state.features, described, self._settings)
        self._publish(manifest, self._state, None)
        return manifest

    def _fold(self, action: Aggregate) -> Aggregated | AggregationFailed:
        """Make the next version of the updates, write it, and then let it be known."""
        current, number = self._manifest, self._state.version + 1
        assert current is not None  # noqa: S101  it was sent
        entries, refused = self._ledger.taken(action.shares)
        for entry, reason in refused:
            self._journal.not_used(entry.answer.client, entry.number, "norm", reason)
        failed = self._named({**action.failed, **{entry.node: reason for entry, reason in refused}})
        try:
            if not entries:
                raise EmptyAggregationError("no update was left by the gate")
            weights = aggregation.aggregate(self._inner, number, current.weights, [e.part for e in entries])
        except EmptyAggregationError as error:
            self._journal.not_folded(number, current.version, str(error), failed)
            return AggregationFailed(str(error))
        self._fleet.folded((e.update, e.staleness, e.clipped) for e in entries)
        # Stepping first gives the progress that belongs to the new version; the event is handled after.
        event = self._folded(entries)
        after, _ = coordinator.step(self._state, event, self._clock(), self._settings.federation)
        heard = self._connected() | {e.answer.client for e in entries}
        scores = self._fleet.scores(heard, current.scores)
        residuals = self._fleet.residuals(heard, current.residuals)
        with self._journal.encoding():
            codec = down(
                self._settings.compression, size_of(current.architecture.shapes),
                self._fleet.speeds(self._connected()).values(),
            )  # fmt: skip
            weights, block = self._chain.encoded(current, weights, codec)
        self._manifest = replace(current, version=number, weights=weights, scores=scores, residuals=residuals)
        for entry in entries:
            self._fates.folded(entry.answer.client, entry.update.serial)
        self._publish(self._manifest, after, self._chain.extend(current, self._manifest, block))
        self._journal.closed("train", number, number, entries, failed, event.error)
        return event

    def _folded(self, entries: list[LedgerEntry]) -> Aggregated:
        drifted = any(e.answer.drifted for e in entries)
        error = weighted_error([e for e in entries if not e.staleness] or entries)
        if self._settings.federation.mode == "asynchronous":
            # A few clients' updates say little of the fleet's error: count what each said last.
            error = self._fleet.error(self._connected()) or error
        return Aggregated(error, len(entries), drifted)

    def _publish(self, manifest: Manifest, state: State, step: VersionStep | None) -> None:
        progress = progress_of(state) | {"serials": self._fates.saved()}
        memory = aggregation.strategy_memory(self._inner) | self._chain.memory()
        self._registry.write(manifest, progress, memory, step.pack() if step is not None else None)
        self._chain.keep_from(manifest.version - self._settings.server.keep_versions)

    def _drop(self, number: int, node: Node, reason: str) -> None:
        name = name_of(self._state, node)
        if (entry := self._ledger.drop(number)) is not None:
            name = entry.answer.client
        self._journal.dropped(name, number, reason, admitted=entry is not None)

    def _forget(self, exchange: MessageExchange) -> None:
        exchange.forget_all_but({work.number for work in self._state.tasks.values()})
        kept = self._state.members
        self._descriptions = {n: d for n, d in self._descriptions.items() if n in kept}

    def _connected(self) -> set[str]:
        return {m.name for m in self._state.members.values() if m.status == "ready"}

    def _named(self, failed: Mapping[Node, str]) -> dict[str, str]:
        return {self._name(node): reason for node, reason in failed.items()}

    def _name(self, node: Node) -> str:
        description = self._descriptions.get(node)
        return description.client if description else name_of(self._state, node)
