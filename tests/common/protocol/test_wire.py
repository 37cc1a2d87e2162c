"""Messages as bytes: small, of one protocol, and refused with a reason."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.compression.choice import Block
from common.compression.zstd import MAGIC, compress
from common.formats import bundle
from common.model.histogram import ScoreHistogram
from common.model.scoring import ErrorSummary
from common.protocol.messages import (
    Describe,
    Description,
    Evaluation,
    Traffic,
    Update,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import MAX_COMPRESSED_BYTES, PROTOCOL, ProtocolError, pack, unpack
from tests.common.protocol.sample_messages import (
    KINDS,
    MANIFEST,
    MEASURED,
    MESSAGES,
    decompressed,
    fields_of,
    packed,
)


@pytest.mark.parametrize("sent", MESSAGES)
@pytest.mark.parametrize("expected", KINDS, ids=lambda kind: kind.__name__)
def test_another_message_is_refused_by_name(sent: str, expected: Any) -> None:
    content = pack(MESSAGES[sent])
    if expected.__name__ == sent:
        assert type(unpack(content, expected)) is expected
    else:
        with pytest.raises(ProtocolError, match=f"expected a {expected.__name__}, received a {sent}"):
            unpack(content, expected)


def test_either_of_two_messages_may_be_expected() -> None:
    assert isinstance(unpack(pack(MESSAGES["Update"]), Update, VersionMissing), Update)
    assert isinstance(unpack(pack(MESSAGES["VersionMissing"]), Update, VersionMissing), VersionMissing)
    with pytest.raises(ProtocolError, match="expected a Update or a VersionMissing, received a Evaluation"):
        unpack(pack(MESSAGES["Evaluation"]), Update, VersionMissing)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes([PROTOCOL]),
        bytes([PROTOCOL]) + b"\x90",
        bytes([PROTOCOL]) + b"\x91\x63",
        bytes([PROTOCOL]) + b"\x92\x04" + b"\x91" * 10_000,
        bytes([PROTOCOL]) + b"\xc1",
        packed("Update", [99]),
        packed("Update", ["Update"]),
        packed("Describe", None),
        bundle.pack({"message": "Update", "protocol": PROTOCOL, "fields": []}, {}),
        bundle.pack({"message": ["Describe"], "protocol": PROTOCOL, "fields": []}, {}),
        bundle.pack({"message": "Describe", "protocol": PROTOCOL}, {}),
        MANIFEST.pack(),
    ],
)
def test_content_that_is_not_a_message_is_refused(content: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(ProtocolError, match=rf"not a {kind.__name__}: \S"):
            unpack(content, kind)


def test_a_message_of_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(
        ProtocolError, match=r"^Evaluation is incomplete or wrong: error.p95: Expected `float`"
    ):
        fields = fields_of(pack(MESSAGES["Evaluation"]))
        fields[4][3] = "high"
        unpack(packed("Evaluation", fields), Evaluation)


def test_a_compressed_message_may_not_grow_without_end() -> None:
    for bomb in (compress(bytes(MAX_COMPRESSED_BYTES + 1)), compress(b"x" * 10), MAGIC):
        for content in (bomb, bytes([PROTOCOL]) + bomb):
            with pytest.raises(ProtocolError, match="not a WholeVersion"):
                unpack(content, WholeVersion)


def test_only_messages_that_compression_makes_smaller_are_compressed() -> None:
    whole = pack(WholeVersion(bytes(1000), 0, MESSAGES["WholeVersion"].options))  # type: ignore[attr-defined]
    assert whole[1:].startswith(MAGIC)
    noise = np.random.default_rng(0).bytes(1000)
    assert noise in pack(WholeVersion(noise, 0, MESSAGES["WholeVersion"].options))  # type: ignore[attr-defined]


def test_little_of_an_update_is_sent_besides_its_block() -> None:
    own = np.random.default_rng(0)
    error = ErrorSummary.of(own.gamma(1, 1, 864).astype(np.float32))
    traffic = Traffic(123456, 654321, 77777, 43210, 1.234567, 0.012345, 0.023456)
    changes = {"error": error, "scores": ScoreHistogram.empty(), "traffic": traffic}
    block = Block("ternary:0.1", own.bytes(2000))
    sent = Update(**{**MEASURED, **changes}, loss=0.123, train_s=0.234, serial=2**39, block=block)
    assert len(pack(sent)) - 2000 < 200


# Peers of another protocol: the first messages must say which side is too old.

OF_PROTOCOL_5 = {
    "Describe": (
        "KLUv/SBwBQMA4kUUGZCpORBVE8E29iHab0lJephDyhzrk7Ev2gK2bbu1t3OSg1mVGJsCBylaKCF+Bvx2UEiqVvBz+S0hlVrkx15+6MqE"
        "QdExzsoRc6XJtQjiWXEEBAAzw2jGFT/DGUAb"
    ),
    "Description": (
        "KLUv/WCYAd0JADYQNymQp23//////7+kLWu1k0SL7LdNVrLMFARq/gqCdMtvI4bNsivy1/izDSoAKQAqAP6q43YobgmBK55zOxi3px6l"
        "49ZgxpD7XiS4KiE3GD9Pf79+n8/DDQNAEy7ZP1iU3KRDDFunTylybqVv9ysbPn8Y7VMkhxvzNK7ku0rotFJuiesCsLJylERDlxUvC4EZ"
        "e8T4p0xWE08Fsrr61Ua0xo+iddcPFH0vgkBujvbfzcFgQaAZCDg0hmOaHIRRy4rQx8WyFLPQyCxKQdB2BaFWMqUZFdpZiUISjO/7hQEo"
        "KFACMRJ2DBEQsZcsR/n/9QTYFNFsXA0gU04KBtXnn15rdYUfbTcDOLT/C32vNPGGCSAiCoihzeQ5mfpAFxT/xuWM8x8KFoQfVpWeesCC"
        "L9GZvA1ltA3YbGbgBg=="
    ),
}
"""As the last program of protocol 5 packed them."""


@pytest.mark.parametrize("name", OF_PROTOCOL_5)
@pytest.mark.parametrize("expected", [Describe, Description])
def test_a_peer_of_protocol_5_is_recognised(name: str, expected: Any) -> None:
    with pytest.raises(
        ProtocolError,
        match=f"^{name} of protocol 5, but this program speaks {PROTOCOL}: upgrade the older side$",
    ):
        unpack(base64.b64decode(OF_PROTOCOL_5[name]), expected)


@pytest.mark.parametrize("name", OF_PROTOCOL_5)
@pytest.mark.parametrize("protocol", [0, PROTOCOL + 1])
def test_another_protocol_asks_for_an_upgrade(name: str, protocol: int) -> None:
    fields = {"message": name, "protocol": protocol, "anything": None}
    with pytest.raises(ProtocolError, match=f"protocol {protocol}, but this program speaks {PROTOCOL}: upgr"):
        unpack(bundle.pack(fields, {"array": np.zeros(3)}), type(MESSAGES[name]))


@pytest.mark.parametrize("name", OF_PROTOCOL_5)
def test_a_peer_of_protocol_5_can_read_which_protocol_an_introduction_has(name: str) -> None:
    """It reads a safetensors file, compressed or not, with these two fields in its metadata."""
    fields, _ = bundle.unpack(decompressed(pack(MESSAGES[name])))
    assert (fields["message"], fields["protocol"]) == (name, PROTOCOL)


VALUES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=20) | st.lists(st.integers(0, 9) | st.text(max_size=3), max_size=3)
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_any_bytes_are_a_message_or_refused(name: str, data: st.DataObject) -> None:
    whole = pack(MESSAGES[name])
    plain = whole[:1] + decompressed(whole[1:]) if whole[0] == PROTOCOL else decompressed(whole)
    at = data.draw(st.integers(0, len(plain) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=8))
    contents = [noise, whole[:at], plain[:at], plain[:at] + noise + plain[at + len(noise) :]]
    if name not in OF_PROTOCOL_5:
        fields = fields_of(whole)
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(VALUES)
        contents.append(packed(name, fields))
    for content in contents:
        for kind in KINDS:
            with suppress(ProtocolError):
                assert isinstance(unpack(content, kind), kind)
