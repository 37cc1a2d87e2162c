from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    with pytest.raises(SchemaError, match=r"^features named twice: a, b$"):
        Schema(("b", "a", "b", "c", "a"))
