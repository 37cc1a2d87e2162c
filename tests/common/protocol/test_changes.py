from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression.choice import Block
from common.formats.bundle import BundleError
from common.model.manifest import Manifest
from common.model.version_settings import VersionSettings
from common.protocol.changes import VersionChange, VersionMismatchError, VersionMissing, VersionStep
from common.protocol.messages import Task, TaskOptions
from common.protocol.wire import ProtocolError, name_in
from tests.common.sample_chains import chain, manifest

TERMS = TaskOptions("sign", True, (3, 4), (5,))


def change(**changes: Any) -> VersionChange:
    made, steps = chain()
    return replace(VersionChange.of(Task(made[-1], 2, TERMS), tuple(steps)), **changes)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_who_holds_any_version_of_the_chain_gets_the_last(start: int) -> None:
    made, _ = chain()
    task = VersionChange.unpack(change().pack()).applied(made[start])
    assert task.manifest.hash == made[-1].hash
    assert (task.again, task.terms) == (2, TERMS)


def test_who_holds_the_version_needs_no_steps() -> None:
    made, _ = chain()
    assert VersionChange.of(Task(made[-1]), ()).applied(made[-1]).manifest.hash == made[-1].hash


@pytest.mark.parametrize(
    ("held", "changes"),
    [
        (manifest(2), {}),
        (manifest(9), {}),
        (replace(manifest(), settings=VersionSettings.parse({"training": {"epochs": 2}})), {}),
        (manifest(), {"hash": "0" * 64}),
        (manifest(), {"steps": ()}),
        (manifest(), {"steps": tuple((v, Block("int8", b"")) for v in (4, 5, 6))}),
        (manifest(), {"steps": ((4, Block("sparse", b"")), (5, Block("none", b"")))}),
        (manifest(), {"steps": ((4, Block("none", np.full(17, np.inf, "<f4").tobytes())),)}),
    ],
)
def test_what_leads_to_nothing_sound_is_said(held: Manifest, changes: dict[str, Any]) -> None:
    with pytest.raises(VersionMismatchError):
        change(**changes).applied(held)


def test_a_step_comes_back_from_its_file() -> None:
    _, steps = chain(1)
    assert VersionStep.unpack(steps[0].pack()) == steps[0]


@pytest.mark.parametrize("content", [b"", b"noise", VersionMissing("a", "b").pack(), manifest().pack()])
def test_what_is_no_step_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        VersionStep.unpack(content)


@settings(deadline=None)
@given(st.data())
def test_any_bytes_are_a_change_or_refused(data: st.DataObject) -> None:
    packed = change().pack()
    at, noise = data.draw(st.integers(0, len(packed) - 1)), data.draw(st.binary(min_size=1, max_size=8))
    for content in (noise, packed[:at], packed[:at] + noise + packed[at + len(noise) :]):
        name_in(content)
        with suppress(ProtocolError, VersionMismatchError):
            assert VersionChange.unpack(content).applied(manifest()).manifest.hash == chain()[0][-1].hash
