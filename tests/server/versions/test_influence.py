"""One client in seven, or one broken sensor in ten, cannot move what is summed over the fleet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.histogram import ScoreHistogram
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.threshold import tail_quantile
from server.federation.client_records import ClientRecords
from server.versions.influence import merged_moments, merged_residuals, merged_scores
from tests.server.replies import update

RATE = 1e-5


USUAL = np.random.default_rng(1).gamma(4.0, 0.25, 2000)


def honest_scores(clients: int, seed: int = 0, size: int = 2000) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {f"c{i}": rng.gamma(4.0, 0.25, size) for i in range(clients)}


def threshold(scores: dict[str, Any]) -> float:
    parts = {n: s if isinstance(s, ScoreHistogram) else ScoreHistogram.of(s) for n, s in scores.items()}
    return tail_quantile(merged_scores(parts, ScoreHistogram.empty()), RATE)


@pytest.mark.parametrize("factor", [30.0, 1 / 30, 1000.0])
def test_a_broken_sensor_of_ten_leaves_the_threshold_of_the_others_unchanged(factor: float) -> None:
    scores = honest_scores(10)
    broken = {**scores, "c9": scores["c9"] * factor}
    assert threshold(broken) == pytest.approx(threshold(scores), rel=0.05)


def weights_of(count: int, value: float) -> ScoreHistogram:
    """Return one score, many times over."""
    one = ScoreHistogram.of(np.full(1, value))
    return ScoreHistogram(one.buckets, one.counts * count)


@pytest.mark.parametrize(
    "wrong",
    [
        ScoreHistogram.of(np.full(40, 1e30)),
        weights_of(2**32, 1e-9),
        weights_of(2**32, 1.0),
        *(ScoreHistogram.of(np.append(USUAL[n:], np.full(n, 1e30))) for n in (1, 10, 100, 900)),
    ],
    ids=["40 huge", "2^32 tiny", "2^32 usual", "1 huge", "10 huge", "100 huge", "900 huge"],
)
def test_no_scores_of_one_in_seven_move_the_threshold(wrong: ScoreHistogram) -> None:
    scores: dict[str, Any] = honest_scores(7)
    before = threshold(scores)
    assert before / 1.2 < threshold({**scores, "c6": wrong}) < 1.2 * before


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000), st.lists(st.integers(200, 500), min_size=12, max_size=12))
def test_honest_clients_of_similar_size_are_not_changed(clients: int, seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(sizes[i], 3)) * (1, 10, 0) + 5 for i in range(clients)]
    scores = {f"c{i}": ScoreHistogram.of(np.square(r[:, 0] - 5)) for i, r in enumerate(rows)}
    residuals = {f"c{i}": Residuals.of(np.square(r - 4)) for i, r in enumerate(rows)}
    merged = merged_scores(scores, ScoreHistogram.empty())
    assert merged.count == sum(s.count for s in scores.values())
    result, plain = merged_residuals(residuals, Residuals()), Residuals.merge_all(residuals.values())
    assert result.count == plain.count
    np.testing.assert_allclose(result.squares, plain.squares, rtol=1e-9)
    moments, whole = merged_moments([Moments.of(r) for r in rows]), Moments.of(np.concatenate(rows))
    assert moments.count == whole.count
    for name in ("mean", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(moments, name), getattr(whole, name), rtol=1e-9)
    np.testing.assert_allclose(moments.std, whole.std, rtol=1e-2)


def test_residuals_of_one_in_seven_move_the_fleets_little() -> None:
    rng = np.random.default_rng(0)
    parts = {f"c{i}": Residuals.of(np.square(rng.normal(size=(300, 4)))) for i in range(7)}
    before = merged_residuals(parts, Residuals()).precision(4)
    for wrong in (Residuals(10**12, np.full(4, 1e30)), Residuals(300, np.array([1e20, 1e-20, 300.0, 300.0]))):
        after = merged_residuals({**parts, "c6": wrong}, Residuals()).precision(4)
        np.testing.assert_array_less(np.abs(np.log(after / before)), np.log(3.0))


def test_five_cells_of_minus_9999_do_not_scale_a_feature_for_the_fleet() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(500, 2)) for _ in range(5)]
    clean = merged_moments([Moments.of(r) for r in rows])
    rows[2][[3, 50, 99, 230, 400], 1] = -9999.0
    spoilt = merged_moments([Moments.of(r) for r in rows])
    fleet_spread = np.sqrt(spoilt.within / spoilt.count) / np.sqrt(clean.within / clean.count)
    assert fleet_spread[1] < 2.5
    assert spoilt.minimum[1] > -50
    assert Moments.merge_all(Moments.of(r) for r in rows).std[1] > 50  # what a plain sum would say
    np.testing.assert_allclose(spoilt.std[0], clean.std[0])


def test_moments_of_a_liar_are_bounded() -> None:
    rng = np.random.default_rng(0)
    parts = [Moments.of(rng.normal(size=(500, 2))) for _ in range(6)]
    clean = merged_moments(parts)
    wrong = Moments(
        10**12, np.full(2, 1e30), np.full(2, 1e70), np.full(2, -1e35), np.full(2, 1e35), np.full(2, 1e70)
    )
    spoilt = merged_moments([*parts, wrong])
    assert spoilt.count == 6 * 500 + 1500
    np.testing.assert_array_less(spoilt.std, 6 * clean.std)


def test_the_records_bound_rows_errors_and_drift() -> None:
    records = ClientRecords()
    for name in "abcdef":
        records.record_reply(update(name, rows=100))
    records.record_reply(update("byzantine", rows=10**12, drifted=True))
    names = {*"abcdef", "byzantine"}
    assert records.largest_rows(names) == 300
    assert records.largest_rows({"a", "byzantine"}) == 300
    assert records.largest_rows({"byzantine"}) == float("inf")
    assert not records.has_drifted(names)
    records.record_reply(update("a", rows=100, drifted=True))
    assert records.has_drifted(names)
    assert records.has_drifted({"a", "b"})
    assert records.typical_error(names) == pytest.approx(0.5)


def test_after_a_restart_a_first_client_does_not_outweigh_the_fleets_earlier_scores() -> None:
    earlier = ScoreHistogram.of(honest_scores(1)["c0"])
    merged = merged_scores({"c0": weights_of(2**32, 1e-9)}, earlier)
    assert merged.count <= 2 * earlier.count
