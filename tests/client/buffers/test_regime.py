from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.buffers.regime import Move, Regime, move_moments, move_rows
from common.model.moments import Moments

ROWS = np.random.default_rng(0).normal([0, 5, 1], [1, 10, 0.1], (200, 3)).astype(np.float32)
NUMBERS = st.floats(-100, 100)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), NUMBERS)
def test_moves_one_after_the_other_are_one_move(moves: list[tuple[float, float]], value: float) -> None:
    one, expected = Move(1.0, 0.0), value
    for factor, offset in moves:
        one, expected = one.then(Move(factor, offset)), factor * expected + offset
    assert one.factor * value + one.offset == pytest.approx(expected, rel=1e-6, abs=1e-3)


def test_a_regime_is_read_as_it_was_saved(tmp_path: Path) -> None:
    assert Regime.load(tmp_path) == Regime()
    regime = Regime({"a": Move(2.0, 1.0)}, "hash")
    regime.save(tmp_path)
    assert Regime.load(tmp_path) == regime


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", json.dumps({"moves": {"a": [1.0, None]}, "base": ""}).encode()]
)
def test_a_damaged_file_is_not_a_regime(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "regime.json").write_bytes(content)
    assert Regime.load(tmp_path) == Regime()


def test_the_moments_of_moved_rows_are_the_moved_moments() -> None:
    moves = {1: Move(3.0, -7.0)}
    moved, expected = move_moments(Moments.of(ROWS), moves), Moments.of(move_rows(ROWS, moves))
    for name in ("mean", "m2", "minimum", "maximum", "within"):
        np.testing.assert_allclose(getattr(moved, name), getattr(expected, name), rtol=1e-4)


def test_features_are_moved_by_name_and_others_are_left() -> None:
    regime = Regime({"b": Move(1.0, 10.0), "gone": Move(2.0, 0.0)})
    np.testing.assert_allclose(regime.apply(ROWS, ("a", "b", "c")), ROWS + np.array([0, 10, 0]), rtol=1e-5)
    assert Regime().apply(ROWS, ("a", "b", "c")) is ROWS
