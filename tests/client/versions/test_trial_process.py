from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.data.training_buffer import TrainingBuffer
from client.versions.trial import Limit, TrialResult
from client.versions.trial_process import InlineTrial, TrialError, TrialProcess, TrialRequest, findings_of
from common.model.schema import Schema
from tests.client.sample_versions import SCHEMA, rows, version


@pytest.fixture
def case(tmp_path: Path) -> TrialRequest:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 1000)
    buffer.append(rows(800), np.arange(800) == 0)
    for number in (1, 2):
        (tmp_path / f"{number}.safetensors").write_bytes(version(number).pack())
    return TrialRequest(
        tmp_path, SCHEMA, tmp_path / "2.safetensors", Limit(None, 1e-3), tmp_path / "1.safetensors", 10.0
    )


def waited(trial: TrialProcess) -> TrialResult:
    deadline = time.monotonic() + 120
    while (found := trial.findings()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_process_finds_what_this_one_would(case: TrialRequest) -> None:
    trial = TrialProcess(case)
    assert psutil.Process(trial._child.pid).nice() > psutil.Process().nice()
    found, own = waited(trial), InlineTrial(case).findings()
    trial.end()
    assert (found.wrong, found.windows) == (own.wrong, own.windows) == (None, 800)
    assert found.scores.quantile(0.9) == pytest.approx(own.scores.quantile(0.9), rel=0.05)
    assert found.calibration and own.calibration


def test_an_objection_comes_back_in_words(case: TrialRequest) -> None:
    (case.folder / "bad.safetensors").write_bytes(version(3, seed=1, scale=8.0).pack())
    trial = TrialProcess(replace(case, version=case.folder / "bad.safetensors"))
    assert "times that of version 1" in str(waited(trial).wrong)
    trial.end()


def test_a_fixed_threshold_and_a_first_version_travel_too(case: TrialRequest) -> None:
    trial = TrialProcess(replace(case, limit=Limit(1e9, 1e-3), live=None))
    assert waited(trial).wrong is None
    trial.end()


def test_other_features_are_an_objection_that_names_them(case: TrialRequest) -> None:
    assert "'c'" in str(findings_of(replace(case, schema=Schema(("a", "b", "x")), live=None)).wrong)


def test_without_kept_events_nothing_is_scored(case: TrialRequest) -> None:
    (case.folder / "buffer.ring").unlink()
    found = findings_of(case)
    assert (found.wrong, found.windows, found.scores.count) == (None, 0, 0)


def test_a_process_that_fails_is_a_failed_trial(case: TrialRequest) -> None:
    trial = TrialProcess(replace(case, version=case.folder / "nothing"))
    with pytest.raises(TrialError, match="code 1"):
        waited(trial)
    trial.end()


def test_a_trial_may_not_take_for_ever(case: TrialRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.versions.trial_process.MAX_S", 0.0)
    trial = TrialProcess(case)
    with pytest.raises(TrialError, match="took longer"):
        waited(trial)
    trial.end()
    assert trial._child.returncode is not None
