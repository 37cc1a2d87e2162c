from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from safetensors.numpy import load

from common.formats.bundle import pack, unpack
from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema, SchemaError
from common.model.scoring import scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture, digest

NAMES = st.lists(st.text(max_size=6), min_size=1, max_size=3, unique=True).map(tuple)


SCORES = ScoreHistogram.of(np.arange(300.0))


def manifest(features: tuple[str, ...] = ("cpu", "mémoire"), seed: int = 0, **changes: Any) -> Manifest:
    architecture = Architecture(len(features), window=2, hidden=(3,))
    rows = np.random.default_rng(seed).normal(size=(9, len(features)))
    values: dict[str, Any] = {
        "version": 3,
        "schema": Schema(features),
        "architecture": architecture,
        "weights": architecture.initial_weights(seed),
        "moments": Moments.of(rows),
        "settings": VersionSettings.parse(
            {"training": {"epochs": 2, "learning_rate": 0.001}, "model": {"hidden": [3]}}
        ),
        "scores": SCORES,
        "residuals": Residuals.of(np.arange(1.0, 2 * len(features) + 1)[None]),
    }
    return Manifest(**{**values, **changes})


def contents(m: Manifest) -> dict[str, Any]:
    """Everything that a manifest holds, in a form that can be compared."""
    return {
        "version": m.version,
        "features": m.schema.features,
        "architecture": asdict(m.architecture),
        "weights": digest(m.weights),
        "moments": {n: v.tolist() if n != "count" else v for n, v in structs.asdict(m.moments).items()},
        "settings": m.settings.values,
        "scores": m.scores.pack().hex(),
        "residuals": m.residuals.packed().tolist(),
    }


TRAINING = st.fixed_dictionaries({"epochs": st.integers(1, 9), "holdout": st.floats(0, 0.5)})
SETTINGS = st.fixed_dictionaries({}, optional={"training": TRAINING}).map(VersionSettings.parse)
PACKED = manifest().pack()


@settings(deadline=None)
@given(NAMES, st.integers(0, 99), st.integers(0, 10**9), SETTINGS)
def test_a_packed_manifest_unpacks_to_the_same(
    names: tuple[str, ...], seed: int, version: int, values: Any
) -> None:
    original = manifest(names, seed, version=version, settings=values)
    back = Manifest.unpack(original.pack())
    assert contents(back) == contents(original)
    assert back.hash == original.hash
    assert back.pack() == original.pack()


def test_the_parts_of_the_file_format() -> None:
    fields, arrays = unpack(PACKED)
    assert sorted(fields) == [
        "architecture", "count", "features", "format", "hash", "personalised", "settings", "version"
    ]  # fmt: skip
    assert fields["format"] == 5
    assert {name.split("/")[0] for name in arrays} == {"moments", "residuals", "scores", "weights"}


def test_weights_come_back_in_layer_order_as_float32() -> None:
    back = Manifest.unpack(PACKED)
    assert sorted(back.weights) == sorted(back.architecture.shapes)
    assert {array.dtype for array in back.weights.values()} == {np.dtype(np.float32)}


def test_a_packed_manifest_is_a_safetensors_file() -> None:
    assert "weights/dense_0/kernel" in load(PACKED)


@pytest.mark.parametrize(
    "other",
    [
        manifest(version=4),
        manifest(("cpu", "memory")),
        manifest(("mémoire", "cpu")),
        manifest(settings=VersionSettings()),
        manifest(weights=manifest(seed=1).weights),
        manifest(moments=manifest(seed=1).moments),
        manifest(moments=structs.replace(manifest().moments, count=10)),
        manifest(architecture=Architecture(2, window=2, hidden=(3,), activation="tanh")),
        manifest(scores=ScoreHistogram.of(np.arange(301.0))),
        manifest(personalised=True),
    ],
    ids=["version", "features", "order", "settings", "weights", "moments", "count", "model", "scores", "own"],
)
def test_the_hash_covers_everything(other: Manifest) -> None:
    assert other.hash != manifest().hash


