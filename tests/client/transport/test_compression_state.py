"""The state of compression that a client keeps between messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.transport.compression_state import (
    CompressionState,
    FeedbackState,
    _read_feedback,
    _write_feedback,
)
from common.compression.codec import Feedback
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.scoring import ErrorSummary
from common.model.weights import Weights, add, norm, subtract
from common.protocol.messages import (
    Task,
    TaskOptions,
    Traffic,
    Update,
    VersionChange,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import pack
from tests.common.sample_chains import SHAPE, chain, manifest

ERROR = ErrorSummary(count=5, mean=0.5, p50=0.25, p95=0.75, p99=0.875, max=1.0)


def update(seed: int = 1, version: int = 3) -> Update:
    return Update(
        client="a", version=version, rows=10, error=ERROR, scores=ScoreHistogram.empty(), drifted=False,
        loss=0.1, train_s=0.1, difference=SHAPE.initial_weights(seed),
    )  # fmt: skip


def task(held: Manifest | None = None, **options: Any) -> Task:
    return Task(held or manifest(), options=TaskOptions(**options))


def whole(task: Task) -> bytes:
    return pack(WholeVersion.of(task))


def decoded(sent: Update) -> Weights:
    return sent.decoded(SHAPE.shapes).difference


def test_without_a_codec_an_update_is_left_as_it_is() -> None:
    state, given = CompressionState(), update()
    assert state.encode(given, task()) is given


def test_an_encoded_update_plus_its_feedback_is_the_update() -> None:
    state = CompressionState()
    sent = state.encode(update(), task(codec="topk:0.1"))
    assert sent.serial
    owed = state._feedback.feedback.error
    assert norm(owed) > 0
    assert norm(subtract(add(decoded(sent), owed), update().difference)) < 1e-5


def test_an_update_that_is_not_finite_is_sent_unchanged_without_feedback() -> None:
    state, wild = CompressionState(), update()
    wild.difference["dense_0/bias"][0] = np.nan
    assert state.encode(wild, task(codec="ternary:0.5")).block is None
    assert not state._feedback.feedback.error


def test_error_feedback_survives_a_restart(tmp_path: Path) -> None:
    first = CompressionState(tmp_path)
    sent = first.encode(update(), task(codec="ternary:0.5"))
    second = CompressionState(tmp_path)
    assert norm(subtract(second._feedback.feedback.error, first._feedback.feedback.error)) == 0
    after = second.encode(update(2, 4), task(manifest(4), codec="ternary:0.5", used=(sent.serial,)))
    assert after.serial == sent.serial + 1
    total = add(update(1).difference, update(2).difference)
    left = add(add(decoded(sent), decoded(after)), second._feedback.feedback.error)
    assert norm(subtract(left, total)) < 1e-4


def test_the_feedback_of_a_lost_update_is_removed_and_that_of_a_waiting_one_kept(tmp_path: Path) -> None:
    state = CompressionState(tmp_path)
    first = state.encode(update(1), task(codec="ternary:0.5"))
    state.encode(update(2), task(codec="ternary:0.5", waiting=(first.serial,)))
    assert first.serial in state._feedback.feedback.pending
    lost = CompressionState(tmp_path)
    third = lost.encode(update(3), task(codec="none"))
    # Neither was used: what is sent now is this update alone, and nothing is owed.
    assert norm(subtract(decoded(third), update(3).difference)) < 1e-5
    assert norm(lost._feedback.feedback.error) < 1e-5


@pytest.mark.parametrize("version", [2, 0])
def test_an_older_version_is_another_history(version: int) -> None:
    state = CompressionState()
    state.encode(update(), task(codec="ternary:0.5"))
    sent = state.encode(update(2, version), task(manifest(version), codec="none"))
    assert sent.block is None


def test_an_unknown_codec_is_replaced_by_one_that_is_known() -> None:
    sent = CompressionState().encode(update(), task(codec="holographic:7"))
    assert sent.block is not None
    assert sent.block.codec == "int8"


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_a_damaged_file_is_a_fresh_start(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("held.safetensors", "error.safetensors"):
        (tmp_path / name).write_bytes(content)
    state = CompressionState(tmp_path)
    assert state.held_hash == ""
    assert not state._feedback.feedback.error
    assert "held version lost" in caplog.text
    assert "error feedback lost" in caplog.text


def test_a_file_whose_arrays_do_not_fit_is_a_fresh_start(tmp_path: Path) -> None:
    odd = {"w": np.zeros(3, np.float32)}
    _write_feedback(
        tmp_path / "e", FeedbackState("m", 1, 2, Feedback({"w": np.zeros(2, np.float32)}, {2: odd}))
    )
    assert not _read_feedback(tmp_path / "e").feedback.pending
    bad = Feedback({"w": np.array([np.nan], np.float32)})
    _write_feedback(tmp_path / "e", FeedbackState("m", 1, 2, bad))
    assert not _read_feedback(tmp_path / "e").feedback.error


def test_a_version_to_keep_is_held_over_a_restart_and_changed(tmp_path: Path) -> None:
    made, steps = chain()
    CompressionState(tmp_path).unpack_task(whole(Task(made[0], options=TaskOptions(keep=True))), "a")
    state = CompressionState(tmp_path)
    assert state.held_hash == made[0].hash
    change = pack(VersionChange.of(Task(made[-1], options=TaskOptions(keep=True)), tuple(steps)))
    result = state.unpack_task(change, "a")
    assert isinstance(result, Task)
    assert result.manifest.hash == state.held_hash == made[-1].hash
    assert state.traffic(Traffic(sent_bytes=5)).sent_bytes == 5


def test_a_version_that_nobody_asked_to_keep_is_not() -> None:
    state = CompressionState()
    state.unpack_task(whole(task()), "a")
    assert state.held_hash == ""


def test_a_change_of_nothing_is_answered_with_missing() -> None:
    made, steps = chain()
    change = pack(VersionChange.of(Task(made[-1]), tuple(steps)))
    assert CompressionState().unpack_task(change, "a") == VersionMissing("a", "no version is held")


def test_a_client_without_state_offers_only_codecs_that_need_none() -> None:
    state = CompressionState(keeps=False)
    state.unpack_task(whole(task(keep=True)), "a")
    sent = state.encode(update(), task(codec="ternary:0.5"))
    assert state.held_hash == ""
    assert sent.block is not None
    assert sent.block.codec == "int8"
    assert not state._feedback.feedback.error
