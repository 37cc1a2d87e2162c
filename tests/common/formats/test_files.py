from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.formats.files import LOG_BYTES, Flush, private_folder, turn_over, write_atomic
from tests.disk import disk_full_after
from tests.waiting import eventually


@pytest.mark.parametrize("content", [b"", b"new", b"\0" * 100_000])
def test_the_content_is_written(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    write_atomic(path, content)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"a longer old content")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("flush", "flushed"), [
    ("all", ["file", "folder"]), ("content", ["file"]), ("nothing", []),
])  # fmt: skip
def test_what_must_be_is_flushed_the_name_after_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: Flush, flushed: list[str]
) -> None:
    kinds: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: kinds.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    )
    write_atomic(tmp_path / "file", b"new", flush=flush)
    assert kinds == flushed


def test_a_secret_is_its_owners_alone_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"open")
    write_atomic(path, b"secret", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with disk_full_after(1000), pytest.raises(OSError, match="too large"):
        write_atomic(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "file", b"x")


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_or_the_new_and_never_a_part(tmp_path: Path) -> None:
    path, done, sizes = tmp_path / "file", threading.Event(), set()
    contents = [bytes([i]) * (50_000 + i) for i in range(30)]
    write_atomic(path, contents[0])

    def read() -> None:
        while not done.is_set():
            content = path.read_bytes()
            sizes.add(len(content))
            assert content == contents[content[0]]

    failures: list[object] = []
    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(args.exc_value)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in contents:
            write_atomic(path, content)
    finally:
        done.set()
        reader.join()
        threading.excepthook = hook
    assert failures == []
    assert sizes


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    command = (
        "import sys; from pathlib import Path; from common.formats.files import write_atomic\n"
        "for i in range(1_000_000): write_atomic(Path(sys.argv[1]), bytes([i % 256]) * 3_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", command, str(path)], cwd=Path(__file__).parents[3])
    try:
        eventually(lambda: writer.poll() is None and path.exists(), within_s=60)
        eventually(lambda: list(tmp_path.glob("*.partial")), within_s=60)  # in the middle of a write
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    content = path.read_bytes()
    assert len(content) == 3_000_000
    assert len(set(content)) == 1


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_state_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = tmp_path / "runs" / "server"
        private_folder(folder)
        write_atomic(folder / "x", b"x")
        assert (mode(folder), mode(folder / "x")) == (0o700, 0o600)
        folder.chmod(0o755)
        private_folder(folder)
        assert mode(folder) == 0o700, "a folder of an earlier release too"
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        private_folder(shared)
        assert mode(shared) == 0o1777
    finally:
        os.umask(before)


def test_a_log_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    turn_over(log)
    log.write_bytes(b"old")
    turn_over(log)
    assert log.read_bytes() == b"old"
    for content in (b"a", b"b"):
        log.write_bytes(content * (LOG_BYTES + 1))
        turn_over(log)
        assert not log.exists()
        assert (tmp_path / "run.log.1").read_bytes()[:1] == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_log_that_a_process_appends_to_is_copied_and_emptied(tmp_path: Path) -> None:
    log = tmp_path / "superlink.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        turn_over(log, 50, 1, open_=True)
        writer.write(b"b")
    assert log.read_bytes() == b"b"
    assert (tmp_path / "superlink.log.1").read_bytes() == b"a" * 100


def test_an_old_part_of_a_log_is_deleted(tmp_path: Path) -> None:
    part = tmp_path / "run.log.1"
    part.write_bytes(b"old")
    turn_over(tmp_path / "run.log", 50, 2)
    assert part.exists()
    os.utime(part, (0, 0))
    turn_over(tmp_path / "run.log", 50, 2)
    assert not part.exists()