# What cannot be a manifest.


def test_weights_of_another_shape_are_refused() -> None:
    weights = manifest().weights
    with pytest.raises(ManifestError, match="shapes"):
        manifest(weights={**weights, "dense_0/bias": np.zeros(4, np.float32)})
    with pytest.raises(ManifestError, match="shapes"):
        manifest(weights={name: array for name, array in weights.items() if name != "dense_0/bias"})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weights = {name: array.copy() for name, array in manifest().weights.items()}
    weights["dense_1/kernel"][0, 0] = bad
    with pytest.raises(ManifestError, match="version 7 are not finite"):
        manifest(weights=weights, version=7)


# What is read from bytes.

FIELDS, ARRAYS = unpack(PACKED)
REQUIRED = sorted(FIELDS)


def sealed(fields: dict[str, Any], arrays: dict[str, Any] | None = None) -> bytes:
    return pack(fields, ARRAYS if arrays is None else arrays)


@pytest.mark.parametrize("field", REQUIRED)
def test_a_manifest_without_one_of_its_fields_is_refused(field: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.unpack(sealed({name: value for name, value in FIELDS.items() if name != field}))


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_a_manifest_without_one_of_its_arrays_is_refused(name: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.unpack(sealed(FIELDS, {n: a for n, a in ARRAYS.items() if n != name}))


@pytest.mark.parametrize("name", [name for name in sorted(ARRAYS) if name.startswith("moments/")])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.bool_])
def test_moments_of_another_type_are_refused(name: str, kind: Any) -> None:
    with pytest.raises(ManifestError, match=f"'{name}' has numbers of the type {np.dtype(kind)}"):
        Manifest.unpack(sealed(FIELDS, {**ARRAYS, name: ARRAYS[name].astype(kind)}))


def test_the_mark_of_a_personalised_version_is_part_of_its_hash() -> None:
    assert not Manifest.unpack(PACKED).personalised
    own = manifest(personalised=True)
    assert Manifest.unpack(own.pack()).personalised
    fields, arrays = unpack(own.pack())
    for other in ({"personalised": False}, {"personalised": "yes"}):
        with pytest.raises(ManifestError):
            Manifest.unpack(pack({**fields, **other}, arrays))
    with pytest.raises(ManifestError, match="hash"):
        Manifest.unpack(sealed({**FIELDS, "personalised": True}))


