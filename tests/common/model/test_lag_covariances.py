"""Covariances at lags give the covariance of windows, and survive being sent in one byte each."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.model.lag_covariances import MAX_VARIANCE, LagCovariances, SentCovariances
from common.model.manifest import Manifest, ManifestError
from common.model.schema import Schema
from common.model.scoring import window_starts, windows_at
from tests.client.training.samples import version

FEATURES, WINDOW = 3, 4


def rows(count: int = 4000, seed: int = 0) -> np.ndarray:
    """Stationary rows, whose features depend on each other and on the event before."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((count, FEATURES)) @ rng.standard_normal((FEATURES, FEATURES))
    for i in range(1, count):
        steps[i] += 0.6 * steps[i - 1]
    return steps.astype(np.float32)


def starts(of: np.ndarray) -> np.ndarray:
    return window_starts(of, np.arange(len(of)) == 0, WINDOW)


def covariances(of: np.ndarray | None = None) -> LagCovariances:
    of = rows() if of is None else of
    return LagCovariances.of(of, starts(of), WINDOW)


def test_they_are_those_of_whole_windows() -> None:
    of = rows()
    whole = np.cov(windows_at(of, starts(of), WINDOW).T.astype(np.float64), bias=True)
    result = covariances(of).of_windows()
    assert result.shape == whole.shape == (FEATURES * WINDOW, FEATURES * WINDOW)
    np.testing.assert_allclose(result, whole, atol=5e-3 * whole.max())
    np.testing.assert_array_equal(result, result.T)


def test_windows_of_one_event_have_exactly_the_covariance_of_the_rows() -> None:
    of = rows(500)
    result = LagCovariances.of(of, np.arange(500, dtype=np.int32), 1).of_windows()
    np.testing.assert_allclose(result, np.cov(of.T.astype(np.float64), bias=True), rtol=1e-5, atol=1e-6)


def test_no_window_reaches_over_a_break() -> None:
    of = rows(200)
    breaks = np.isin(np.arange(200), (0, 100))
    apart = np.concatenate([of[:100], np.full((7, FEATURES), 1e3, np.float32), of[100:]])
    far = np.isin(np.arange(207), (0, *range(100, 108)))
    one = LagCovariances.of(of, window_starts(of, breaks, WINDOW), WINDOW)
    other = LagCovariances.of(apart, window_starts(apart, far, WINDOW), WINDOW)
    assert one.count == other.count == 194
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5)


def test_a_missing_value_counts_as_the_mean() -> None:
    of = rows()
    of[::50, 1] = np.nan
    of[:, 2] = np.nan
    result = covariances(of).values
    assert np.isfinite(result).all() and (result[:, 2] == 0).all() and (result[:, :, 2] == 0).all()
    np.testing.assert_allclose(result[0, :2, :2], covariances().values[0, :2, :2], rtol=0.1, atol=0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_a_clients_own_weigh_as_scoring_prior_says(own: int, prior: int) -> None:
    one, fleet = covariances(rows(50, 1)), covariances(rows(50, 2))
    result = replace(one, count=own).blended_with(fleet, prior)
    share = own / (own + prior)
    expected = share * one.values + (1 - share) * fleet.values
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)


def test_they_are_sent_in_one_byte_each() -> None:
    exact = covariances()
    sent = SentCovariances.of(exact)
    assert (sent.count, sent.window) == (exact.count, WINDOW)
    assert len(msgspec.msgpack.encode(sent, enc_hook=lambda a: a.tobytes())) < WINDOW * FEATURES**2 + 60
    spreads = np.sqrt(np.outer(sent.variances, sent.variances))
    for lag, values in enumerate(exact.values):
        np.testing.assert_allclose(spreads * sent.correlations_at(lag), values, atol=0.004 * spreads.max())


def test_a_feature_that_does_not_vary_and_one_that_varies_too_much_can_be_sent() -> None:
    of = rows() * np.array([1, 0, 1e5], np.float32)
    sent = SentCovariances.of(covariances(of))
    assert sent.variances[1] == 0 and sent.variances[2] == MAX_VARIANCE


@pytest.mark.parametrize("changes", [
    {"variances": np.array([1.0, np.nan, 1.0])}, {"variances": np.array([1.0, -1.0, 1.0])},
    {"variances": np.array([1.0, np.inf, 1.0])}, {"variances": np.array([1.0, 2 * MAX_VARIANCE, 1.0])},
    {"variances": np.zeros(0)}, {"variances": np.ones(5)}, {"correlations": b""}, {"correlations": b"12"},
])  # fmt: skip
def test_what_are_no_covariances_is_refused(changes: dict[str, object]) -> None:
    sent = structs.asdict(SentCovariances.of(covariances()))
    with pytest.raises(ValueError, match="covariances"):
        SentCovariances(**(sent | changes))


def test_any_bytes_are_correlations() -> None:
    every = bytes(range(256))
    sent = SentCovariances(3, np.ones(16), every)
    values = sent.correlations_at(0)
    assert values.min() >= -1 and values.max() <= 1
    np.testing.assert_array_equal(values, values.T)


def with_covariances() -> Manifest:
    """A version of two features and windows of three events."""
    shape = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    return replace(version(), covariances=LagCovariances(40, shape))


def test_a_version_file_holds_the_fleets() -> None:
    manifest = with_covariances()
    again = Manifest.unpack(manifest.pack())
    assert again.covariances is not None and manifest.covariances is not None
    assert again.covariances.count == 40
    np.testing.assert_array_equal(again.covariances.values, manifest.covariances.values)
    assert again.hash == manifest.hash != version().hash
    assert Manifest.unpack(version().pack()).covariances is None


def test_features_in_another_order_keep_their_covariances() -> None:
    turned = with_covariances().aligned(Schema(("b", "a"))).covariances
    assert turned is not None
    assert turned.values[1].tolist() == [[7, 6], [5, 4]]


def test_a_version_refuses_those_of_another_model() -> None:
    with pytest.raises(ManifestError, match=r"covariances have the shape \(4, 3, 3\)"):
        replace(version(), covariances=covariances())


@pytest.mark.parametrize("values", [
    np.full((1, 2, 2), np.nan, np.float32), -np.ones((1, 2, 2), np.float32), np.zeros((1, 2, 3), np.float32),
    np.zeros((1, 2, 2)),
])  # fmt: skip
def test_values_that_are_no_covariances_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="covariances"):
        LagCovariances(4, values)
