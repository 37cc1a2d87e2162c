from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.connectors.outbox
from client.connectors.outbox import SUSPECT_AFTER, Outbox
from client.connectors.sinks import open_sink
from client.connectors.sinks.contract import AnsweredError, NotYetError, RefusedError
from tests.waiting import eventually

LONG_S = 3600.0


def numbered(first: int, last: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(first, last + 1)]


class FakeSink:
    """Takes notices, or fails with `failure`; waits in a delivery while `gate` is not set."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.taken: list[bytes] = []
        self.attempts = self.closed = 0
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def deliver(self, notice: bytes) -> None:
        self.attempts += 1
        self.entered.set()
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        self.taken.append(notice)

    def close(self) -> None:
        self.closed += 1


DOWN = OSError("fake: nobody there")
Open = Callable[..., Outbox]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def opened(spool: Path) -> Iterator[Open]:
    """Opens an outbox that retries at once by default, and closes it after the test."""
    outboxes: list[tuple[Outbox, FakeSink]] = []

    def open_outbox(sink: FakeSink, retry_s: float = 0.01, max_waiting: int = 1000) -> Outbox:
        outbox = Outbox(sink, spool, max_waiting, lambda failures: retry_s)
        outboxes.append((outbox, sink))
        return outbox

    yield open_outbox
    for outbox, sink in outboxes:
        sink.gate.set()
        outbox.close(20)


def post(outbox: Outbox, notices: list[bytes]) -> None:
    for notice in notices:
        outbox.post(notice)


def files(spool: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(spool.glob("*.json"))]


def test_notices_are_delivered_in_order_and_leave_the_spool(opened: Open, spool: Path) -> None:
    sink = FakeSink()
    outbox = opened(sink)
    post(outbox, numbered(1, 20))
    assert eventually(lambda: outbox.waiting == 0)
    assert sink.taken == numbered(1, 20)
    assert (outbox.delivered, outbox.lost, outbox.problem) == (20, 0, None)
    assert files(spool) == []


def test_a_notice_is_on_disk_before_its_delivery_is_tried(opened: Open, spool: Path) -> None:
    sink = FakeSink()
    sink.gate.clear()
    opened(sink).post(b'{"n":1}')
    assert sink.entered.wait(20)
    assert files(spool) == [b'{"n":1}']


def test_a_sink_that_was_down_for_a_while_gets_everything_in_order(opened: Open, spool: Path) -> None:
    sink = FakeSink(DOWN)
    outbox = opened(sink)
    post(outbox, numbered(1, 3))
    assert eventually(lambda: sink.attempts > 3)
    assert outbox.flush(20)
    assert outbox.problem == "fake: nobody there; 3 notices wait"
    assert files(spool) == numbered(1, 3)
    sink.failure = None
    post(outbox, numbered(4, 5))
    assert eventually(lambda: outbox.waiting == 0)
    assert sink.taken == numbered(1, 5)
    assert outbox.problem is None


@pytest.mark.parametrize("failure", [ValueError("a fault"), KeyError(), AssertionError("a fault")])
def test_a_sink_with_a_fault_of_its_own_delays_and_loses_nothing(opened: Open, failure: Exception) -> None:
    sink = FakeSink(failure)
    outbox = opened(sink)
    post(outbox, numbered(1, 2))
    assert eventually(lambda: sink.attempts > 2)
    assert outbox.problem is not None
    sink.failure = None
    assert eventually(lambda: sink.taken == numbered(1, 2))


def test_a_sink_that_failed_is_left_alone_for_a_while(opened: Open) -> None:
    sink = FakeSink(DOWN)
    outbox = opened(sink, LONG_S)
    for notice in numbered(1, 20):
        outbox.post(notice)
        assert outbox.flush(20)
    assert sink.attempts == 1


def test_the_next_attempt_comes_later_with_every_failure(spool: Path) -> None:
    asked: list[int] = []
    sink = FakeSink(DOWN)
    outbox = Outbox(sink, spool, retry_s=lambda failures: asked.append(failures) or 0.0)
    outbox.post(b"{}")
    assert eventually(lambda: len(asked) >= 3)
    sink.failure = None
    assert eventually(lambda: outbox.waiting == 0)
    sink.failure = DOWN
    before = len(asked)
    outbox.post(b"{}")
    assert eventually(lambda: len(asked) > before)
    assert asked[:3] == [1, 2, 3]
    assert asked[before] == 1
    outbox.close(20)


class TestAfterARestart:
    def test_the_notices_of_the_earlier_process_go_first(self, opened: Open) -> None:
        earlier = opened(FakeSink(DOWN))
        post(earlier, numbered(1, 3))
        earlier.close(20)
        sink = FakeSink()
        sink.gate.clear()
        outbox = opened(sink)
        assert outbox.waiting == 3
        post(outbox, numbered(4, 5))
        sink.gate.set()
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 5)

    def test_a_killed_process_has_lost_nothing_that_was_flushed(self, opened: Open, spool: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from client.connectors.outbox import Outbox\n"
            "class Down:\n"
            "    def deliver(self, notice): raise OSError('down')\n"
            "    def close(self): pass\n"
            "outbox = Outbox(Down(), Path(sys.argv[1]))\n"
            "for n in range(1, 31): outbox.post(b'{\"n\":%d}' % n)\n"
            "print(outbox.flush(60), flush=True); time.sleep(600)"
        )
        self.kill_after_its_first_line(program, spool)
        sink = FakeSink()
        outbox = opened(sink)
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 30)

    def test_a_process_killed_between_deliveries_repeats_one_at_most(self, spool: Path) -> None:
        out = spool.parent / "out"
        program = (
            "import itertools, sys; from pathlib import Path; from client.connectors.outbox import Outbox\n"
            "from client.connectors.sinks import open_sink\n"
            "outbox = Outbox(open_sink('file:' + sys.argv[2]), Path(sys.argv[1]))\n"
            "for n in itertools.count(1):\n"
            "    outbox.post(b'{\"n\":%d}' % n)\n"
            "    if n % 50 == 0: outbox.flush(60)\n"
            "    if n == 200: print('go', flush=True)"
        )
        self.kill_after_its_first_line(program, spool, out)
        outbox = Outbox(open_sink(f"file:{out}"), spool)
        assert eventually(lambda: outbox.waiting == 0)
        outbox.close(20)
        result = [json.loads(line)["n"] for line in out.read_bytes().splitlines()]
        repeated = [number for number, before in zip(result[1:], result, strict=False) if number == before]
        assert len(repeated) <= 1
        assert sorted(set(result)) == list(range(1, result[-1] + 1))
        assert result == sorted(result)
        assert result[-1] >= 200

    @staticmethod
    def kill_after_its_first_line(program: str, *arguments: Path) -> None:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        root = Path(__file__).parents[3]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() in (b"True\n", b"go\n")
            os.kill(process.pid, signal.SIGKILL)

    @pytest.mark.parametrize(
        "content", [b"", b"junk", b'{"cut":', b"[1]", b"\xff", b"[" * 100_000], ids=lambda c: repr(c[:8])
    )
    def test_a_damaged_file_is_set_aside(self, opened: Open, spool: Path, content: bytes) -> None:
        spool.mkdir()
        for number, notice in enumerate([b'{"n":1}', content, b'{"n":2}'], 1):
            (spool / f"{number:012d}.json").write_bytes(notice)
        sink = FakeSink()
        outbox = opened(sink)
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 2)
        assert (spool / "damaged" / "000000000002.json").read_bytes() == content
        assert outbox.problem == f"1 damaged notices set aside in {spool / 'damaged'}"
        assert outbox.delivered == 2

    def test_a_file_that_is_not_a_notice_is_set_aside(self, opened: Open, spool: Path) -> None:
        (spool / "000000000001.json").mkdir(parents=True)
        for name in ("notes.json", "2.json", "000000000003.json", ".000000000004.json.77.partial"):
            (spool / name).write_bytes(b'{"n":3}')
        sink = FakeSink()
        outbox = opened(sink)
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(3, 3)
        assert {p.name for p in (spool / "damaged").iterdir()} == {
            "000000000001.json",
            "2.json",
            "notes.json",
        }
        assert [path.name for path in spool.iterdir()] == ["damaged"]

    def test_a_file_that_vanishes_holds_up_no_other(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink, LONG_S)
        post(outbox, numbered(1, 3))
        assert outbox.flush(20)
        assert eventually(lambda: outbox.problem is not None)
        (spool / "000000000001.json").unlink()
        sink.failure = None
        outbox.close(60)
        assert sink.taken == numbered(2, 3)

    def test_a_file_that_cannot_be_read_for_a_moment_is_not_damaged(
        self, opened: Open, spool: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spool.mkdir()
        (spool / "000000000001.json").write_bytes(b'{"n":1}')
        real, failures = Path.read_bytes, [OSError(errno.EMFILE, os.strerror(errno.EMFILE))] * 3

        def read(path: Path) -> bytes:
            if failures:
                raise failures.pop()
            return real(path)

        monkeypatch.setattr(Path, "read_bytes", read)
        sink = FakeSink()
        opened(sink)
        assert eventually(lambda: sink.taken == numbered(1, 1))
        assert not (spool / "damaged").exists()


class TestADiskThatTakesNothing:
    """A file lies where the spool belongs, which stops even root; `give_way` mends it."""

    @pytest.fixture(autouse=True)
    def in_the_way(self, spool: Path) -> None:
        spool.write_bytes(b"")

    def give_way(self, spool: Path) -> None:
        spool.unlink()

    def test_notices_are_delivered_from_memory(self, opened: Open) -> None:
        sink = FakeSink()
        outbox = opened(sink)
        post(outbox, numbered(1, 5))
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 5)
        assert outbox.flush(20)

    def test_a_sink_that_is_down_too_is_waited_for_in_memory(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink)
        post(outbox, numbered(1, 5))
        assert not outbox.flush(0.05)
        assert f"spool {spool}: File exists; 5 notices are in memory only" in (outbox.problem or "")
        sink.failure = None
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 5)

    def test_they_are_written_once_the_disk_can_be_written(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink, LONG_S)
        post(outbox, numbered(1, 5))
        assert not outbox.flush(0.05)
        self.give_way(spool)
        assert outbox.flush(20)
        assert files(spool) == numbered(1, 5)
        assert eventually(lambda: outbox.problem == "fake: nobody there; 5 notices wait")

    def test_what_an_earlier_process_left_is_found_once_the_disk_can_be_read(
        self, opened: Open, spool: Path
    ) -> None:
        sink = FakeSink()
        outbox = opened(sink)
        left, link = spool.with_name("left"), spool.with_name("link")
        left.mkdir()
        (left / "000000000001.json").write_bytes(b'{"n":1}')
        link.symlink_to(left)
        link.replace(spool)  # at once: the outbox may look at any moment
        post(outbox, numbered(2, 2))
        assert eventually(lambda: sink.taken == numbered(1, 2))


def test_a_disk_that_is_full_loses_nothing(opened: Open, spool: Path) -> None:
    spool.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(spool)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        sink = FakeSink(DOWN)
        outbox = opened(sink)
        post(outbox, numbered(1, 50))
        assert eventually(lambda: "No space left on device" in (outbox.problem or ""))
        assert 0 < len(files(spool)) < 50
        sink.failure = None
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == numbered(1, 50)
        assert outbox.problem is None
        outbox.close(20)
    finally:
        subprocess.run(["umount", str(spool)], check=True)


class TestBounds:
    def test_on_disk_the_oldest_are_dropped(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink, LONG_S, max_waiting=3)
        for notice in numbered(1, 10):
            outbox.post(notice)
            assert outbox.flush(20)
        assert eventually(lambda: outbox.waiting == 3)
        assert files(spool) == numbered(8, 10)
        assert outbox.lost == 7
        assert "7 notices lost: more than 3 waited" in (outbox.problem or "")
        outbox.close(20)
        again = FakeSink()
        opened(again)
        assert eventually(lambda: again.taken == numbered(8, 10))

    def test_in_memory_the_oldest_are_dropped(self, opened: Open) -> None:
        sink = FakeSink()
        sink.gate.clear()
        outbox = opened(sink, max_waiting=3)
        outbox.post(b'{"n":1}')
        assert sink.entered.wait(20)
        post(outbox, numbered(2, 10))
        assert (outbox.waiting, outbox.lost) == (4, 6)
        sink.gate.set()
        assert eventually(lambda: outbox.waiting == 0)
        assert sink.taken == [b'{"n":1}', *numbered(8, 10)]

    def test_a_spool_that_an_earlier_process_left_too_full(self, opened: Open) -> None:
        earlier = opened(FakeSink(DOWN))
        post(earlier, numbered(1, 10))
        earlier.close(20)
        sink = FakeSink()
        outbox = opened(sink, max_waiting=4)
        assert eventually(lambda: sink.taken == numbered(7, 10))
        assert outbox.lost == 6


class TestASinkThatHangs:
    @pytest.fixture
    def sink(self) -> FakeSink:
        sink = FakeSink()
        sink.gate.clear()
        return sink

    def test_post_does_not_wait(self, opened: Open, sink: FakeSink) -> None:
        outbox = opened(sink)
        outbox.post(b'{"n":1}')
        assert sink.entered.wait(20)
        post(outbox, numbered(2, 500))
        assert (outbox.waiting, outbox.problem, sink.taken) == (500, None, [])
        sink.gate.set()
        assert eventually(lambda: sink.taken == numbered(1, 500))

    def test_what_is_posted_meanwhile_is_not_safe_yet(self, opened: Open, sink: FakeSink) -> None:
        outbox = opened(sink)
        outbox.post(b'{"n":1}')
        assert sink.entered.wait(20)
        assert outbox.flush(20)
        outbox.post(b'{"n":2}')
        assert not outbox.flush(0.05)
        sink.gate.set()
        assert outbox.flush(20)

    def test_close_leaves_everything_in_the_spool(self, opened: Open, sink: FakeSink, spool: Path) -> None:
        outbox = opened(sink)
        outbox.post(b'{"n":1}')
        assert sink.entered.wait(20)
        post(outbox, numbered(2, 5))
        outbox.close(0.05)
        assert files(spool) == numbered(1, 5)
        assert sink.closed == 0


def test_post_does_not_wait_for_a_disk_that_hangs(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate, real = threading.Event(), threading.Event(), client.connectors.outbox.write_atomic

    def write(path: Path, content: bytes) -> None:
        entered.set()
        assert gate.wait(60)
        real(path, content)

    monkeypatch.setattr(client.connectors.outbox, "write_atomic", write)
    sink = FakeSink()
    outbox = opened(sink)
    outbox.post(b'{"n":1}')
    assert entered.wait(20)
    post(outbox, numbered(2, 50))
    assert outbox.waiting == 50
    gate.set()
    assert eventually(lambda: sink.taken == numbered(1, 50))


class TestClose:
    def test_gives_a_last_chance_at_once(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink, LONG_S)
        post(outbox, numbered(1, 3))
        assert eventually(lambda: outbox.problem is not None)
        sink.failure = None
        outbox.close(60)
        assert sink.taken == numbered(1, 3)
        assert files(spool) == []

    def test_tries_a_sink_that_is_down_once_and_keeps_the_rest(self, opened: Open, spool: Path) -> None:
        sink = FakeSink(DOWN)
        outbox = opened(sink, LONG_S)
        post(outbox, numbered(1, 3))
        assert eventually(lambda: outbox.problem is not None)
        outbox.close(60)
        assert sink.attempts == 2
        assert files(spool) == numbered(1, 3)

    def test_twice_is_once_and_closes_the_sink(self, opened: Open) -> None:
        sink = FakeSink()
        outbox = opened(sink)
        outbox.close(20)
        outbox.close(20)
        assert sink.closed >= 1


def test_flush_of_nothing_is_true(opened: Open) -> None:
    assert opened(FakeSink()).flush(20)


ACTIONS = st.lists(st.sampled_from(["post", "post", "down", "up", "flush", "restart"]), max_size=30)


@settings(max_examples=50, deadline=None)
@given(ACTIONS)
def test_whatever_happens_every_notice_arrives_once_and_in_order(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sink, posted = FakeSink(), 0

        def start() -> Outbox:
            return Outbox(sink, Path(folder), retry_s=lambda failures: 0.001)

        outbox = start()
        for action in actions:
            if action == "post":
                posted += 1
                outbox.post(b'{"n":%d}' % posted)
            elif action == "flush":
                assert outbox.flush(20)
            elif action == "restart":
                outbox.close(20)
                outbox = start()
            else:
                sink.failure = DOWN if action == "down" else None
        sink.failure = None
        assert eventually(lambda: outbox.waiting == 0)
        outbox.close(20)
        assert sink.taken == numbered(1, posted)
        assert files(Path(folder)) == []


class Refusing(FakeSink):
    """Refuses the notices in `refused`."""

    def __init__(self, *refused: bytes) -> None:
        super().__init__()
        self.refused = refused

    def deliver(self, notice: bytes) -> None:
        if notice in self.refused:
            raise RefusedError("fake: answered 400")
        super().deliver(notice)


def test_a_notice_that_the_sink_refuses_is_set_aside_and_the_others_are_delivered(tmp_path: Path) -> None:
    first, second, third = numbered(1, 3)
    sink = Refusing(second)
    outbox = Outbox(sink, tmp_path)
    for notice in (first, second, third):
        outbox.post(notice)
    assert eventually(lambda: outbox.delivered == 2 and not outbox.waiting)
    assert sink.taken == [first, third]
    assert outbox.problem is not None
    assert "fake: answered 400; 1 notices refused, set aside in" in outbox.problem
    assert [path.read_bytes() for path in (tmp_path / "refused").iterdir()] == [second]
    outbox.close(5)
    again = FakeSink()
    outbox = Outbox(again, tmp_path)
    assert eventually(lambda: outbox.delivered == 1), "it is sent again at the next start"
    assert (again.taken, list((tmp_path / "refused").iterdir()), outbox.problem) == ([second], [], None)
    outbox.close(5)


class BrokenFor(FakeSink):
    """Answers that something is wrong to some notices, or to all."""

    def __init__(self, *notices: bytes, all_until: int = 0) -> None:
        super().__init__()
        self.notices, self.all_until = notices, all_until

    def deliver(self, notice: bytes) -> None:
        if self.attempts < self.all_until or notice in self.notices:
            self.attempts += 1
            raise AnsweredError("fake: answered 500")
        super().deliver(notice)


def test_notices_that_the_receiver_cannot_process_do_not_hold_up_the_others(
    opened: Open, spool: Path
) -> None:
    sink = BrokenFor(b'{"n":2}', b'{"n":3}', b'{"n":7}')
    outbox = opened(sink, 0.001)
    post(outbox, numbered(1, 40))
    assert eventually(lambda: outbox.waiting == 0)
    assert sorted(sink.taken) == sorted({*numbered(1, 40)} - {*sink.notices})
    assert len(sink.taken) == len({*sink.taken}), "none twice"
    assert outbox.problem is not None and "fake: answered 500; 3 notices refused, set aside" in outbox.problem
    assert {path.read_bytes() for path in (spool / "refused").iterdir()} == {*sink.notices}


def test_a_receiver_that_was_broken_for_all_gets_all_and_none_is_set_aside(opened: Open, spool: Path) -> None:
    sink = BrokenFor(all_until=5 * SUSPECT_AFTER)
    outbox = opened(sink, 0.001)
    post(outbox, numbered(1, 20))
    assert eventually(lambda: outbox.waiting == 0)
    assert sorted(sink.taken) == sorted(numbered(1, 20))
    assert (outbox.problem, list(spool.glob("refused/*"))) == (None, [])


def test_refused_notices_are_bounded(tmp_path: Path) -> None:
    outbox = Outbox(Refusing(*numbered(1, 9)), tmp_path, max_waiting=3)
    for notice in numbered(1, 9):
        outbox.post(notice)
        assert eventually(lambda: not outbox.waiting)
    assert eventually(lambda: outbox.lost == 6)
    assert len(list((tmp_path / "refused").iterdir())) == 3
    outbox.close(5)


def test_the_pause_that_a_sink_asks_for_is_kept(tmp_path: Path) -> None:
    sink = FakeSink(NotYetError("fake: answered 429", LONG_S))
    outbox = Outbox(sink, tmp_path, retry_s=lambda _: 0.01)
    outbox.post(b"{}")
    assert eventually(lambda: sink.attempts == 1)
    sink.failure = None
    for number in numbered(1, 20):
        outbox.post(number)
        assert outbox.flush(20)
    assert (sink.attempts, outbox.waiting) == (1, 21)
    outbox.close(5)
    assert len(sink.taken) == 21, "at the end it tries once more"


def test_without_such_a_pause_a_sink_is_tried_again_soon(tmp_path: Path) -> None:
    sink = FakeSink(NotYetError("fake: answered 429", 0.0))
    outbox = Outbox(sink, tmp_path, retry_s=lambda _: 0.01)
    outbox.post(b"{}")
    assert eventually(lambda: sink.attempts >= 3)
    outbox.close(5)
