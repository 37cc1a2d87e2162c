"""Text of others, such as names of features and clients, as logs and terminals show it: escaped, short."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

MAX_LOGGED = 300
"""Longest text or error within a log message, in characters."""
LOG_FORMAT = "%(asctime)s level=%(levelname)s %(name)s %(message)s"

_NOT_A_LINE_BREAK = re.compile(r"[^\n]+")


def printable(text: str, keep_lines: bool = False) -> str:
    r"""Return text with what is not printable escaped: line breaks, control characters, marks of direction.

    Args:
        text: Any text, also with halves of surrogate pairs.
        keep_lines: Whether line breaks stay.

    >>> printable("a\nb\x1b[31m \u202e é")
    'a\\nb\\x1b[31m \\u202e é'
    """
    if text.isprintable():
        return text
    if keep_lines:
        return _NOT_A_LINE_BREAK.sub(lambda line: printable(line.group()), text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = MAX_LOGGED) -> str:
    """Return text of at most `most` characters, with dots in place of the rest.

    >>> shortened("temperature", 8)
    'tempe...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


class LogFormatter(logging.Formatter):
    """One line for each message, so that no text in it can look like another message.

    Texts and errors in it are shortened, and what is not printable is escaped. The lines of a traceback are
    indented.
    """

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        copy = logging.makeLogRecord(vars(record))
        copy.exc_text = None
        args = record.args
        if isinstance(args, Mapping):
            copy.args = {key: _bounded(value) for key, value in args.items()}
        elif args:
            copy.args = tuple(map(_bounded, args))
        copy.msg, copy.args = printable(copy.getMessage()), None
        return super().format(copy)

    def formatException(self, ei: Any) -> str:
        """Return a traceback as indented lines."""
        return textwrap.indent(printable(super().formatException(ei), keep_lines=True), "    ")


def log_to(handlers: Iterable[logging.Handler], level: int) -> None:
    """Let all loggers of this process write to these handlers."""
    handlers = list(handlers)
    for handler in handlers:
        handler.setFormatter(LogFormatter())
    logging.basicConfig(level=level, handlers=handlers)


def _bounded(value: object) -> object:
    """Return an argument of a log message as it is shown."""
    return shortened(str(value)) if isinstance(value, str | BaseException) else value
