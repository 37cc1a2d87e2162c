"""Fuzzed messages: none ends the federation, keeps an honest client out, or makes a version unusable.

`FLOCKWATCH_FUZZ` is the number of messages that are mutated; `make soak` sends many more.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.protocol.messages import Description, Evaluation, Update, VersionMissing
from common.protocol.wire import ProtocolError, pack, unpack
from tests.common.protocol.sample_messages import MESSAGES
from tests.fuzz import federation
from tests.fuzz.mutations import mutated

MUTATIONS = int(os.environ.get("FLOCKWATCH_FUZZ", "60"))
CORPUS = [pack(MESSAGES[name]) for name in ("Description", "Evaluation", "Update", "VersionMissing")]


@settings(max_examples=300, deadline=None)
@given(message=st.sampled_from(CORPUS), seed=st.integers(0, 2**64))
@example(CORPUS[0], 0)
def test_a_mutated_message_is_understood_or_refused(message: bytes, seed: int) -> None:
    content = mutated(message, random.Random(seed), CORPUS)
    for kind in (Description, Evaluation, Update, VersionMissing):
        try:
            unpack(content, kind)
        except ProtocolError as error:
            assert str(error)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300), first=st.sampled_from([b"", b"\x07", b"\x07\x28\xb5\x2f\xfd"]))
def test_any_bytes_are_understood_or_refused(content: bytes, first: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(first + content, Update)


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_federation_goes_on_under_mutated_messages_of_every_kind(tmp_path: Path, mode: str) -> None:
    sent = federation.run(tmp_path, MUTATIONS, seed=1, mode=mode)
    assert set(sent) >= {"query", "train", "evaluate"}
