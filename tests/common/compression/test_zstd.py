from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from common.compression.zstd import MAGIC, ZstdError, compress, decompress


@given(st.binary(max_size=2000))
def test_compressed_content_comes_back(content: bytes) -> None:
    assert compress(content).startswith(MAGIC)
    assert decompress(compress(content), len(content)) == content


def test_a_frame_may_not_hold_more_than_is_allowed() -> None:
    with pytest.raises(ZstdError, match="holds 1000 bytes, at most 999"):
        decompress(compress(bytes(1000)), 999)


def test_a_frame_must_state_its_size() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)
    with pytest.raises(ZstdError, match="unknown"):
        decompress(silent, 1000)


@pytest.mark.parametrize("content", [b"", b"abc", compress(b"a" * 50)[:-1], compress(b"abc") + b"d"])
def test_content_that_is_not_a_whole_frame_is_refused(content: bytes) -> None:
    with pytest.raises(ZstdError):
        decompress(content, 1000)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_frame_or_refused(noise: bytes) -> None:
    for content in (noise, MAGIC + noise, compress(b"abc" * 20)[: len(noise)] + noise):
        try:
            assert len(decompress(content, 10_000)) <= 10_000
        except ZstdError:
            continue
