"""Cells as text: a number, a switch, a missing value, or none of these."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
"""Pattern of text that is a number."""
MISSING = (
    r"(?i)^\s*([+-]?(nan|inf|infinity)|[+-]?1\.#(ind|inf|qnan)|null|nil|none|n/?a|#n/a|<na>|nat|unavailable|unknown|"
    r"missing|undefined|offline|\(empty\)|[-?.*\x00]*)\s*$"
)
"""Pattern of text that stands for a missing number."""
SWITCH_ON, SWITCH_OFF = ("true", "on", "yes", "t"), ("false", "off", "no", "f")
"""Words for 1 and 0, in lower case."""
SWITCH = rf"(?i)^\s*({'|'.join((*SWITCH_ON, *SWITCH_OFF))})\s*$"
_DIGITS = (
    r"(\d{1,3}([,' _\x{2019}\x{a0}\x{202f}]\d{3})+([.,]\d+)?|\d{1,3}(\.\d{3}){2}|\d{1,3}(\.\d{3})+,\d+|"
    r"\d+([.,]\d+)?)([eEdD][+-]?\d+)?"
)
"""Digits with a decimal point or comma, and separators of thousands; three points may be an address."""
_UNIT = (
    r"[a-zA-Zµμ°Ω²³/%‰€$£¥]{1,8}|[a-zA-Z]{1,5}[23]?/[a-zA-Z]{1,5}[23]?|\s[a-zA-Z]{1,5}[23]|\s?deg\.? ?[CFK]|"
    r"\s?1/[a-z]{1,3}"
)
QUANTITY = (
    r"""^\s*["'(]?([~≈<>≤≥]=?\s?)?([$€£¥]|(EUR|USD|GBP|CHF|JPY)\s?)?[+\x{2212}-]?\s?"""
    rf"""[$€£¥]?{_DIGITS}\s?({_UNIT})?["')]?\s*$"""
)
"""Pattern of text that is a number with a unit, a thousands separator or a decimal comma.

Plain numbers match too; `NUMBER` matches them alone.
"""

_NUMBER, _MISSING, _SWITCH = re.compile(NUMBER, re.ASCII), re.compile(MISSING), re.compile(SWITCH)
_QUANTITY = re.compile(re.sub(r"\\x\{(\w+)\}", lambda code: chr(int(code[1], 16)), QUANTITY), re.ASCII)


class NumberAsTextError(ValueError):
    """Text is a number with a unit, a thousands separator or a decimal comma. The message is the text."""


def is_number(text: str) -> bool:
    """Return whether text is a plain number."""
    return _NUMBER.match(text) is not None


def is_missing(text: str) -> bool:
    """Return whether text stands for a missing number."""
    return _MISSING.match(text) is not None


def is_switch(text: str) -> bool:
    """Return whether text is one of the words for 1 and 0."""
    return _SWITCH.match(text) is not None


def is_unit(present: Sequence[str]) -> bool:
    """Return whether a column is a unit, such as `F`: the same single letter in several cells.

    Args:
        present: All its values that are not missing.

    >>> is_unit(["F", "F"]), is_unit(["T", "F"]), is_unit(["F"]), is_unit(["off", "off"]), is_unit(["5", "5"])
    (True, False, False, False, False)
    """
    first = present[0]
    return (
        len(present) > 1 and len(first) == 1 and first.isalpha() and all(value == first for value in present)
    )


def is_quantity(text: str) -> bool:
    """Return whether text is a number that cannot be read as it is, such as `49.8%` or `1,512.3`."""
    return _QUANTITY.match(text) is not None and not is_number(text)


def is_tag(first: str, same: bool) -> bool:
    """Return whether a column of numbers with letters is a tag, such as `5G`, and not a measured quantity.

    Args:
        first: Its first value.
        same: Whether all values are the same.
    """
    return same and first[-1:].isalpha() and " " not in first.strip()


def number_in(text: str) -> float | None:
    """Return the number in a text, 1 or 0 for a switch, NaN for a missing number; None for other text.

    Raises:
        NumberAsTextError: the text is a number with a unit or a separator.

    >>> number_in(" 1.5"), number_in("on"), number_in("unavailable"), number_in("open")
    (1.5, 1.0, nan, None)
    """
    if is_number(text):
        return float(text)
    word = text.strip().lower()
    if word in SWITCH_ON:
        return 1.0
    if word in SWITCH_OFF:
        return 0.0
    if is_missing(text):
        return math.nan
    if is_quantity(text):
        raise NumberAsTextError(text.strip()[:40])
    return None
