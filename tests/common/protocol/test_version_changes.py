from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression.choice import Block
from common.model.manifest import Manifest, ManifestError
from common.model.version_settings import VersionSettings
from common.protocol.messages import (
    Task,
    TaskOptions,
    VersionChange,
    VersionMismatchError,
    WholeVersion,
)
from common.protocol.wire import ProtocolError, pack, unpack
from tests.common.sample_chains import chain, manifest

OPTIONS = TaskOptions("topk:0.1", True, (3, 4), (5,))


def change(**changes: Any) -> VersionChange:
    made, steps = chain()
    return msgspec.structs.replace(VersionChange.of(Task(made[-1], 2, OPTIONS), tuple(steps)), **changes)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_who_holds_any_version_of_the_chain_gets_the_last(start: int) -> None:
    made, _ = chain()
    task = unpack(pack(change()), VersionChange).applied(made[start])
    assert task.manifest.hash == made[-1].hash
    assert (task.repeats, task.options) == (2, OPTIONS)


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
def test_a_change_that_does_not_lead_to_a_sound_version_is_refused(
    held: Manifest, changes: dict[str, Any]
) -> None:
    with pytest.raises(VersionMismatchError):
        change(**changes).applied(held)


def test_a_whole_version_is_a_task() -> None:
    sent = WholeVersion.of(Task(manifest(), 4, OPTIONS))
    task = unpack(pack(sent), WholeVersion).task()
    assert (task.manifest.hash, task.repeats, task.options) == (manifest().hash, 4, OPTIONS)


def test_a_damaged_manifest_in_a_whole_version_is_refused() -> None:
    content = bytearray(manifest().pack())
    content[content.index(manifest().weights["dense_0/kernel"].tobytes())] ^= 1
    with pytest.raises(ManifestError, match="hash is"):
        WholeVersion(bytes(content), 0, OPTIONS).task()


@settings(deadline=None)
@given(st.data())
def test_any_bytes_are_a_change_or_refused(data: st.DataObject) -> None:
    packed = pack(change())
    at, noise = data.draw(st.integers(0, len(packed) - 1)), data.draw(st.binary(min_size=1, max_size=8))
    for content in (noise, packed[:at], packed[:at] + noise + packed[at + len(noise) :]):
        with suppress(ProtocolError, VersionMismatchError):
            assert unpack(content, VersionChange).applied(manifest()).manifest.hash == chain()[0][-1].hash
