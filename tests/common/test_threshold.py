from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from common.settings import ThresholdSettings
from common.threshold import threshold

SCORES = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(0, 1e6, width=32))


@given(SCORES, st.floats(0.01, 0.999))
def test_about_the_quantile_of_normal_scores_lies_below(scores: NDArray[np.float32], quantile: float) -> None:
    found = threshold(ThresholdSettings(quantile=quantile), scores)
    assert isinstance(found, float)
    slack = 1 + 1e-6
    assert (scores > found * slack).sum() <= (1 - quantile) * (len(scores) - 1) + 1
    assert (scores < found / slack).sum() <= quantile * (len(scores) - 1) + 1


@given(SCORES, st.floats(0.01, 0.999), st.floats(0.01, 0.999))
def test_a_higher_quantile_never_lowers_the_threshold(
    scores: NDArray[np.float32], a: float, b: float
) -> None:
    low, high = (threshold(ThresholdSettings(quantile=q), scores) for q in sorted((a, b)))
    assert low <= high * (1 + 1e-6)


@pytest.mark.parametrize("scores", [np.array([1.0, 2.0], np.float32), np.array([], np.float32)])
def test_a_fixed_value_replaces_the_quantile(scores: NDArray[np.float32]) -> None:
    assert threshold(ThresholdSettings(value=0.25), scores) == 0.25
