"""The fleet's covariances are a sum over clients, of which no client has more than a bounded part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.model.lag_covariances import LagCovariances, SentCovariances
from server.federation.admission import AdmissionError, admit
from server.federation.client_records import ClientRecords
from server.versions.client_parts import MAX_PARTS, counted_windows
from server.versions.covariances import merged_covariances
from server.versions.influence import MAX_MASS
from server.versions.rescaling import Rescaling
from tests.server.federation.test_admission import asked, update
from tests.server.replies import update as reply

FEATURES, WINDOW = 4, 3


def sent(seed: int, count: int = 500, scale: float = 1.0) -> SentCovariances:
    """Covariances as a client sends them; the features of all clients depend on each other in one way."""
    mixing = np.random.default_rng(0).standard_normal((FEATURES, FEATURES))
    rows = np.random.default_rng(seed).standard_normal((count + WINDOW - 1, FEATURES)) @ mixing
    rows[1:] += rows[:-1]
    starts = np.arange(count, dtype=np.int32)
    return SentCovariances.of(LagCovariances.of((scale * rows).astype(np.float32), starts, WINDOW))


def fleet(clients: int) -> dict[str, SentCovariances]:
    return {f"c{i}": sent(i) for i in range(clients)}


def total(parts: dict[str, SentCovariances]) -> np.ndarray:
    merged = merged_covariances(parts)
    return merged.values.astype(np.float64) * merged.count


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 7), st.randoms())
def test_the_sum_does_not_depend_on_the_order_or_on_parts(clients: int, random: Any) -> None:
    parts = fleet(clients)
    names = list(parts)
    random.shuffle(names)
    whole = merged_covariances(parts)
    np.testing.assert_array_equal(merged_covariances({n: parts[n] for n in names}).values, whole.values)
    cut = random.randrange(1, clients)
    groups = ({n: parts[n] for n in names[:cut]}, {n: parts[n] for n in names[cut:]})
    np.testing.assert_allclose(sum(map(total, groups)), total(parts), rtol=1e-5, atol=1e-2)


def test_they_are_those_of_pooled_rows_about_each_clients_mean() -> None:
    merged = merged_covariances(fleet(5))
    assert merged.count == 5 * 500
    pooled = merged_covariances({"all": sent(99, 100_000)})
    np.testing.assert_allclose(merged.values, pooled.values, atol=0.1 * float(pooled.values.max()))


WRONG = {
    "huge": structs.replace(sent(6), variances=np.full(FEATURES, 1e6)),
    "mass": structs.replace(sent(6), count=10**12, variances=np.full(FEATURES, 1e6)),
    "nothing varies": structs.replace(sent(6), variances=np.zeros(FEATURES)),
    "all equal": structs.replace(sent(6), correlations=bytes([127]) * (WINDOW * FEATURES**2)),
    "opposite": structs.replace(sent(6), correlations=bytes([129]) * (WINDOW * FEATURES**2)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_one_byzantine_client_in_seven_moves_the_fleets_covariances_little(wrong: SentCovariances) -> None:
    honest = merged_covariances(fleet(7)).values
    spoilt = merged_covariances({**fleet(7), "c6": wrong}).values
    spreads = np.sqrt(np.outer(np.diagonal(honest[0]), np.diagonal(honest[0])))
    assert float(np.abs((spoilt - honest) / spreads).max()) < 0.35


def test_the_mass_of_one_client_is_bounded() -> None:
    heavy = {**fleet(6), "c6": structs.replace(sent(6), count=10**12)}
    assert merged_covariances(heavy).count == (6 + MAX_MASS) * 500


def test_of_a_huge_fleet_as_many_clients_as_can_be_merged_in_time_are_used() -> None:
    many = {f"c{i}": covariances(count=10) for i in range(MAX_PARTS + 100)}
    assert merged_covariances(many).count == counted_windows(many) == 10 * MAX_PARTS


def covariances(**changes: Any) -> SentCovariances:
    values = {"count": 90, "variances": np.ones(2), "correlations": bytes([127, 0, 0, 127])}
    return SentCovariances(**{**values, **changes})


def test_an_update_with_covariances_of_the_model_is_admitted() -> None:
    admit(update(covariances=covariances()), 3, asked())


@pytest.mark.parametrize(("wrong", "why"), [
    (covariances(correlations=bytes(8)), "2 features at 2 lags, the model has 2 and 1"),
    (covariances(variances=np.ones(1), correlations=bytes(1)), "1 features at 1 lags"),
    (covariances(count=101), "101 windows of 100 rows"),
])  # fmt: skip
def test_an_update_with_other_covariances_is_not_admitted(wrong: SentCovariances, why: str) -> None:
    with pytest.raises(AdmissionError, match=why):
        admit(update(covariances=wrong), 3, asked())


def lacks(records: ClientRecords) -> bool:
    return records.covariances.lacks("a", records["a"].rows or 0)


def test_a_client_is_asked_once_and_again_when_it_has_twice_the_rows() -> None:
    records = ClientRecords()
    assert lacks(records)
    records.record_reply(reply("a", rows=100, covariances=covariances()))
    assert not lacks(records)
    records.record_reply(reply("a", rows=199))
    assert not lacks(records)
    records.record_reply(reply("a", rows=200))
    assert lacks(records)


def test_the_newest_of_a_client_count_and_those_of_a_forgotten_client_do_not() -> None:
    records = ClientRecords()
    assert records.covariances.grown({"a", "b"}, None) is None
    records.record_reply(reply("a", rows=100, covariances=covariances()))
    records.record_reply(reply("a", rows=100, covariances=covariances(count=70)))
    records.record_reply(reply("b", rows=100, covariances=covariances()))
    merged = records.covariances.grown({"a", "b", "c"}, None)
    assert merged is not None and merged.count == 160
    records.forget_scores("b")
    merged = records.covariances.grown({"a", "b"}, None)
    assert merged is not None and merged.count == 70
    records.forget_model()
    assert records.covariances.grown({"a"}, None) is None


def test_they_follow_the_fleets_scale() -> None:
    records = ClientRecords()
    records.record_reply(reply("a", rows=100, covariances=covariances()))
    records.rescale(Rescaling(np.array([2.0, 1.0]), np.zeros(2)), window=1, version=4)
    merged = records.covariances.grown({"a"}, None)
    assert merged is not None and merged.values[0].tolist() == [[4, 0], [0, 1]]
