"""A Flower strategy that runs the coordinator over a Grid; another Flower strategy does the arithmetic.

This is the shell around `server.coordinator`: replies become events, actions become messages, and each
version is on disk before anybody hears of it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.architecture import Architecture
from common.manifest import Manifest
from common.messages import Description, Evaluation, Update
from common.moments import Moments
from common.schema import Schema
from common.settings import Settings
from common.sketch import ScoreSketch
from common.weights import Weights, add
from server import coordinator
from server.admission import NotAdmitted, admit
from server.exchange import Exchange, Reply
from server.history import History, ReplyRow, RoundRow
from server.registry import Registry
from server.state import (
    Abandon,
    Answered,
    Ask,
    Described,
    Event,
    Failed,
    Fold,
    Folded,
    Measured,
    Node,
    NodesSeen,
    Send,
    State,
    Stop,
    Tick,
)

log = logging.getLogger(__name__)

NODES_EVERY_S = 0.5
"""How often the list of connected nodes is read."""

FASTEST_POLL_S, SLOWEST_POLL_S = 0.02, 0.25
POLL_SHARE = 0.05
"""The wait before the next poll for replies, as a share of the time since the last one."""

TELL_WAIT_EVERY_S = 5.0
"""How often the log says what the run waits for."""

TRAINED_UNDER = {"model", "training", "scaling", "threshold"}
"""The sections of the settings that travel with a version."""


@dataclass(frozen=True)
class _Used:
    """An admitted answer of the open round."""

    answer: Update | Evaluation
    reply: Reply


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
        self._descriptions: dict[Node, Description] = {}
        self._used: dict[Node, _Used] = {}
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
        exchange = Exchange(grid)
        nodes_at = told_at = progress_at = self._clock()
        while self._state.stopped is None:
            now = self._clock()
            if now >= nodes_at:
                self._handle(NodesSeen(exchange.nodes()), exchange)
                nodes_at = now + NODES_EVERY_S
            for reply in exchange.replies():
                self._handle(self._event_of(reply), exchange)
                progress_at = now
            self._handle(Tick(), exchange)
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

    def _event_of(self, reply: Reply) -> Event:
        """What a reply means to the coordinator; keeps what the reply carries."""
        sent, answer = reply.sent, reply.answer
        if isinstance(answer, Description):
            self._descriptions[sent.node] = answer
            return Described(sent.node, answer.client, answer.instance, answer.schema.features)
        problem = reply.problem
        if answer is not None and sent.manifest is not None:
            try:
                admit(answer, sent.manifest)
            except NotAdmitted as error:
                problem = f"not admitted: {error}"
        if answer is None or problem:
            name = self._name(sent.node)
            log.warning("reply not used client=%s round=%d reason=%s", name, sent.number, problem)
            return Failed(sent.node, problem, sent.number)
        if self._state.round is not None and sent.number == self._state.round.number:
            self._used[sent.node] = _Used(answer, reply)
        else:
            log.info("late reply client=%s round=%d", answer.client, sent.number)
        return Answered(sent.node, sent.number)

    def _handle(self, event: Event, exchange: Exchange) -> None:
        """Step the coordinator, and do what it says until nothing more follows."""
        events = deque([event])
        while events:
            self._state, actions = coordinator.step(
                self._state, events.popleft(), self._clock(), self._settings.federation
            )
            for action in actions:
                match action:
                    case Ask(node, refused):
                        if refused:
                            log.warning("client refused client=%s reason=%s", self._name(node), refused)
                            self._history.note("refused", refused)
                        exchange.ask(node, refused)
                    case Send():
                        self._send(action, exchange)
                    case Fold():
                        events.append(self._fold(action))
                    case Measured(nodes):
                        self._record("evaluate", self._state.version + 1, self._of(nodes), {})
                    case Abandon(number, failed):
                        log.warning("round failed round=%d reasons=%s", number, dict(failed))
                        self._record("train", number, [], failed)
                    case Stop(reason):
                        log.info("stopped version=%d reason=%s", self._state.version, reason)
                        self._history.note("stopped", reason)

    def _send(self, order: Send, exchange: Exchange) -> None:
        self._manifest = self._manifest or self._first_version()
        self._opened = self._clock()
        self._used.clear()
        self._bytes_down = exchange.send(order, self._manifest, self._settings.federation.wait_s)
        log.info(
            "round opened round=%d kind=%s version=%d clients=%d",
            order.number, order.kind, self._manifest.version, len(order.nodes),
        )  # fmt: skip

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
        self._publish(manifest, self._state)
        return manifest

    def _fold(self, action: Fold) -> Folded:
        """Make the next version of the updates, write it, and then let it be known."""
        current = self._manifest
        assert current is not None  # noqa: S101  it was sent
        used = self._of(action.nodes)
        arrays, _ = self._inner.aggregate_train(action.number, [_as_flower_reply(u, current) for u in used])
        if arrays is None:
            raise RuntimeError(f"{type(self._inner).__name__} made nothing of {len(used)} updates")
        weights: Weights = {name: array.numpy() for name, array in arrays.items()}
        # Stepping first gives the progress that belongs to the new version; the event is handled after.
        event = Folded(_weighted_error(used), drifted=any(u.answer.drifted for u in used))
        after, _ = coordinator.step(self._state, event, self._clock(), self._settings.federation)
        scores = ScoreSketch.merge_all(u.answer.scores for u in used)
        self._manifest = replace(current, version=current.version + 1, weights=weights, scores=scores)
        self._publish(self._manifest, after)
        self._record("train", action.number, used, action.failed)
        return event

    def _publish(self, manifest: Manifest, state: State) -> None:
        progress = {
            "best_error": state.best_error,
            "rounds_without_improvement": state.rounds_without_improvement,
        }
        self._registry.write(manifest, progress)

    # What is told: the log and the history.

    def _record(self, kind: str, number: int, used: list[_Used], failed: Mapping[Node, str]) -> None:
        assert self._manifest is not None  # noqa: S101  a round was opened with it
        row = RoundRow(
            number=number,
            kind=kind,
            version=self._manifest.version,
            wall_s=self._clock() - self._opened,
            sampled=len(used) + len(failed),
            error=_weighted_error(used) if used else None,
            bytes_up=sum(u.reply.bytes_up for u in used),
            bytes_down=self._bytes_down,
            failed={self._name(node): reason for node, reason in failed.items()},
        )
        self._history.add_round(row, [_reply_row(u) for u in used])
        log.info(
            "round closed round=%d kind=%s version=%d error=%s answered=%d failed=%d wall_s=%.3f",
            number, kind, row.version, row.error, len(used), len(failed), row.wall_s,
        )  # fmt: skip

    def _tell_wait(self, now: float) -> None:
        waiting = coordinator.waiting_for(self._state, now, self._settings.federation)
        if waiting:
            log.info("waiting %s", waiting)
            self._history.note("waiting", waiting)

    def _of(self, nodes: Iterable[Node]) -> list[_Used]:
        """The admitted answers of these clients, in the order of their names, so that sums are repeatable."""
        return sorted((self._used[node] for node in nodes), key=lambda u: u.answer.client)

    def _name(self, node: Node) -> str:
        description = self._descriptions.get(node)
        return description.client if description else str(node)


def _weighted_error(used: list[_Used]) -> float:
    rows = sum(u.answer.rows for u in used)
    return sum(u.answer.error.mean * u.answer.rows for u in used) / rows


def _reply_row(used: _Used) -> ReplyRow:
    answer = used.answer
    return ReplyRow(
        client=answer.client,
        version=answer.version,
        rows=answer.rows,
        error=answer.error,
        bytes_up=used.reply.bytes_up,
        loss=answer.loss if isinstance(answer, Update) else None,
        train_s=answer.train_s if isinstance(answer, Update) else None,
    )


def _arrays(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def _as_flower_reply(used: _Used, current: Manifest) -> Message:
    """The update in the form that Flower's strategies aggregate: whole arrays, and metrics with a weight."""
    update = used.answer
    assert isinstance(update, Update)  # noqa: S101  only train replies are folded
    metrics = MetricRecord({"num-examples": update.rows, "error": update.error.mean, "loss": update.loss})
    arrays = _arrays(add(current.weights, update.difference))
    used.reply.message.content = RecordDict({"arrays": arrays, "metrics": metrics})
    return used.reply.message
