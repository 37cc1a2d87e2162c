"""Bounded types of message fields: a value outside its bounds is refused when a message is decoded."""

from __future__ import annotations

import sys
from typing import Annotated

from msgspec import Meta

MAX_COUNT = 10**12
"""Upper bound of all counts: no machine trains on more rows, and a larger count would outweigh all others."""

MAX_TOTAL, MAX_SERIAL, MAX_SECONDS = 10**18, 2**53, 1e12

MAX_NAME, MAX_FEATURE_NAME, MAX_CODEC_NAME, MAX_TEXT = 255, 1024, 64, 65_536
"""Longest texts, in characters: the name of a client, of a feature, of a codec, and a sentence."""

MAX_FEATURES, MAX_CODECS, MAX_LIST = 65_536, 64, 65_536
"""Longest lists: names of features, names of codecs, and all others."""

Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Any number but NaN and the infinities."""

NonNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Share = Annotated[float, Meta(ge=0, le=1)]

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Total = Annotated[int, Meta(ge=0, le=MAX_TOTAL)]
"""A sum of counts or of bytes."""

Serial = Annotated[int, Meta(ge=0, le=MAX_SERIAL)]

ClientName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
FeatureName = Annotated[str, Meta(max_length=MAX_FEATURE_NAME)]
FeatureNames = Annotated[tuple[FeatureName, ...], Meta(min_length=1, max_length=MAX_FEATURES)]
CodecName = Annotated[str, Meta(max_length=MAX_CODEC_NAME)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 as hexadecimal digits."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
