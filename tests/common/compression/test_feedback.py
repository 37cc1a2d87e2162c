from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression.choice import Block, seeded_rng
from common.compression.codec import Feedback
from common.model.weights import Weights, add, norm, subtract

SHAPES = {"kernel": (12, 5), "bias": (5,)}
LOSSY = ["int8", "topk:0.05", "ternary:0.05", "ternary:0.05+zstd"]


def update(seed: int) -> Weights:
    own = np.random.default_rng(seed)
    return {n: own.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


def sent(
    feedback: Feedback, codec: str, serial: int, true: Weights, most: int = 8
) -> tuple[Feedback, Weights]:
    block = Block.of(codec, feedback.corrected(true), seeded_rng(serial))
    decoded = block.decoded(SHAPES)
    return feedback.after_encoding(serial, true, decoded, most), decoded


def total(parts: list[Weights]) -> Weights:
    summed = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    for part in parts:
        summed = add(summed, part)
    return summed


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=30, deadline=None)
@given(fates=st.lists(st.sampled_from(["used", "lost", "waits"]), min_size=1, max_size=8))
def test_what_was_used_and_what_is_left_is_the_sum_of_the_true_updates(codec: str, fates: list[str]) -> None:
    feedback, used, true = Feedback(), [], []
    waiting: dict[int, tuple[Weights, Weights]] = {}
    for serial, fate in enumerate(fates):
        d = update(serial)
        feedback, s = sent(feedback, codec, serial, d)
        if fate == "waits":
            waiting[serial] = (d, s)
        elif fate == "used":
            used.append(s)
            true.append(d)
        feedback = feedback.settled([serial] if fate == "used" else [], waiting)
    # Those that waited are used after all; then nothing is open.
    used += [s for _, s in waiting.values()]
    true += [d for d, _ in waiting.values()]
    feedback = feedback.settled(list(waiting), [])
    assert not feedback.pending
    left = subtract(total([*used, feedback.error]), total(true))
    assert norm(left) <= 1e-4 * (1 + norm(total(true)))


def test_a_lost_update_leaves_the_error_as_it_was() -> None:
    feedback, _ = sent(Feedback(), "ternary:0.5", 1, update(1))
    feedback = feedback.settled([1], [])
    before = feedback.error
    after, _ = sent(feedback, "ternary:0.5", 2, update(2))
    assert norm(subtract(after.error, before)) > 0.1
    assert norm(subtract(after.settled([], []).error, before)) < 1e-5


def test_an_error_of_topk_is_sent_in_the_end() -> None:
    """A value too small to be chosen adds up until it is."""
    true = {n: np.full(s, 0.01, np.float32) for n, s in SHAPES.items()}
    true["bias"][:] = 1.0
    feedback, used = Feedback(), []
    for serial in range(400):
        feedback, s = sent(feedback, "topk:0.1", serial, true)
        used.append(s)
        feedback = feedback.settled([serial], [])
    mean = {n: a / 400 for n, a in total(used).items()}
    assert all(np.allclose(mean[n], true[n], atol=0.005) for n in SHAPES)


def test_only_the_newest_stay_pending() -> None:
    feedback = Feedback()
    for serial in range(10):
        feedback, _ = sent(feedback, "int8", serial, update(serial), most=3)
    assert sorted(feedback.pending) == [7, 8, 9]
