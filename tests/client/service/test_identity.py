"""Identity of a client: its name, and one process only under it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.service.identity import Identity, IdentityError


def test_a_client_that_returns_is_the_same(tmp_path: Path) -> None:
    first = Identity(tmp_path / "state")
    first.release()
    second = Identity(tmp_path / "state")
    assert second.instance == first.instance
    assert len(first.instance) == 16
    second.release()


def test_two_folders_are_two_clients(tmp_path: Path) -> None:
    one, two = Identity(tmp_path / "one"), Identity(tmp_path / "two")
    assert one.instance != two.instance
    one.release()
    two.release()


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    held = Identity(tmp_path)
    program = (
        "import sys; from pathlib import Path; from client.service.identity import *\n"
        "try: Identity(Path(sys.argv[1]))\n"
        "except IdentityError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert f"{tmp_path}: in use by another running client" in done.stdout
    held.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match=r"file/state: cannot keep client state here: Not a directory"):
        Identity(tmp_path / "file" / "state")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"0123", b"x" * 5000, b"0123456789abcdeF"])
def test_a_damaged_id_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instance").write_bytes(content)
    first = Identity(tmp_path)
    first.release()
    again = Identity(tmp_path)
    again.release()
    assert len(first.instance) == 16
    assert again.instance == first.instance
