from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.connectors.sinks.stdout import StdoutSink

DELIVERIES = """
import sys
from client.connectors.sinks import open_sink
sink = open_sink("stdout:")
for number in range(int(sys.argv[1])):
    try:
        sink.deliver(b'{"n":%d}' % number)
    except OSError as error:
        sys.exit(str(error))
"""


def started(count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", DELIVERIES, str(count)],
        cwd=Path(__file__).parents[4], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_program_at_the_other_end_of_a_pipe_reads_one_notice_a_line() -> None:
    out, err = started(3).communicate(timeout=60)
    assert (out, err) == (b'{"n":0}\n{"n":1}\n{"n":2}\n', b"")


def test_a_reader_that_has_gone_is_an_error_and_not_the_end_of_the_process() -> None:
    with started(1_000_000) as program:
        assert program.stdout and program.stderr
        assert program.stdout.readline() == b'{"n":0}\n'
        program.stdout.close()
        assert program.stderr.read() == b"stdout: Broken pipe\n"


def test_a_reader_that_hangs_is_an_error_and_gets_whole_lines_later() -> None:
    end, start = os.pipe()
    try:
        sink = StdoutSink(start, timeout_s=0.1)
        for _ in range(2):
            with pytest.raises(OSError, match="stdout: nobody reads it"):
                sink.deliver(b"x" * 1_000_000)
        cut_off = os.read(end, 2_000_000)
        sink.deliver(b"whole")
        sink.deliver(b"next")
        assert set(cut_off) == {ord("x")}
        assert os.read(end, 2_000_000) == b"\nwhole\nnext\n"
    finally:
        os.close(end)
        os.close(start)


def test_no_standard_output_at_all() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match="stdout: Bad file descriptor"):
        StdoutSink(fd).deliver(b"{}")


def test_standard_output_that_is_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        StdoutSink(out.fileno()).deliver(b"x" * 100_000)
    assert (tmp_path / "out").read_bytes() == b"x" * 100_000 + b"\n"
