"""One message of each kind, and messages with single fields changed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from common.compression.choice import Block
from common.compression.zstd import MAGIC, decompress
from common.detectors.oblivious_trees import LEAVES, TREES
from common.formats import bundle
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import SentCovariances
from common.model.leaf_counts import LeafCounts, SentLeafCounts
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.messages import (
    Describe,
    Description,
    Evaluation,
    Message,
    Task,
    TaskOptions,
    Traffic,
    Update,
    VersionChange,
    VersionMissing,
    WholeVersion,
)
from common.protocol.wire import MAX_COMPRESSED_BYTES, PROTOCOL, pack

SUMMARY = ErrorSummary(count=5, mean=0.5, p50=0.25, p95=0.75, p99=0.875, max=1.0)
ARCHITECTURE = Architecture(2, window=1, hidden=(3,))
MOMENTS = Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]]))
SCORES = ScoreHistogram.of(np.arange(200.0))
RESIDUALS = Residuals.of(np.array([[4.0, 9.0]]))
BLOCK = Block("int8", b"some bytes")
COVARIANCES = SentCovariances(5, np.array([1.0, 2.0]), bytes([127, 3, 3, 127]))
LEAF_COUNTS = SentLeafCounts.of(LeafCounts(5, np.eye(TREES, LEAVES, dtype=np.int64) * 5), seed=7)
OPTIONS = TaskOptions("ternary:0.1", True, (3, 4), (5,), False, True, True)
MANIFEST = Manifest(
    version=3,
    schema=Schema(("cpu", "memory")),
    architecture=ARCHITECTURE,
    weights=ARCHITECTURE.initial_weights(0),
    moments=MOMENTS,
    settings=VersionSettings(),
)
MEASURED: dict[str, Any] = {
    "client": "edge-1", "version": 3, "rows": 100, "error": SUMMARY, "scores": SCORES, "drifted": False,
    "traffic": Traffic(1, 2, 3, 4, 0.5), "residuals": RESIDUALS,
}  # fmt: skip
MESSAGES: dict[str, Message] = {
    "Describe": Describe("no work"),
    "Description": Description("edge-1", "f00", Schema(("cpu", "memory")), MOMENTS, inline=True),
    "Evaluation": Evaluation(**MEASURED),
    "Update": Update(
        **MEASURED,
        loss=0.125,
        train_s=1.5,
        serial=7,
        block=BLOCK,
        covariances=COVARIANCES,
        leaf_counts=LEAF_COUNTS,
    ),
    "WholeVersion": WholeVersion.of(Task(MANIFEST, 2, OPTIONS)),
    "VersionChange": VersionChange(5, "0" * 64, ((4, BLOCK), (5, BLOCK)), SCORES, RESIDUALS, 2, OPTIONS),
    "VersionMissing": VersionMissing("edge-1", "no version is held"),
}
KINDS = [type(message) for message in MESSAGES.values()]
_TAGS = {kind.__name__: kind.__struct_config__.tag for kind in KINDS}


def decompressed(content: bytes) -> bytes:
    return decompress(content, MAX_COMPRESSED_BYTES) if content.startswith(MAGIC) else content


def fields_of(content: bytes) -> list[Any]:
    """Return the number of a packed message's kind, and its fields."""
    if content[0] == PROTOCOL:
        return msgspec.msgpack.decode(decompressed(content[1:]))
    header, _ = bundle.unpack(decompressed(content))
    return [_TAGS[header["message"]], *header["fields"]]


def packed(name: str, fields: Any) -> bytes:
    """Return a message of this name with any number of a kind and any fields."""
    if name in ("Describe", "Description"):
        fields = fields[1:] if isinstance(fields, list) else fields
        return bundle.pack({"message": name, "protocol": PROTOCOL, "fields": fields}, {})
    return bytes([PROTOCOL]) + msgspec.msgpack.encode(fields)


def changed(name: str, path: tuple[int, ...], value: Any) -> bytes:
    """Return a message with the value at a path of indices replaced."""
    fields = inner = fields_of(pack(MESSAGES[name]))
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return packed(name, fields)
