from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from common.formats.bundle import BundleError, as_dataclass, pack, unpack

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.text(), JSON, max_size=4)
ARRAYS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=3,
)


def equal(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return a.keys() == b.keys() and all(
        (a[n].dtype, a[n].shape, a[n].tobytes()) == (b[n].dtype, b[n].shape, b[n].tobytes()) for n in a
    )


@settings(deadline=None)
@given(FIELDS, ARRAYS)
def test_what_was_packed_comes_back(fields: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    result, back = unpack(pack(fields, arrays))
    assert result == fields
    assert equal(back, arrays)


@settings(deadline=None)
@given(FIELDS, ARRAYS)
def test_equal_inputs_give_equal_bytes(fields: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    backwards = dict(reversed(fields.items())), dict(reversed(arrays.items()))
    assert pack(fields, arrays) == pack(*backwards)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.broadcast_to(np.float32(3), (2, 2)),
    ],
    ids=["strided", "fortran", "big endian", "broadcast"],
)
def test_the_layout_in_memory_does_not_matter(array: NDArray[Any]) -> None:
    back = unpack(pack({}, {"a": array}))[1]["a"]
    assert np.array_equal(back, array)
    assert back.shape == array.shape


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError):
        pack({"loss": float("nan")}, {})


def raw(header: bytes, content: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + content


EMPTY = b'"__metadata__":{"flockwatch":"{}"}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        raw(b"{}"),
        raw(b"[]"),
        raw(b"not json"),
        raw(b'{"__metadata__":{"flockwatch":"\xff"}}'),
        raw(b'{"__metadata__":{"other":"{}"}}'),
        raw(b'{"__metadata__":{"flockwatch":3}}'),
        raw(b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},' + EMPTY, b"ab"),
        raw(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]},' + EMPTY, b"abcd"),
        save({"a": np.ones(2)}),
        *(save({}, metadata={"flockwatch": t}) for t in ("", "[]", "3", "null", "{", "NaN", "1" * 5000)),
    ],
    ids=lambda content: repr(content[:60]),
)  # fmt: skip
def test_content_that_is_not_a_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        unpack(content)


def test_fields_nested_too_deep_are_refused() -> None:
    with pytest.raises(BundleError):
        unpack(save({}, metadata={"flockwatch": '{"a":' + "[" * 100_000}))


@settings(deadline=None)
@given(
    st.binary(max_size=60) | st.binary(max_size=60).map(raw) | JSON.map(lambda v: raw(json.dumps(v).encode()))
)
def test_any_bytes_are_a_bundle_or_refused(content: bytes) -> None:
    try:
        fields, arrays = unpack(content)
    except BundleError:
        return
    assert isinstance(fields, dict)
    assert isinstance(arrays, dict)


@settings(deadline=None)
@given(FIELDS, ARRAYS, st.data())
def test_a_bundle_cut_short_is_refused(
    fields: dict[str, Any], arrays: dict[str, NDArray[Any]], data: st.DataObject
) -> None:
    content = pack(fields, arrays)
    with pytest.raises(BundleError):
        unpack(content[: data.draw(st.integers(0, len(content) - 1))])


def test_a_bundle_runs_no_code() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    with pytest.raises(SafetensorError, match="object"):
        pack({}, {"a": np.array([Bomb()], dtype=object)})


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    counts: tuple[int, ...]
    inner: Inner


SOUND = {"name": "edge-1", "counts": [1, 2], "inner": {"share": 0.5}}


def test_sound_fields_become_the_dataclass() -> None:
    assert as_dataclass(Outer, SOUND) == Outer("edge-1", (1, 2), Inner(0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "'name': .*string"),
        ({"name": None}, "'name': .*string"),
        ({"counts": ["1"]}, "'counts.0': .*integer"),
        ({"counts": [1.5]}, "'counts.0': .*integer"),
        ({"counts": 3}, "'counts': "),
        ({"inner": {"share": "0.5"}}, "'inner.share': .*number"),
        ({"inner": {}}, "'inner.share': .*required"),
        ({"inner": [0.5]}, "'inner': "),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        as_dataclass(Outer, {**SOUND, **changes})


@pytest.mark.parametrize("fields", [None, [], "x", {}, {"name": "edge-1"}])
def test_fields_that_are_missing_are_refused(fields: Any) -> None:
    with pytest.raises(BundleError):
        as_dataclass(Outer, fields)


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(BundleError):
        as_dataclass(Outer, {**SOUND, "name": "\ud800"})
