from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bounds import MAX_FEATURES
from common.model.schema import Schema, SchemaError

NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True)


@given(NAMES, st.randoms())
def test_aligned_columns_stand_in_schema_order(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    schema = Schema(tuple(names))
    assert [shuffled[i] for i in schema.align(shuffled)] == names
    assert len(schema) == len(names)


@given(NAMES, NAMES)
def test_different_schemas_have_different_hashes(a: list[str], b: list[str]) -> None:
    assert (Schema(tuple(a)).hash == Schema(tuple(b)).hash) == (a == b)


def test_the_hash_depends_on_the_order() -> None:
    assert Schema(("cpu", "memory")).hash != Schema(("memory", "cpu")).hash


def test_the_hash_is_the_same_in_every_process() -> None:
    command = "from common.model.schema import Schema; print(Schema(('cpu', 'mémoire')).hash)"
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == Schema(("cpu", "mémoire")).hash


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        (["cpu"], "missing 'memory', 'disk'"),
        (["cpu", "memory", "disk", "fan"], "extra 'fan'"),
        (["cpu", "memory", "Disk"], "missing 'disk'; extra 'Disk'"),
        ([], "missing 'cpu', 'memory', 'disk'"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns: list[str], difference: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema(("cpu", "memory", "disk")).align(columns)
    assert str(caught.value) == f"columns differ from the federation's 3 features: {difference}"


def test_a_schema_without_features_is_refused() -> None:
    with pytest.raises(SchemaError, match="at least one feature"):
        Schema(())


def test_features_named_twice_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"^features named twice: 'a', 'b'$"):
        Schema(("b", "a", "b", "c", "a"))


def test_errors_about_many_long_names_are_short_and_quick() -> None:
    """A client may send so many. Comparing each with each would take minutes."""
    many = [f"{i}{'x' * 1000}" for i in range(MAX_FEATURES)]
    others = [f"other {name}" for name in many]
    started = time.process_time()
    with pytest.raises(SchemaError) as differ:
        Schema(tuple(many)).align(others)
    with pytest.raises(SchemaError) as twice:
        Schema((*many[: MAX_FEATURES // 2], *many[: MAX_FEATURES // 2]))
    assert Schema(tuple(many)).align(many[::-1]) == list(range(MAX_FEATURES))[::-1]
    assert time.process_time() - started < 10
    assert len(str(differ.value)) < 2000 and "and 65526 more" in str(differ.value)
    assert len(str(twice.value)) < 1000 and "and 32758 more" in str(twice.value)
