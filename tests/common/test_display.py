from __future__ import annotations

import io
import logging

import pytest

from common.display import MAX_LOGGED, LogFormatter, printable
from tests.names import NAMES, NO_NAMES


def logged(message: str, *args: object, error: bool = False) -> str:
    """Return what a message looks like in a log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter())
    logger = logging.Logger("of.test")
    logger.addHandler(handler)
    logger.error(message, *args, exc_info=error)
    return stream.getvalue()


@pytest.mark.parametrize("name", [*NAMES, *NO_NAMES], ids=ascii)
def test_a_name_stays_in_its_line_and_is_short(name: str) -> None:
    text = logged("feature found name=%s count=%d", name, 3)
    assert text.count("\n") == 1 and text.endswith(" count=3\n")
    assert text.rstrip("\n").isprintable()
    assert len(text) < MAX_LOGGED + 100
    text.encode()


def test_letters_of_any_script_stay_readable() -> None:
    assert "name=température 温度" in logged("name=%s", "température 温度")


def test_a_message_cannot_look_like_another_one() -> None:
    text = logged("reason=%s", ValueError("no\n2026-01-01 level=ERROR forged"))
    assert len(text.splitlines()) == 1


def test_the_lines_of_a_traceback_are_indented() -> None:
    try:
        raise ValueError("a\n2026-01-01 level=ERROR forged \x1b[31m")
    except ValueError:
        first, *lines = logged("failed", error=True).splitlines()
    assert first.endswith("failed") and lines
    assert all(line.startswith("    ") and line.isprintable() for line in lines)


def test_values_and_named_values_are_formatted_as_usual() -> None:
    assert logged("%.2f of %s", 1.234, ["a"]).endswith("1.23 of ['a']\n")
    assert logged("%(a)s", {"a": "x\ny"}).endswith("x\\ny\n")


def test_line_breaks_stay_where_they_are_wanted() -> None:
    assert printable("a\nb\x1b", keep_lines=True) == "a\nb\\x1b"
