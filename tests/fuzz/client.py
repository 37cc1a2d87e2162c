"""A real client without a network, which gets mutated messages of a server."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from client.app import build
from client.data.partition import Partition
from client.detection.detector import Detector
from client.detection.scorer import Scorer
from client.maintenance.checkpoint import Checkpoint
from client.maintenance.thread import DetectorMaintenance
from client.training import worker as worker_module
from client.training.worker import ClientWorker
from client.transport.compression_state import CompressionState
from client.transport.resident_node import APP_ID, MAX_REASON, MAX_RUNS, ResidentNode
from client.versions.trial import TrialResult
from client.versions.trial_process import Trial, TrialError, TrialRequest, run_request
from client.versions.version_store import VersionStore
from common.flower.stamps import TASK, set_message_id
from common.model.weights import Architecture, Weights
from common.protocol.messages import (
    Describe,
    Description,
    Evaluation,
    Task,
    TaskOptions,
    Update,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import CONTENT, RECORD, pack, unpack
from common.settings import MAX_BATCH, MAX_EPOCHS, Settings, TrainingSettings
from tests.client.sample_versions import SCHEMA, lines, rows
from tests.fuzz.honest_server import Server
from tests.fuzz.mutations import mutated
from tests.fuzz.versions import lying_version

KINDS = (MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE)
MAX_FILES = 60
FIRST_EVENTS, EVENTS_BETWEEN = 150, 3
"""Normal events before the first message, and after each."""
HONEST_EVERY, RESTART_EVERY = 20, 100
"""Messages between two honest tasks, and between two starts of the client's processes."""


class CountingTrainer:
    """Stands for Keras: takes a small step, and refuses work that would never end."""

    def __init__(self, architecture: Architecture, settings: TrainingSettings) -> None:
        self._rate, self._batch = settings.learning_rate, settings.batch_size

    def fit(
        self, weights: Weights, data: NDArray[np.float32], epochs: int, seed: int, starts: NDArray[np.int32]
    ) -> tuple[Weights, float]:
        """Return the weights after one step in a drawn direction."""
        if epochs > MAX_EPOCHS or self._batch > MAX_BATCH:  # no assertion: the client would contain it
            pytest.fail(f"{epochs} epochs would not end, or batches of {self._batch} windows fill the memory")
        rng = np.random.default_rng(seed)
        with np.errstate(over="ignore"):
            step = {n: np.float32(self._rate) * rng.standard_normal(a.shape) for n, a in weights.items()}
            return {n: (a + step[n]).astype(np.float32) for n, a in weights.items()}, 0.1


class _InlineTrial:
    """A trial in this process whose errors are those of a trial process that ended with a code."""

    def __init__(self, request: TrialRequest, outcomes: Counter[str]) -> None:
        self._request, self._outcomes = request, outcomes

    def result(self) -> TrialResult:
        """Return the result."""
        try:
            return run_request(self._request)
        except Exception as error:
            self._outcomes[f"trial: {type(error).__name__}"] += 1
            raise TrialError(f"its trial failed: {error}") from error

    def close(self) -> None:
        """Do nothing."""


class Connection:
    """Stands for the connection to the server: replies are kept."""

    node_id = 1

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def run(self, run_id: int) -> Any:
        """Return the run of flockwatch."""
        return SimpleNamespace(fab_id=APP_ID, series_id=run_id)

    def send(self, reply: Message, inline: bool, runtime_s: float) -> None:
        """Keep a reply."""
        self.sent.append(reply)


class Client:
    """A client with a trainer and a detector on one state folder, as its two processes have them."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self._folder, self._draw = folder, draw
        self.learns = draw.random() < 0.3
        """Whether it has too few rows to train: then it takes the fleet's versions as they are."""
        self.outcomes: Counter[str] = Counter()
        """Versions that were refused, and trials that failed with an error."""
        self.sent = 0
        self.start()

    def start(self) -> None:
        """Start, or start again from what is on disk."""
        folder = self._folder
        self.settings = Settings().with_values(live={"incident_margin": 5, "keep_rows": 400, "warm_up": 25})
        self.detector = Detector("edge", SCHEMA, self.settings.data, self.settings.live)
        self.maintenance = DetectorMaintenance(
            self.detector, self.settings, folder, VersionStore(folder), Checkpoint(folder, "file:x", []),
            trial=self._trial,
        )  # fmt: skip
        self.maintenance.learned.open()
        self.maintenance.warm_up.restored = len(self.maintenance.learned)
        self.maintenance.versions.start(None, self.maintenance.learned.contents())
        self.feed(FIRST_EVENTS)
        no_rows = np.empty((0, len(SCHEMA)), np.float32)
        self.worker = ClientWorker(
            Partition("edge", SCHEMA, no_rows, no_rows, None), "instance", inline=True, folder=folder,
            compression=CompressionState(folder), get_trainer=CountingTrainer,
            min_rows=10**6 if self.learns else 50,
        )  # fmt: skip
        self.node = ResidentNode("nowhere:1", build(lambda _: self.worker), idle=self.worker.offer_version)
        self.connection = Connection()

    def stop(self) -> None:
        """Stop, with everything on disk."""
        self.outcomes["refused versions"] += self.maintenance.versions.refusals
        self.maintenance.learned.close()

    def _trial(self, request: TrialRequest) -> Trial:
        return _InlineTrial(request, self.outcomes)

    def feed(self, count: int) -> None:
        """Score normal events, and let the maintenance take its steps."""
        verdicts = []
        events = rows(count, seed=self.sent)
        for start in range(0, count, 50):
            part = lines(events[start : start + 50], 1e9 + 60.0 * self.sent)
            verdicts += self.detector.step(part, 0.0).verdicts
            self.sent += len(part)
            self.maintenance.tick(save=True)
        assert not self.detector.refused

    def ask(self, kind: str, content: object) -> Message:
        """Give the client one message; return its reply."""
        record = RecordDict({RECORD: ConfigRecord({CONTENT: content})})  # type: ignore[dict-item]
        return self.deliver(Message(record, 1, kind, ttl=1e6))

    def deliver(self, message: Message) -> Message:
        """Give the client one message, and then the time in which it offers a version to its detector."""
        message.metadata.__dict__["_run_id"] = self._draw.choice((1, self._draw.getrandbits(64)))
        set_message_id(message)
        self.node._handle(self.connection, message, True)  # type: ignore[arg-type]
        reply = self.connection.sent.pop()
        assert not self.connection.sent
        self.worker.offer_version()
        return reply

    def check(self) -> None:
        """Check that the detector works, and that its version finds a gross fault."""
        assert not {"maintenance", "store", "state", "buffer"} & self.maintenance.problems._messages.keys()
        assert sum(file.is_file() for file in self._folder.rglob("*")) <= MAX_FILES
        assert max(len(self.node._runs), len(self.node._states)) <= MAX_RUNS
        active = self.detector.active
        if active is None:
            return
        scorer, normal = Scorer(active.manifest), rows(60, seed=7)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = [scorer.score_one(row) for row in normal][scorer.window - 1 :]
            faulty = normal[-scorer.window :] + np.float32([300, -3000, 30])
            fault = [scorer.score_one(row) for row in faulty][-1]
        assert np.isfinite(scores).all(), f"version {active.manifest.version} cannot score"
        assert np.isfinite(active.threshold), "no finite threshold"
        assert fault > active.threshold, f"blind: a fault has {fault}, the threshold is {active.threshold}"


