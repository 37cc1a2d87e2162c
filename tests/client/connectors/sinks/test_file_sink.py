from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.connectors.sinks import open_sink
from client.connectors.sinks.file import FileSink
from tests.disk import disk_full_after


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=40), st.integers(1, 100), st.integers(1, 4))
def test_what_is_kept_is_the_newest_in_order_and_within_bounds(
    lengths: list[int], max_bytes: int, keep: int
) -> None:
    notices = [f"{i}:".encode() + b"x" * length for i, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alerts.jsonl"
        sink = FileSink(path, max_bytes, keep)
        for notice in notices:
            sink.deliver(notice)
        parts = [path.with_name(f"alerts.jsonl.{number}") for number in range(keep, 0, -1)]
        files = [part.read_bytes() for part in (*parts, path) if part.exists()]
        assert len(list(path.parent.iterdir())) == len(files)
    kept = b"".join(files).splitlines()
    assert kept == notices[len(notices) - len(kept) :]
    assert all(len(content) - len(content.splitlines()[-1]) - 1 < max_bytes for content in files)
    if len(kept) < len(notices):
        assert len(files) >= keep


def test_a_line_that_a_crash_cut_off_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"whole":1}\n{"cut":')
    open_sink(f"file:{path}").deliver(b'{"next":1}')
    assert path.read_bytes() == b'{"whole":1}\n{"cut":\n{"next":1}\n'


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = open_sink(f"file:{path}")
    sink.deliver(b"x" * 500)
    with disk_full_after(1000):
        for _ in range(2):
            with pytest.raises(OSError, match=f"file {path}: File too large"):
                sink.deliver(b"y" * 600)
            assert path.read_bytes() == b"x" * 500 + b"\n"
    sink.deliver(b"y" * 600)
    assert path.read_bytes() == b"x" * 500 + b"\n" + b"y" * 600 + b"\n"


def test_a_file_that_cannot_be_rotated_gets_no_notice_twice(tmp_path: Path) -> None:
    path, in_the_way = tmp_path / "alerts.jsonl", tmp_path / "alerts.jsonl.1"
    in_the_way.mkdir()
    sink = FileSink(path, max_bytes=6, keep=1)
    sink.deliver(b"123456")
    for _ in range(3):
        with pytest.raises(OSError, match=f"file {path}: Is a directory"):
            sink.deliver(b"7")
    assert path.read_bytes() == b"123456\n"
    in_the_way.rmdir()
    sink.deliver(b"7")
    assert (path.read_bytes(), in_the_way.read_bytes()) == (b"7\n", b"123456\n")


def test_a_file_that_another_program_moved_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = open_sink(f"file:{path}")
    sink.deliver(b"1")
    path.rename(tmp_path / "moved")
    sink.deliver(b"2")
    assert path.read_bytes() == b"2\n"


def test_letters_that_are_encoded_in_the_address(tmp_path: Path) -> None:
    open_sink(f"file://{tmp_path}/a%20b%3F").deliver(b"1")
    assert (tmp_path / "a b?").read_bytes() == b"1\n"
