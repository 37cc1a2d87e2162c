from __future__ import annotations

from pathlib import Path

import pytest

from client.versions.version_store import MAX_KEPT, StoreError, VersionStore
from common.model.manifest import ManifestError
from tests.client.sample_versions import version


def accept(store: VersionStore, *numbers: int) -> None:
    for number in numbers:
        store.offer(version(number).pack())
        candidate = store.candidate()
        assert candidate is not None
        store.accept(candidate)


def current_version(store: VersionStore) -> int | None:
    before = list(store.skipped)
    manifest = store.current()
    assert store.skipped == before
    return manifest.version if manifest else None


def test_a_version_is_current_once_it_was_accepted(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    assert store.candidate() is None
    assert current_version(store) is None
    offered = version(1)
    store.offer(offered.pack())
    assert current_version(store) is None
    candidate = store.candidate()
    assert candidate is not None and candidate.hash == offered.hash
    store.accept(candidate)
    assert store.candidate() is None
    assert current_version(store) == current_version(VersionStore(tmp_path)) == 1


def test_the_newest_candidate_counts(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    store.offer(version(1).pack())
    store.candidate()  # a crash interrupts this trial
    store.offer(version(2).pack())
    candidate = VersionStore(tmp_path).candidate()
    assert candidate is not None and candidate.version == 2
    store.accept(candidate)
    assert store.candidate() is None


def test_a_trial_that_a_crash_interrupted_is_repeated(tmp_path: Path) -> None:
    VersionStore(tmp_path).offer(version(1).pack())
    assert VersionStore(tmp_path).candidate() is not None
    candidate = VersionStore(tmp_path).candidate()
    assert candidate is not None and candidate.version == 1


def test_a_refused_version_is_kept_with_the_reason(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    accept(store, 1)
    offered = version(2)
    store.offer(offered.pack())
    candidate = store.candidate()
    assert candidate is not None
    store.refuse(candidate, "too loud")
    assert store.candidate() is None
    assert current_version(store) == 1
    refused = sorted((tmp_path / "refused").iterdir())
    assert [path.suffix for path in refused] == [".safetensors", ".txt"]
    assert refused[0].read_bytes() == offered.pack()
    assert refused[1].read_text() == "too loud"


@pytest.mark.parametrize("content", [b"", b"garbage", version(3).pack()[:-9]])
def test_a_damaged_candidate_is_moved_to_refused(tmp_path: Path, content: bytes) -> None:
    store = VersionStore(tmp_path)
    accept(store, 1)
    store.offer(content)
    with pytest.raises(ManifestError):
        store.candidate()
    assert store.candidate() is None
    assert current_version(store) == 1
    assert any(path.read_bytes() == content for path in (tmp_path / "refused").glob("*.safetensors"))


def test_a_damaged_version_is_skipped_for_the_one_before(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    accept(store, 1, 2)
    newest = max((tmp_path / "versions").iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    manifest, problems = store.current(), store.skipped
    assert manifest is not None and manifest.version == 1
    assert len(problems) == 1 and newest.name in problems[0]
    assert current_version(store) == 1


def test_the_last_versions_stay_on_disk_also_if_numbers_restart(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    accept(store, 7, 8, 9, 1, 2, 3)
    assert current_version(store) == 3
    assert len(list((tmp_path / "versions").iterdir())) == MAX_KEPT


def test_rolling_back_pins_the_version_before(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    accept(store, 1, 2, 3)
    assert "v000002" in store.roll_back()
    assert current_version(store) == current_version(VersionStore(tmp_path)) == 2
    assert "v000001" in store.roll_back()
    assert current_version(store) == 1
    with pytest.raises(StoreError, match="no version before"):
        store.roll_back()
    assert "v000003" in store.roll_back(3)
    with pytest.raises(StoreError, match=r"no version 9 .*v000002"):
        store.roll_back(9)
    store.release()
    assert store.pinned is None
    assert current_version(store) == 3


def test_a_pinned_version_is_kept_until_it_is_damaged(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    accept(store, 1, 2)
    pinned = store.roll_back()
    accept(store, 3, 4, 5, 6, 7, 8)
    assert current_version(store) == 1
    (tmp_path / "versions" / pinned).write_bytes(b"")
    manifest, problems = store.current(), store.skipped
    assert manifest is not None and manifest.version == 8
    assert pinned in problems[0]
    assert store.pinned is None


def test_the_drift_flag_is_shared_between_processes(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    assert not store.drifted
    store.drifted = True
    assert VersionStore(tmp_path).drifted
    store.drifted = False
    store.drifted = False
    assert not VersionStore(tmp_path).drifted
