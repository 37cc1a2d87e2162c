"""The rule for columns of files and fields of streams: which are features, and what the others are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from common.bounds import MAX_FEATURE_NAME
from common.model.schema import is_text
from common.settings import DataSettings

TIME_NAMES = ("ts", "time", "timestamp", "datetime", "date_time", "date", "@timestamp", "_time")
"""Usual names of the time column, in lower case, the preferred ones first."""

_NO_NAME = re.compile(r"^(Unnamed: \d+)?$")
_ROW_ID_NAME = re.compile(
    r"(?i)^(.*[_ .])?(id|idx|index|row|rowid|line|seq|seqno|seqnum|sequence|nr|no|num|#)$"
)
_TIME_WORD = re.compile(
    r"(?i)(^|[\W_])(ts|time|timestamp|datetime|date|epoch|clock)([\W_]|$)|[a-z](Time|Date)$"
)
_MIN_NAMED_ROW_IDS, _MIN_ROW_IDS, _MIN_RISING, _MIN_EPOCHS = 4, 8, 20, 3
"""Smallest numbers of values for a decision: row ids by name and course, by course, counters, Unix times."""
_ROW_ID_SHARE = 0.95
"""Share of steps of one in row ids."""
_EPOCH_S = (1.26e9, 2.2e9)
"""Range of Unix times: 2009 to 2039."""
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""Separators of columns other than commas, each as it is shown."""


class Kind(Enum):
    """The kind of the cells of a column."""

    NUMBERS = "numbers"
    SWITCHES = "switches"
    """Only true and false, on and off, yes and no, or T and F."""
    EMPTY = "empty"
    """No cell has a value."""
    TIMES = "times"
    """Dates with times, as text or as a type of its own."""
    QUANTITIES = "numbers as text"
    """Numbers with units, thousands separators or decimal commas."""
    TEXT = "text"
    OTHER = "other"
    """Lists, objects and other types."""


class Course(Enum):
    """The course of the numbers of a column from row to row."""

    ANY = "any"
    EPOCH = "epoch"
    """Unix times that do not fall."""
    ROW_IDS = "row ids"
    """Nearly each is one more, or one less, than the one before: rows may be lost, and counts start again."""
    RISING = "rising"
    """They only rise, except for a few restarts."""


@dataclass(frozen=True)
class Content:
    """The content of a column."""

    kind: Kind
    example: str = ""
    """A cell, for messages; of QUANTITIES one that cannot be read, of OTHER the name of the type."""
    course: Course = Course.ANY
    count: int = 0
    """Number of values from which the course follows."""
    regular: bool = False
    """Whether most steps from one number to the next are equal."""


