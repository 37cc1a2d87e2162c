"""Bounded types of message fields: a value outside its bounds is refused when the message is decoded."""

from __future__ import annotations

import sys
from typing import Annotated

from msgspec import Meta

MAX_COUNT = 10**12
"""Upper bound of all counts: no machine trains on more rows, and a larger count would outweigh all others."""

MAX_NAME = 255
"""Characters in a client's name."""

MAX_FEATURE_NAME = 1024
"""Characters in a feature's name."""

MAX_FEATURES = 65_536

Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Any number but NaN and the infinities."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Share = Annotated[float, Meta(ge=0, le=1)]
ClientName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
FeatureName = Annotated[str, Meta(max_length=MAX_FEATURE_NAME)]
