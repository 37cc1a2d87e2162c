"""The corruptions of `make bench-poison` are messages that a server reads, and its parts are all of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.byzantine import CORRUPTIONS
from benchmarks.poison import _part
from common.model.histogram import ScoreHistogram
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.scoring import ErrorSummary
from common.protocol.messages import Update
from common.protocol.wire import pack, unpack

ROWS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def honest() -> Update:
    return Update(
        client="a", version=3, rows=200, error=ErrorSummary(40, 1.0, 1.0, 1.0, 1.0, 1.0), drifted=False,
        scores=ScoreHistogram.of(np.square(ROWS[:40]).mean(axis=1)), residuals=Residuals.of(np.square(ROWS)),
        loss=0.1, train_s=1.0, difference={"w": np.ones(4, np.float32)},
    )  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_something_that_a_server_reads(name: str) -> None:
    changes, moments = CORRUPTIONS[name], Moments.of(ROWS)
    rows, described, answer = changes.rows(ROWS.copy()), changes.moments(moments), changes.update(honest())
    back = unpack(pack(answer.encoded()), Update)
    assert back.scores.count == answer.scores.count
    changed = not np.array_equal(rows, ROWS) or described is not moments
    assert changed or pack(answer.encoded()) != pack(honest().encoded())


def test_the_parts_are_all_corruptions_once() -> None:
    names = [name for i in (1, 2, 3, 4) for name in _part(list(CORRUPTIONS), f"{i}/4")]
    assert sorted(names) == sorted(CORRUPTIONS)
