from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.formats.strict_yaml import dump, parse

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.text(alphabet="0123456789eE.+-_:xobnNyY~", max_size=8)
)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)))
@example("0E0")
@example({"1e5": "-.5e-3"})
def test_what_is_dumped_is_read_as_the_same_value(value: Any) -> None:
    assert parse(dump(value)) == value


@pytest.mark.parametrize(("text", "value"), [("0E0", 0.0), ("-1.5e+3", -1500.0), (".5e1", 5.0), ("1e", "1e")])
def test_a_number_may_have_an_exponent(text: str, value: Any) -> None:
    assert parse(text) == value
