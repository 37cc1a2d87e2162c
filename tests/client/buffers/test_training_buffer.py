from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.buffers.training_buffer import FILE, BufferedRows, TrainingBuffer, read_buffer
from common.model.schema import Schema

SCHEMA = Schema(("a", "b"))


def events(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(first, first + count)
    return np.stack([numbers, -numbers], axis=1).astype(np.float32), numbers % 7 == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 100), max_size=8))
def test_the_newest_events_are_kept_in_their_order(tmp_path: Path, sizes: list[int]) -> None:
    (tmp_path / FILE).unlink(missing_ok=True)
    buffer, total = TrainingBuffer(tmp_path, SCHEMA, 100), 0
    for size in sizes:
        buffer.append(*events(total, size))
        total += size
    expected, breaks = events(max(0, total - 100), min(total, 100))
    breaks[:1] = True
    for kept in (buffer.contents(), read_buffer(tmp_path), TrainingBuffer(tmp_path, SCHEMA, 100).contents()):
        assert kept is not None
        np.testing.assert_array_equal(kept.rows, expected)
        np.testing.assert_array_equal(kept.breaks, breaks)
    assert len(buffer) == len(expected)


def test_another_process_reads_what_is_written_while_it_reads(tmp_path: Path) -> None:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 5000)
    buffer.append(*events(0, 5000))
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from client.buffers.training_buffer import read_buffer\n"
        "print('ready', flush=True)\n"
        "while not sys.stdin.read(1): pass\n"
        "seen = 0\n"
        "while seen < 30000:\n"
        "    kept = read_buffer(Path(sys.argv[1]))\n"
        "    steps = np.diff(kept.rows[:, 0])\n"
        "    assert (steps == 1).all(), steps[steps != 1]\n"
        "    seen = kept.rows[-1, 0] if len(steps) else seen\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    with child:
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("x")
        child.stdin.flush()
        number = 5000
        while child.poll() is None:
            buffer.append(*events(number, 10))
            number += 10
    assert child.returncode == 0


@pytest.mark.parametrize("damage", ["truncated", "empty", "magic", "longer"])
def test_a_damaged_ring_is_replaced_and_reported(tmp_path: Path, damage: str) -> None:
    TrainingBuffer(tmp_path, SCHEMA, 100).append(*events(0, 10))
    path = tmp_path / FILE
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[:50], "empty": b"", "magic": b"x" * 8 + content[8:], "longer": content + b"x"}[
            damage
        ]
    )
    assert read_buffer(tmp_path) is None
    buffer = TrainingBuffer(tmp_path, SCHEMA, 100)
    assert len(buffer) == 0
    assert buffer.problem is not None and str(path) in buffer.problem


def test_a_ring_of_other_features_is_not_read(tmp_path: Path) -> None:
    TrainingBuffer(tmp_path, SCHEMA, 100).append(*events(0, 10))
    assert read_buffer(tmp_path, Schema(("a", "c"))) is None
    assert read_buffer(tmp_path, SCHEMA) is not None
    assert TrainingBuffer(tmp_path, Schema(("b", "a")), 100).problem is not None


def test_there_may_be_no_ring_yet(tmp_path: Path) -> None:
    assert read_buffer(tmp_path) is None


def test_a_full_disk_is_an_error_when_the_ring_is_made(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        TrainingBuffer(tmp_path, SCHEMA, 2**45)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EINVAL)
    assert not (tmp_path / FILE).exists()


def test_replaced_events_are_read_by_this_process_and_others_and_more_can_follow(tmp_path: Path) -> None:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 100)
    buffer.append(*events(0, 90))
    buffer.replace(BufferedRows(*events(500, 30)))
    buffer.append(*events(530, 5))
    for kept in (buffer.contents(), read_buffer(tmp_path), TrainingBuffer(tmp_path, SCHEMA, 100).contents()):
        assert kept is not None
        np.testing.assert_array_equal(kept.rows, events(500, 35)[0])
    assert len(buffer) == 35
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
