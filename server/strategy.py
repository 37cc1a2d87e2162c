"""A Flower strategy that runs the coordinator over a Grid; another Flower strategy does the arithmetic.

This is the shell around `server.coordinator`: it turns messages into events and actions into messages,
keeps what they carry, and writes each version before anybody hears of it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.architecture import Architecture
from common.config import Settings
from common.flwr_private import pull, push_inline
from common.manifest import Manifest
from common.messages import (
    CONTENT,
    RECORD,
    Describe,
    Description,
    Evaluation,
    ProtocolError,
    Task,
    Update,
)
from common.moments import Moments
from common.schema import Schema
from common.weights import Weights, add
from server import coordinator
from server.admission import NotAdmitted, admit
from server.coordinator import Abandon, Ask, Fold, Measured, NodesSeen, Send, State, Stop, Tick
from server.history import History, ReplyRow, RoundRow
from server.registry import Registry

log = logging.getLogger(__name__)

NODES_EVERY_S = 0.5
"""How often the list of connected nodes is read."""

FASTEST_POLL_S, SLOWEST_POLL_S = 0.02, 0.25
POLL_SHARE = 0.05
"""The wait before the next poll for replies, as a share of the time since the last one."""

ASK_TTL_S = 30.0
TELL_WAIT_EVERY_S = 5.0
"""How often the log says what the run waits for."""

TRAINED_UNDER = {"model", "training", "scaling", "threshold"}
"""The sections of the settings that travel with a version."""


@dataclass(frozen=True)
class _Sent:
    """A message that has no reply yet."""

    node: int
    number: int
    manifest: Manifest | None
    """The version that it asked about; None for a question who the client is."""


@dataclass(frozen=True)
class _Received:
    answer: Update | Evaluation
    message: Message
    bytes_up: int


class FlockStrategy(Strategy):
    """Rounds with a deadline and a quorum, a gate, a stop rule, and a version on disk after each.

    Args:
        inner: Any Flower strategy; its `aggregate_train` makes one set of arrays of many.
        settings: The federation's rules, model and training.
        registry: Where versions are kept; the run goes on from the newest one found there.
        history: Where rounds are recorded.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        inner: Strategy,
        settings: Settings,
        registry: Registry,
        history: History,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._registry = registry
        self._history = history
        self._clock = clock
        self._state = State(features=settings.data.features)
        self._manifest: Manifest | None = None
        self._sent: dict[str, _Sent] = {}
        self._descriptions: dict[int, Description] = {}
        self._received: dict[int, _Received] = {}
        self._opened = 0.0
        self._bytes_down = 0
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
        nodes_at = told_at = progress_at = self._clock()
        while self._state.stopped is None:
            now = self._clock()
            if now >= nodes_at:
                self._handle(NodesSeen(frozenset(grid.get_node_ids())), grid)
                nodes_at = now + NODES_EVERY_S
            for message in self._pull(grid):
                self._receive(message, grid)
                progress_at = now
            self._handle(Tick(), grid)
            if now >= told_at + TELL_WAIT_EVERY_S:
                self._tell_wait(now)
                told_at = now
            since_progress_s = self._clock() - progress_at
            time.sleep(min(max(POLL_SHARE * since_progress_s, FASTEST_POLL_S), SLOWEST_POLL_S))
        result = Result()
        if self._manifest is not None:
            result.arrays = _arrays(self._manifest.weights)
        return result

    def _resume(self) -> None:
        found = self._registry.latest()
        if found is None:
            return
        self._manifest, progress = found
        self._state = replace(
            self._state,
            version=self._manifest.version,
            features=self._manifest.schema.features,
            best_error=progress["best_error"],
            rounds_without_improvement=progress["rounds_without_improvement"],
        )
        log.info("resuming version=%d hash=%s", self._manifest.version, self._manifest.hash[:12])

    def _handle(self, event: coordinator.Event, grid: Grid) -> None:
        """Step the coordinator, and do what it says until nothing more follows."""
        events = deque([event])
        while events:
            self._state, actions = coordinator.step(
                self._state, events.popleft(), self._clock(), self._settings.federation
            )
            for action in actions:
                match action:
                    case Ask():
                        self._ask(action, grid)
                    case Send():
                        self._send(action, grid)
                    case Fold():
                        events.append(self._fold(action))
                    case Measured(nodes):
                        self._measured(nodes)
                    case Abandon(number, failed):
                        log.warning("round failed round=%d reasons=%s", number, dict(failed))
                        self._record("train", number, [], failed)
                    case Stop(reason):
                        log.info("stopped version=%d reason=%s", self._state.version, reason)
                        self._history.note("stopped", reason)

    def _tell_wait(self, now: float) -> None:
        waiting = coordinator.waiting_for(self._state, now, self._settings.federation)
        if waiting:
            log.info("waiting %s", waiting)
            self._history.note("waiting", waiting)

    # Messages out.

    def _ask(self, action: Ask, grid: Grid) -> None:
        if action.refused:
            log.warning("client refused node=%d reason=%s", action.node, action.refused)
            self._history.note("refused", action.refused)
        content = _content(Describe(action.refused))
        message = Message(content, action.node, MessageType.QUERY, ttl=ASK_TTL_S)
        self._remember(grid.push_messages([message]), [_Sent(action.node, 0, None)])

    def _send(self, action: Send, grid: Grid) -> None:
        manifest = self._manifest = self._manifest or self._first_version()
        content = _content(Task(manifest))
        settings = self._settings.federation
        kind = MessageType.TRAIN if action.kind == "train" else MessageType.EVALUATE
        self._opened = self._clock()
        self._received.clear()
        self._bytes_down = len(action.nodes) * len(_packed(content))
        inline = [node for node in action.nodes if self._descriptions[node].inline]
        by_objects = [node for node in action.nodes if node not in inline]
        for nodes, push in ((inline, partial(push_inline, grid)), (by_objects, grid.push_messages)):
            messages = [
                Message(content, node, kind, ttl=settings.wait_s, group_id=str(action.number))
                for node in nodes
            ]
            self._remember(push(messages), [_Sent(node, action.number, manifest) for node in nodes])
        log.info(
            "round opened round=%d kind=%s version=%d clients=%d",
            action.number, action.kind, manifest.version, len(action.nodes),
        )  # fmt: skip

    def _remember(self, message_ids: Iterable[str], sent: list[_Sent]) -> None:
        for message_id, record in zip(message_ids, sent, strict=True):
            if message_id:
                self._sent[message_id] = record

    def _first_version(self) -> Manifest:
        """Version 0: drawn weights, and the moments of every client that is ready."""
        assert self._state.features is not None  # noqa: S101  the coordinator opens no round without
        schema = Schema(self._state.features)
        settings = self._settings
        ready = [node for node, m in self._state.members.items() if m.status == "ready"]
        moments = Moments.merge_all(
            d.moments.select(schema.align(d.schema.features))
            for d in sorted((self._descriptions[node] for node in ready), key=lambda d: d.client)
        )
        architecture = Architecture.of(settings.model, len(schema))
        manifest = Manifest(
            version=0,
            schema=schema,
            architecture=architecture,
            weights=architecture.first_weights(settings.training.seed),
            moments=moments,
            settings=settings.model_dump(mode="json", include=TRAINED_UNDER),
        )
        self._publish(manifest)
        return manifest

    # Messages in.

    def _pull(self, grid: Grid) -> list[Message]:
        return pull(grid, list(self._sent)) if self._sent else []

    def _receive(self, message: Message, grid: Grid) -> None:
        sent = self._sent.pop(message.metadata.reply_to_message_id, None)
        if sent is None:
            return
        try:
            event = self._event_of(message, sent)
        except (ProtocolError, NotAdmitted) as error:
            event = coordinator.Failed(sent.node, f"{type(error).__name__}: {error}")
        if isinstance(event, coordinator.Failed):
            name = self._name(sent.node)
            log.warning("reply not used client=%s round=%d reason=%s", name, sent.number, event.reason)
        self._handle(event, grid)

    def _event_of(self, message: Message, sent: _Sent) -> coordinator.Event:
        """What a reply means; keeps what it carries."""
        if message.has_error():
            return coordinator.Failed(sent.node, message.error.reason or "error without a reason")
        content = _packed(message.content)
        if sent.manifest is None:
            description = Description.unpack(content)
            self._descriptions[sent.node] = description
            return coordinator.Described(
                sent.node, description.client, description.instance, description.schema.features
            )
        training = message.metadata.message_type == MessageType.TRAIN
        answer = Update.unpack(content) if training else Evaluation.unpack(content)
        admit(answer, sent.manifest)
        if self._state.round is not None and sent.number == self._state.round.number:
            self._received[sent.node] = _Received(answer, message, len(content))
        else:
            log.info("late reply client=%s round=%d", answer.client, sent.number)
        return coordinator.Answered(sent.node, sent.number)

    # Versions.

    def _fold(self, action: Fold) -> coordinator.Folded:
        """Make the next version of the updates, write it, and then let it be known."""
        current = self._manifest
        assert current is not None  # noqa: S101  it was sent
        used = sorted((self._received[node] for node in action.nodes), key=lambda r: r.answer.client)
        arrays, _ = self._inner.aggregate_train(action.number, [_as_flower_reply(r, current) for r in used])
        if arrays is None:
            raise RuntimeError(f"{type(self._inner).__name__} made nothing of {len(used)} updates")
        weights: Weights = {name: array.numpy() for name, array in arrays.items()}
        error = _weighted_error(used)
        # Stepping first gives the progress that belongs to the new version; the event is handled after.
        event = coordinator.Folded(error)
        after, _ = coordinator.step(self._state, event, self._clock(), self._settings.federation)
        self._manifest = replace(current, version=current.version + 1, weights=weights)
        self._publish(self._manifest, after)
        self._record("train", action.number, used, action.failed)
        log.info(
            "round folded round=%d version=%d error=%.6g answered=%d failed=%d wall_s=%.3f",
            action.number, self._manifest.version, error, len(used), len(action.failed),
            self._clock() - self._opened,
        )  # fmt: skip
        return event

    def _measured(self, nodes: tuple[int, ...]) -> None:
        used = [self._received[node] for node in nodes]
        self._record("evaluate", self._state.version + 1, used, {})
        log.info("measured version=%d error=%.6g", self._state.version, _weighted_error(used))

    def _publish(self, manifest: Manifest, state: State | None = None) -> None:
        state = state or self._state
        progress = {
            "best_error": state.best_error,
            "rounds_without_improvement": state.rounds_without_improvement,
        }
        self._registry.write(manifest, progress)

    def _record(self, kind: str, number: int, used: list[_Received], failed: Any) -> None:
        assert self._manifest is not None  # noqa: S101
        replies = [
            ReplyRow(
                client=r.answer.client,
                version=r.answer.version,
                rows=r.answer.rows,
                error=r.answer.error,
                bytes_up=r.bytes_up,
                loss=r.answer.loss if isinstance(r.answer, Update) else None,
                train_s=r.answer.train_s if isinstance(r.answer, Update) else None,
            )
            for r in used
        ]
        row = RoundRow(
            number=number,
            kind=kind,
            version=self._manifest.version,
            wall_s=self._clock() - self._opened,
            sampled=len(used) + len(failed),
            error=_weighted_error(used) if used else None,
            bytes_up=sum(r.bytes_up for r in used),
            bytes_down=self._bytes_down,
            failed={self._name(node): reason for node, reason in failed.items()},
        )
        self._history.add_round(row, replies)

    def _name(self, node: int) -> str:
        description = self._descriptions.get(node)
        return description.client if description else str(node)


def _content(message: Describe | Task) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({CONTENT: message.pack()})})


def _packed(content: RecordDict) -> bytes:
    record = content.get(RECORD)
    packed = record.get(CONTENT) if isinstance(record, ConfigRecord) else None
    if not isinstance(packed, bytes):
        raise ProtocolError(f"a message without '{RECORD}/{CONTENT}': not from flockwatch")
    return packed


def _weighted_error(used: list[_Received]) -> float:
    rows = sum(r.answer.rows for r in used)
    return sum(r.answer.error.mean * r.answer.rows for r in used) / rows


def _arrays(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def _as_flower_reply(received: _Received, current: Manifest) -> Message:
    """The update in the form that Flower's strategies aggregate: whole arrays, and metrics with a weight."""
    update = received.answer
    assert isinstance(update, Update)  # noqa: S101  only train replies are folded
    metrics = MetricRecord({"num-examples": update.rows, "error": update.error.mean, "loss": update.loss})
    arrays = _arrays(add(current.weights, update.difference))
    received.message.content = RecordDict({"arrays": arrays, "metrics": metrics})
    return received.message
