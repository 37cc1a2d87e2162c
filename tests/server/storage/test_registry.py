from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.manifest import Manifest, ManifestError
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from server.storage.registry import Registry, SavedVersion

ARCHITECTURE = Architecture(2, window=1, hidden=(3,))


def manifest(version: int) -> Manifest:
    return Manifest(
        version=version,
        schema=Schema(("cpu", "memory")),
        architecture=ARCHITECTURE,
        weights=ARCHITECTURE.initial_weights(version),
        moments=Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]])),
        settings=VersionSettings.parse({"training": {"epochs": 1}}),
    )


def progress(version: int) -> dict[str, Any]:
    return {"best_error": 1 / (version + 1), "rounds_without_improvement": version}


def filled(folder: Path, versions: int, keep: int = 10) -> Registry:
    registry = Registry(folder, keep)
    for version in range(versions):
        registry.write(SavedVersion(manifest(version), progress(version)))
        registry.delete_old()
    return registry


def newest(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return hash and progress of the newest version, as a restarted server reads them."""
    newest_version = Registry(folder, 10).latest()
    return (newest_version[0].hash, newest_version[1]) if newest_version else None


def test_an_empty_registry_has_no_version(tmp_path: Path) -> None:
    assert Registry(tmp_path / "a" / "b", 10).latest() is None
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("versions", [1, 2, 12])
def test_a_restart_finds_the_newest_version_with_its_progress(tmp_path: Path, versions: int) -> None:
    filled(tmp_path, versions)
    last = versions - 1
    assert newest(tmp_path) == (manifest(last).hash, progress(last))


def test_what_is_written_is_a_packed_manifest(tmp_path: Path) -> None:
    path = Registry(tmp_path, 10).write(SavedVersion(manifest(7), progress(7)))
    assert path.parent == tmp_path
    assert Manifest.unpack(path.read_bytes()).hash == manifest(7).hash


@pytest.mark.parametrize("keep", [2, 3])
def test_only_the_newest_versions_stay(tmp_path: Path, keep: int) -> None:
    filled(tmp_path, 9, keep)
    versions = [Manifest.unpack(path.read_bytes()).version for path in sorted(tmp_path.glob("*.safetensors"))]
    assert versions == list(range(9 - keep, 9))
    assert len(list(tmp_path.iterdir())) == 2 * keep, "nothing else stays"


@pytest.mark.parametrize("first", [8, 98, 999_998])
def test_versions_are_ordered_by_number(tmp_path: Path, first: int) -> None:
    registry = Registry(tmp_path, 2)
    for version in range(first, first + 4):
        registry.write(SavedVersion(manifest(version), progress(version)))
        registry.delete_old()
        assert newest(tmp_path) == (manifest(version).hash, progress(version))


def test_a_version_can_be_written_again(tmp_path: Path) -> None:
    registry = filled(tmp_path, 3)
    registry.write(SavedVersion(manifest(2), {"best_error": None, "rounds_without_improvement": 0}))
    assert newest(tmp_path) == (manifest(2).hash, {"best_error": None, "rounds_without_improvement": 0})


# What a crash, a bad disk or a human leaves behind.


def damage(path: Path, how: str) -> None:
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "flipped":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)
        case "noise":
            path.write_bytes(b"\xff\x00" * 50)
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "flipped", "noise", "folder"])
def test_a_damaged_version_is_skipped_and_named(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 3)
    damage(tmp_path / "v000002.safetensors", how)
    with caplog.at_level(logging.ERROR):
        assert newest(tmp_path) == (manifest(1).hash, progress(1))
    assert how == "missing" or "v000002.safetensors" in caplog.text


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "noise", "folder"])
def test_a_version_without_its_progress_is_skipped_and_named(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 3)
    damage(tmp_path / "v000002.json", how)
    with caplog.at_level(logging.ERROR):
        assert newest(tmp_path) == (manifest(1).hash, progress(1))
    assert "v000002.safetensors" in caplog.text


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"'])
def test_a_file_that_is_not_progress_is_skipped(tmp_path: Path, text: str) -> None:
    filled(tmp_path, 3)
    tmp_path.joinpath("v000002.json").write_text(text)
    assert newest(tmp_path) == (manifest(1).hash, progress(1))


def test_with_every_version_damaged_there_is_none(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    for path in tmp_path.glob("*.safetensors"):
        damage(path, "cut")
    assert newest(tmp_path) is None


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    others = [
        tmp_path / name for name in ("notes.txt", "vacation.safetensors", ".v000009.safetensors.1.partial")
    ]
    for path in others:
        path.write_text("mine")
    filled(tmp_path, 5, keep=2)
    assert newest(tmp_path) == (manifest(4).hash, progress(4))
    assert [path.read_text() for path in others] == ["mine"] * 3
    assert len(list(tmp_path.glob("v0*.safetensors"))) == 2


PACKED = manifest(2).pack()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_no_damaged_byte_stops_a_restart(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "registry"
    if not folder.exists():
        filled(folder, 3)
    content = bytearray(PACKED)
    content[place] ^= flip
    folder.joinpath("v000002.safetensors").write_bytes(content)
    assert newest(folder) in [(manifest(2).hash, progress(2)), (manifest(1).hash, progress(1))]


def test_a_version_that_cannot_be_written_leaves_the_ones_before(tmp_path: Path) -> None:
    registry = filled(tmp_path, 3, keep=3)
    tmp_path.joinpath("v000003.safetensors").mkdir()
    with pytest.raises(OSError):
        registry.write(SavedVersion(manifest(3), progress(3)))
    assert newest(tmp_path) == (manifest(2).hash, progress(2))
    assert len(list(tmp_path.glob("v00000[012].safetensors"))) == 3


def test_a_version_is_not_deleted_for_one_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = filled(tmp_path, 3, keep=2)
    monkeypatch.setattr(
        "server.storage.registry.write_atomic", lambda path, content, **_: path.write_bytes(content[:-1])
    )
    with pytest.raises(ManifestError):
        registry.write(SavedVersion(manifest(3), progress(3)))
    registry.delete_old()
    assert newest(tmp_path) == (manifest(2).hash, progress(2))


def test_a_new_start_is_not_deleted_for_the_newer_versions_that_cannot_be_read(tmp_path: Path) -> None:
    """All versions are damaged, so the fleet starts again with version 0, whose number is lower."""
    registry = filled(tmp_path, 5, keep=2)
    for path in tmp_path.glob("*.safetensors"):
        damage(path, "cut")
    registry.write(SavedVersion(manifest(0), progress(0)))
    registry.delete_old()
    assert newest(tmp_path) == (manifest(0).hash, progress(0))


def test_skipped_versions_are_known(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    damage(tmp_path / "v000001.safetensors", "cut")
    registry = Registry(tmp_path, 10)
    registry.latest()
    (message,) = registry.damaged
    assert message.startswith("v000001.safetensors: ")


def test_a_version_that_is_not_on_disk_is_written_once_the_disk_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = filled(tmp_path, 2)

    def full(path: Path, content: bytes, **_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("server.storage.registry.write_atomic", full)
        registry.save(SavedVersion(manifest(2), progress(2)))
        assert registry.trouble == "version 2 is not on disk: no space"
        assert newest(tmp_path) == (manifest(1).hash, progress(1))
    registry.save_again()
    assert registry.trouble == ""
    assert newest(tmp_path) == (manifest(2).hash, progress(2))
