"""Versions of format 3, which release 0.1.0 wrote, are read."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest

from common.formats.bundle import pack, unpack
from common.model.earlier_format import EarlierFormatError, _histogram
from common.model.manifest import Manifest, ManifestError
from common.model.weights import digest
from tests.client import sample_versions


def raw_sketch(scores: list[float]) -> bytes:
    """A REQ sketch of up to four scores, as DataSketches writes it."""
    return struct.pack("<BBBBHBB", 2, 1, 17, 8 | 16, 32, 1, len(scores)) + np.array(scores, "<f4").tobytes()


def level_sketch(levels: list[list[float]]) -> bytes:
    """A REQ sketch of several levels."""
    count = sum(len(scores) << i for i, scores in enumerate(levels))
    parts = [struct.pack("<BBBBHBB", 4, 1, 17, 8, 32, len(levels), 0), struct.pack("<Qff", count, 0, 9)]
    for i, scores in enumerate(levels):
        parts += [struct.pack("<QfBBHI", 0, 32.0, i, 3, 0, len(scores)), np.array(scores, "<f4").tobytes()]
    return b"".join(parts)


def test_scores_are_counted_by_their_level() -> None:
    assert _histogram(raw_sketch([1.0, 2.0])).count == 2
    result = _histogram(level_sketch([[1.0, 2.0], [3.0], [4.0, 5.0]]))
    assert result.count == 2 + 2 + 8
    assert result.quantile(0.0) == pytest.approx(1.0, rel=0.01)
    assert result.quantile(1.0) == pytest.approx(5.0, rel=0.01)
    assert _histogram(struct.pack("<BBBBHBB", 2, 1, 17, 4 | 8, 32, 0, 0)).count == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, level_sketch([[1.0], [2.0]])[:-2], raw_sketch([np.inf]), raw_sketch([-1.0])],
)
def test_damaged_scores_are_an_error(content: bytes) -> None:
    with pytest.raises(EarlierFormatError):
        _histogram(content)


def sealed(version: int = 7, **changes: object) -> bytes:
    """A file of format 3 of a version of this program."""
    fields, arrays = unpack(sample_versions.version(version).pack())
    arrays["scores"] = np.frombuffer(level_sketch([[1.0, 2.0], [3.0]]), np.uint8)
    fields = {**fields, "format": 3, **changes}
    del fields["hash"]
    fields["settings"].pop("detector", None)
    hashed = {k: v for k, v in fields.items() if k != "personalised" or v}
    text = f"{json.dumps(hashed, sort_keys=True)}{digest(arrays)}"
    return pack({**fields, "hash": hashlib.sha256(text.encode()).hexdigest()}, arrays)


def test_a_version_of_an_earlier_release_is_read_and_written_in_the_present_format() -> None:
    read = Manifest.unpack(sealed())
    assert (read.version, read.scores.count, read.personalised) == (7, 4, True)
    assert read.settings.detector.family == "autoencoder"
    again = Manifest.unpack(read.pack())
    assert again.hash == read.hash


def test_a_damaged_version_of_an_earlier_release_is_refused() -> None:
    content = bytearray(sealed())
    content[-3] ^= 1
    with pytest.raises(ManifestError, match="hash is"):
        Manifest.unpack(bytes(content))


def test_a_version_of_the_fleet_stays_the_fleets() -> None:
    assert not Manifest.unpack(sealed(personalised=False)).personalised
