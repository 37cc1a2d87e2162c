"""An overwritten file is another file, even if its inode number and its size are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.connectors.sources import EndOfStreamError, Source, open_source

Write = Callable[[Path, int, int], None]


def write_csv(path: Path, first: int, count: int) -> None:
    with path.open("w") as file:
        file.write("ts,temperature\n")
        file.writelines(f"{1_700_000_000 + n},{n}\n" for n in range(first, first + count))


def write_lines(path: Path, first: int, count: int) -> None:
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(first, first + count)))


def write_parquet(path: Path, first: int, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    with path.open("wb") as file:
        pyarrow.parquet.write_table(pa.table({"n": list(range(first, first + count))}), file)


FILES = {"day.csv": write_csv, "day.jsonl": write_lines, "day.parquet": write_parquet}


def rest(source: Source) -> list[bytes]:
    events: list[bytes] = []
    try:
        while True:
            events += source.read(0.1)
    except EndOfStreamError:
        source.close()
        return events


def whole(path: Path) -> list[bytes]:
    return rest(open_source(f"file:{path}"))


@pytest.mark.parametrize(("name", "write"), FILES.items())
@pytest.mark.parametrize("anew", [False, True])
def test_an_overwritten_file_is_read_from_its_start(
    tmp_path: Path, name: str, write: Write, anew: bool
) -> None:
    path = tmp_path / name
    write(path, 0, 2000)
    source = open_source(f"file:{path}")
    rest(source)
    position = json.loads(json.dumps(source.position()))
    if anew:
        path.unlink()
    write(path, 5000, 2200)
    assert rest(open_source(f"file:{path}", position)) == whole(path)


@pytest.mark.parametrize(("name", "write"), FILES.items())
def test_the_same_file_is_not_read_again(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    write(path, 0, 2000)
    source = open_source(f"file:{path}")
    first = source.read(5)
    position = json.loads(json.dumps(source.position()))
    source.close()
    events = rest(open_source(f"file:{path}", position))
    header = whole(path)[:1] if name.endswith(".csv") else []
    assert first + events[len(header) :] == whole(path)


def test_a_position_of_an_earlier_release_is_used(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    write_lines(path, 0, 3)
    position = {"inode": path.stat().st_ino, "offset": len(b'{"n": 0}\n')}
    assert rest(open_source(f"file:{path}", position)) == [b'{"n": 1}', b'{"n": 2}']


@pytest.mark.parametrize("count", [1, 2000, 2200])
def test_a_followed_file_that_is_overwritten_is_read_from_its_start(tmp_path: Path, count: int) -> None:
    path = tmp_path / "day.csv"
    write_csv(path, 0, 2000)
    source = open_source(f"file:{path}?follow=true")
    events: list[bytes] = []
    while len(events) < 2001:
        events += source.read(5)
    write_csv(path, 5000, count)
    events.clear()
    while len(events) < count + 1:
        new = source.read(5)
        assert new, "the new lines are read"
        events += new
    assert events == whole(path)
    with path.open("a") as file:
        file.write("1,1\n")
    assert source.read(5) == [b"1,1"]
    source.close()


def test_a_short_file_that_grows_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"0\n")
    position = None
    for number in range(1000):
        source = open_source(f"file:{path}?follow=true", position)
        assert source.read(5) == [b"%d" % number]
        position = json.loads(json.dumps(source.position()))
        source.close()
        with path.open("ab") as file:
            file.write(b"%d\n" % (number + 1))