@pytest.mark.parametrize(("number", "problem"), [(6, "reads format 5$"), (2, "An earlier release wrote it")])
def test_another_format_is_named(number: int, problem: str) -> None:
    with pytest.raises(ManifestError, match=f"has format {number}; this program reads format 5") as error:
        Manifest.unpack(sealed({**FIELDS, "format": number}))
    assert re.search(problem, str(error.value))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"training": {"epochs": 0}}, "setting 'training.epochs'"),
        ({"training": {"epochs": 10**9}}, "setting 'training.epochs'"),
        ({"training": {"batch_size": 10**9}}, "setting 'training.batch_size'"),
        ({"scoring": {"personal_epochs": 10**9}}, "setting 'scoring.personal_epochs'"),
        ({"scoring": {"novelty": True}}, "setting 'scoring.novelty'"),
        ({"oracle": {}}, "setting 'oracle'"),
        ({"scaling": 3}, "setting 'scaling'"),
    ],
)
def test_settings_that_this_program_does_not_read_are_named(settings: Any, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        Manifest.unpack(sealed({**FIELDS, "settings": settings}))


KINDS: list[Any] = [None, True, -1, 0, 1.5, "", "x", [], ["x"], [[]], {}, {"hidden": ["x"]}, {"hidden": 3}]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_field_of_another_kind_is_refused_or_harmless(field: str) -> None:
    for value in KINDS:
        try:
            Manifest.unpack(sealed({**FIELDS, field: value}))
        except ManifestError:
            continue
        except Exception as error:
            pytest.fail(f"{field} = {value!r}: {type(error).__name__}: {error}")
        assert value == FIELDS[field], f"{field} = {value!r} was accepted"


@pytest.mark.parametrize("field", ["version", "count"])
@pytest.mark.parametrize("value", [2**62, 2**63, 10**30])
def test_a_number_out_of_range_is_refused_before_anything_computes_with_it(field: str, value: int) -> None:
    with pytest.raises(ManifestError, match=f"'{field}'"):
        Manifest.unpack(sealed({**FIELDS, field: value}))


@pytest.mark.parametrize("name", sorted(FIELDS["architecture"]))
def test_an_architecture_of_another_kind_is_refused(name: str) -> None:
    for value in (None, 0, 2.5, "x", [], ["x"], {}):
        architecture = {**FIELDS["architecture"], name: value}
        with pytest.raises(ManifestError):
            Manifest.unpack(sealed({**FIELDS, "architecture": architecture}))


def resealed(**parts: Any) -> bytes:
    """A manifest of an honest but mistaken sender: the hash is right, the parts do not fit together."""
    return manifest(**parts).pack()


@pytest.mark.parametrize(
    "make",
    [
        lambda: resealed(schema=Schema(("one", "two", "three"))),
        lambda: resealed(moments=manifest(("a", "b", "c")).moments),
        lambda: resealed(moments=structs.replace(manifest().moments, mean=np.array([np.nan, 0.0]))),
        lambda: resealed(moments=structs.replace(manifest().moments, m2=np.array([-1.0, 0.0]))),
        lambda: resealed(moments=structs.replace(manifest().moments, count=0)),
        lambda: resealed(architecture=Architecture(2, 2, (3,), activation="gelu")),  # type: ignore[arg-type]
    ],
    ids=["schema", "moments of 3", "moments of NaN", "negative spread", "no rows", "activation"],
)
def test_parts_that_do_not_fit_together_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"moments|features|activation"):  # where they are made, or unpacked
        Manifest.unpack(make())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda b: PACKED[: -len(b) or None] + b))
def test_any_bytes_are_a_manifest_or_refused(content: bytes) -> None:
    with suppress(ManifestError):
        assert Manifest.unpack(content).hash == manifest().hash


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_a_damaged_byte_anywhere_is_refused_or_harmless(flip: int) -> None:
    expected = json.dumps(contents(manifest()), sort_keys=True)
    for place in range(len(PACKED)):
        damaged = bytearray(PACKED)
        damaged[place] ^= flip
        try:
            result = Manifest.unpack(bytes(damaged))
        except ManifestError:
            continue
        except Exception as error:
            pytest.fail(f"byte {place} ^ {flip:#x}: {type(error).__name__}: {error}")
        assert json.dumps(contents(result), sort_keys=True) == expected, f"byte {place} ^ {flip:#x}"


def test_a_manifest_cut_short_anywhere_is_refused() -> None:
    for length in range(0, len(PACKED), 7):
        with pytest.raises(ManifestError):
            Manifest.unpack(PACKED[:length])


def test_a_version_aligned_to_another_order_is_the_same_function() -> None:
    given = manifest(("a", "b", "c"))
    turned = given.aligned(Schema(("c", "a", "b")))
    assert turned.schema.features == ("c", "a", "b")
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    order = [2, 0, 1]
    straight = scores(given.architecture, given.weights, Scaler.of(given.moments).apply(rows))
    result = scores(turned.architecture, turned.weights, Scaler.of(turned.moments).apply(rows[:, order]))
    np.testing.assert_allclose(result, straight, rtol=1e-4)
    assert turned.aligned(given.schema).hash == given.hash
    assert given.aligned(given.schema) is given
    with pytest.raises(SchemaError, match="'x'"):
        given.aligned(Schema(("a", "b", "x")))
