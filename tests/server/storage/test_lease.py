from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.storage.lease import Lease, LeaseTakenError, only_server

HOLD = (
    "import sys; from pathlib import Path; from server.storage.lease import Lease\n"
    "with Lease(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds the lease of the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lease_is_held_while_its_block_runs(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert not lease.held
    with lease:
        assert lease.held
        assert Lease(tmp_path).held
    assert not lease.held


def test_a_lease_can_be_taken_again_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease(tmp_path):
        raise ZeroDivisionError
    with Lease(tmp_path) as lease:
        assert lease.held


def test_two_folders_are_two_leases(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with Lease(first):
        assert not Lease(second).held
        with Lease(second):
            assert Lease(second).held


def test_a_second_holder_is_refused_with_the_folders_name(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        lease.finish("60 rounds done")
        with pytest.raises(LeaseTakenError, match=f"{tmp_path}: another run"), Lease(tmp_path):
            pass
        assert lease.held, "the first holder still has it"
        assert lease.ended == "60 rounds done", "the earlier reason is kept"


def test_a_lease_held_by_another_process_is_refused(tmp_path: Path) -> None:
    with another_process(tmp_path):
        assert Lease(tmp_path).held
        with pytest.raises(LeaseTakenError), Lease(tmp_path):
            pass


def test_a_killed_process_releases_the_lease(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        process.kill()
        process.wait()
        assert not Lease(tmp_path).held
        with Lease(tmp_path) as lease:
            assert lease.held
            assert lease.ended is None


def test_held_does_not_take_the_lease(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert [lease.held, lease.held] == [False, False]
    with Lease(tmp_path):
        assert [lease.held, lease.held] == [True, True]


def test_held_never_prevents_taking_the_lease(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from server.storage.lease import Lease\n"
        "lease = Lease(Path(sys.argv[1])); print('asking', flush=True)\n"
        "while True: lease.held"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE) as asking:
        try:
            assert asking.stdout is not None
            assert asking.stdout.readline() == b"asking\n"
            for _ in range(50):
                with Lease(tmp_path) as lease:
                    assert lease.held
        finally:
            asking.kill()


def test_a_run_that_did_not_end_has_no_reason(tmp_path: Path) -> None:
    assert Lease(tmp_path).ended is None
    with Lease(tmp_path) as lease:
        assert lease.ended is None
    assert Lease(tmp_path).ended is None


@pytest.mark.parametrize("reason", ["60 rounds done", "gave up: Käse \N{SNOWMAN}", "two\nlines"])
def test_the_reason_survives_the_holder(tmp_path: Path, reason: str) -> None:
    with Lease(tmp_path) as lease:
        lease.finish(reason)
    assert Lease(tmp_path).ended == reason


def test_taking_the_lease_clears_the_reason_of_the_last_run(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        lease.finish("60 rounds done")
    with Lease(tmp_path) as lease:
        assert lease.ended is None
    assert Lease(tmp_path).ended is None


def test_the_reason_can_be_cleared_without_a_run(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        lease.finish("60 rounds done")
    lease.clear()
    lease.clear()
    assert lease.ended is None


def test_the_lease_can_be_asked_about_when_no_descriptor_is_free(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    with another_process(tmp_path) as process:
        assert lease.held
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0], limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.open(os.devnull, os.O_RDONLY)
            assert lease.held
            assert lease.ended is None
            process.kill()
            process.wait()
            assert not lease.held
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.close(taken[0])


def test_there_is_one_server_of_a_folder_at_a_time(tmp_path: Path) -> None:
    with only_server(tmp_path):
        with (
            pytest.raises(LeaseTakenError, match="another server uses this state folder"),
            only_server(tmp_path),
        ):
            pass
        with Lease(tmp_path):
            pass
    with only_server(tmp_path):
        pass