@dataclass(frozen=True)
class Columns:
    """The role of each column. Label and split are neither features nor ignored.

    >>> columns = Columns(("cpu",), "ts", {"host": "text, such as 'web'"})
    >>> print(columns.description(60.0))
    1 feature: cpu; time: 'ts', every 60 s; ignored: 'host' (text, such as 'web')
    """

    features: tuple[str, ...]
    time: str | None
    """The column with the time of each row."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """The reason why a column that no setting names is not a feature, by its name."""
    rising: tuple[str, ...] = ()
    """Features that only rise, as counters do."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """A cell of each column of numbers with units or separators, by its name. They are errors."""

    def description(self, interval_s: float | None = None) -> str:
        """Return features, time, interval and ignored columns in one line."""
        count = len(self.features)
        shown = ", ".join(self.features[:40]) + (f" and {count - 40} more" if count > 40 else "")
        parts = [f"{count} feature{'s' if count > 1 else ''}: {shown}"]
        every = f", every {interval_s:g} s" if interval_s is not None else ""
        parts.append("time: none found" if self.time is None else f"time: '{self.time}'{every}")
        if self.ignored:
            parts.append(f"ignored: {reasons(self.ignored)}")
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """Return what is unusual about the features."""
        if not self.rising:
            return []
        names = ", ".join(map(repr, self.rising))
        return [
            f"only rising, as counters do: {names}; a model learns little from a counter: record its change "
            "per second, or name it in data.ignore"
        ]


def reasons(ignored: Mapping[str, str], most: int = 12) -> str:
    """Return names with the reasons why they are ignored, as text; of more than `most`, how many more."""
    shown = ", ".join(f"'{name}' ({reason})" for name, reason in list(ignored.items())[:most])
    return shown + (f" and {len(ignored) - most} more" if len(ignored) > most else "")


def choose_columns(contents: Mapping[str, Content], data: DataSettings) -> Columns:
    """Return what each column is.

    Features are those that `data.features` lists, or every column of numbers or switches that has no other
    role, no underscore before its name, and does not count rows or seconds.

    Args:
        contents: What each column holds, by its name, in order.
        data: Names the features, or columns that are not features.

    >>> columns = choose_columns(
    ...     {"ts": Content(Kind.NUMBERS), "on": Content(Kind.SWITCHES)}, DataSettings()
    ... )
    >>> columns.features, columns.time
    (('on',), 'ts')
    """
    time = _time_column(contents, data)
    if data.features is not None:
        unreadable = {
            name: contents[name].example
            for name in data.features
            if name in contents and contents[name].kind is Kind.QUANTITIES
        }
        return Columns(data.features, time, {}, (), unreadable)
    features, ignored, unreadable, rising = [], {}, {}, []
    for name, content in contents.items():
        if name in (time, data.label, data.split) or name in data.ignore:
            continue
        if (reason := _why_ignored(name, content)) is not None:
            ignored[name] = reason
        elif content.kind is Kind.QUANTITIES:
            unreadable[name] = content.example
        else:
            features.append(name)
            if content.course in (Course.RISING, Course.EPOCH):
                rising.append(name)
    return Columns(tuple(features), time, ignored, tuple(rising), unreadable)


def find_time(names: Iterable[str], data: DataSettings) -> str | None:
    """Return the name of the time column by names alone: that of the setting, or the most usual name."""
    names = list(names)
    if data.timestamp is not None:
        return data.timestamp if data.timestamp in names else None
    usual = [name for name in names if name.strip().lower() in TIME_NAMES and name not in _other_roles(data)]
    return min(usual, key=lambda name: TIME_NAMES.index(name.strip().lower()), default=None)


def separated_otherwise(name: str) -> str | None:
    """Return an error text if the only name of a header is several names with a separator other than commas.

    >>> separated_otherwise("ts;cpu")
    "columns are separated by ';', as in 'ts;cpu'; expected commas"
    >>> separated_otherwise("cpu") is None
    True
    """
    for separator, shown in SEPARATORS.items():
        if separator in name:
            return f"columns are separated by {shown}, as in {name[:60]!r}; expected commas"
    return None


def _other_roles(data: DataSettings) -> tuple[str, ...]:
    return (data.label, data.split, *data.ignore, *(data.features or ()))


def _time_column(contents: Mapping[str, Content], data: DataSettings) -> str | None:
    readable = [
        name
        for name, content in contents.items()
        if content.kind in (Kind.NUMBERS, Kind.TIMES) and name not in _other_roles(data)
    ]
    if data.timestamp is not None or (usual := find_time(readable, data)) is not None:
        return usual if data.timestamp is None else find_time(contents, data)
    for name in readable:
        if contents[name].kind is Kind.TIMES or _is_epoch(name, contents[name], by_name=False):
            return name
    return None


def _why_ignored(name: str, content: Content) -> str | None:
    """Return why a column without a role is not a feature; None if it is one."""
    if _NO_NAME.match(name):
        return "no name"
    if len(name) > MAX_FEATURE_NAME:
        return f"a name of more than {MAX_FEATURE_NAME} characters"
    if not is_text(name):
        return "a name that is no Unicode text"
    if name.startswith("_"):
        return "underscore"
    match content.kind:
        case Kind.EMPTY:
            return "empty"
        case Kind.TIMES:
            return "times"
        case Kind.TEXT:
            return f"text, such as {content.example[:40]!r}"
        case Kind.OTHER:
            return content.example
        case Kind.NUMBERS:
            least = _MIN_NAMED_ROW_IDS if _ROW_ID_NAME.match(name) else _MIN_ROW_IDS
            if content.course is Course.ROW_IDS and content.count >= least:
                return "counts the rows"
            if _is_epoch(name, content, by_name=True):
                return "times"
    return None


def _is_epoch(name: str, content: Content, by_name: bool) -> bool:
    """Return whether a column of numbers holds Unix times: by its name, or by equal steps."""
    if content.course is not Course.EPOCH:
        return False
    return _TIME_WORD.search(name) is not None if by_name else content.regular


def course_of(values: NDArray[np.float64]) -> tuple[Course, int, bool]:
    """Return the course of numbers, how many there are, and whether most steps are equal.

    Args:
        values: The column, shape (rows,); missing values are not finite and are left out.
    """
    values = values[np.isfinite(values)]
    count, steps = len(values), np.diff(values)
    if count < _MIN_EPOCHS:
        return Course.ANY, count, False
    usual = float(np.median(steps))
    regular = usual > 0 and bool(np.mean(steps == usual) > 0.5)
    falls = float(np.mean(steps < 0))
    lowest, highest = float(values.min()), float(values.max())
    recent = any(_EPOCH_S[0] * unit <= lowest and highest < _EPOCH_S[1] * unit for unit in (1, 1e3, 1e6, 1e9))
    if recent and falls <= 0.05:
        return Course.EPOCH, count, regular
    if max(np.mean(steps == 1), np.mean(steps == -1)) >= _ROW_ID_SHARE and (values % 1 == 0).all():
        return Course.ROW_IDS, count, regular
    if count >= _MIN_RISING and falls <= 0.01 and float(np.mean(steps > 0)) >= 0.9:
        return Course.RISING, count, regular
    return Course.ANY, count, regular