def run(folder: Path, messages: int, seed: int) -> Counter[str]:
    """Give a client mutated messages; return how often it answered with what.

    Raises:
        AssertionError: a message ended or blinded the client, or an honest task does not work any more.
    """
    draw, answers = random.Random(seed), Counter[str]()
    corpus: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy; they are errors only in the tests
        for name, value in TASK.items():
            patch.setattr(TaskIdentity, name, value, raising=False)
        patch.setattr(worker_module, "MAX_OFFER_SHARE", 1.0)  # each message's version is offered
        patch.setattr(worker_module, "OFFER_PAUSE_S", 0.0)
        client, server = Client(folder, draw), Server()
        if draw.random() < 0.5:
            honest(client, server)
        for number in range(messages):
            kind = draw.choice(KINDS)
            sound = server.message(kind, draw)
            corpus[:] = [*corpus[-50:], sound]
            content = _damaged(sound, server, draw, corpus)
            answers[answered(client, kind, content, draw)] += 1
            client.feed(EVENTS_BETWEEN)
            client.check()
            if number % HONEST_EVERY == HONEST_EVERY - 1:
                honest(client, server)
            if number % RESTART_EVERY == RESTART_EVERY - 1:
                client.stop()
                client.start()
                client.check()
        honest(client, server)
        client.stop()
    return answers + client.outcomes


def _damaged(sound: bytes, server: Server, draw: random.Random, corpus: list[bytes]) -> object:
    if draw.random() < 0.5:
        lie = lying_version(server.newest.pack(), draw)
        return pack(WholeVersion(lie, draw.choice((0, 3)), TaskOptions(keep=draw.random() < 0.5)))
    if draw.random() < 0.03:
        return draw.choice((1, "x", [1.5], b"", True))
    return mutated(sound, draw, corpus)


def answered(client: Client, kind: str, content: object, draw: random.Random) -> str:
    """Give the client a message; return what kind of answer it gave."""
    if draw.random() < 0.03:
        kind = draw.choice(("query.other", "train.x", "evaluate.y"))
    reply = client.ask(kind, content)
    if reply.has_error():
        assert reply.error.reason and len(reply.error.reason) <= MAX_REASON, len(reply.error.reason)
        return reply.error.reason.partition(":")[0]
    packed = reply.content[RECORD][CONTENT]
    assert isinstance(packed, bytes)
    for answer in (Description, Update, Evaluation, VersionMissing):
        try:
            return type(unpack(packed, answer)).__name__
        except ValueError:
            continue
    return "an answer that the server refuses"


def honest(client: Client, server: Server) -> None:
    """Check that an honest task works as before, and that its version comes into use."""
    server.advance()
    content = pack(WholeVersion.of(Task(server.newest)))
    described = unpack(_content(client.ask(MessageType.QUERY, pack(Describe(None, 2)))), Description)
    assert described.can_train is not client.learns
    if client.learns:
        client.ask(MessageType.QUERY, content)
    evaluated = unpack(_content(client.ask(MessageType.EVALUATE, content)), Evaluation)
    update = unpack(_content(client.ask(MessageType.TRAIN, content)), Update)
    assert evaluated.version == update.version == server.newest.version
    assert np.isfinite(evaluated.error.mean)
    assert all(
        np.isfinite(a).all() for a in update.decoded(server.newest.architecture.shapes).difference.values()
    )
    client.feed(2)
    active = client.detector.active
    assert active is not None
    assert active.manifest.version == server.newest.version, (
        f"version {server.newest.version} is not in use, but {active.manifest.version}: "
        f"{client.maintenance.problems.messages()}"
    )


def _content(reply: Message) -> bytes:
    assert not reply.has_error(), reply.error.reason
    content = reply.content[RECORD][CONTENT]
    assert isinstance(content, bytes)
    return content
