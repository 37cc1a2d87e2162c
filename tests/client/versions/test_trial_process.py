from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.buffers.training_buffer import TrainingBuffer
from client.versions.trial import ThresholdRule
from client.versions.trial_process import InlineTrial, TrialError, TrialProcess, TrialRequest, run_request
from common.model.residuals import Residuals
from common.model.schema import Schema
from tests.client.sample_versions import SCHEMA, rows, version
from tests.waiting import eventually


@pytest.fixture
def trial_request(tmp_path: Path) -> TrialRequest:
    buffer = TrainingBuffer(tmp_path, SCHEMA, 1000)
    buffer.append(rows(800), np.arange(800) == 0)
    for number in (1, 2):
        (tmp_path / f"{number}.safetensors").write_bytes(version(number).pack())
    return TrialRequest(
        tmp_path,
        SCHEMA,
        tmp_path / "2.safetensors",
        ThresholdRule(None, 1e-3),
        tmp_path / "1.safetensors",
        10.0,
    )


def test_a_process_returns_the_same_result_as_an_inline_trial(trial_request: TrialRequest) -> None:
    trial = TrialProcess(trial_request)
    assert psutil.Process(trial._child.pid).nice() > psutil.Process().nice()
    result, own = eventually(trial.result), InlineTrial(trial_request).result()
    trial.close()
    assert (result.rejection, result.windows) == (own.rejection, own.windows) == (None, 800)
    assert result.scores.quantile(0.9) == pytest.approx(own.scores.quantile(0.9), rel=0.05)


def test_a_rejection_comes_back_with_its_reason(trial_request: TrialRequest) -> None:
    (trial_request.folder / "bad.safetensors").write_bytes(version(3, seed=1, scale=8.0).pack())
    trial = TrialProcess(replace(trial_request, new=trial_request.folder / "bad.safetensors"))
    assert "times that of version 1" in str(eventually(trial.result).rejection)
    trial.close()


def test_the_process_tries_faults(trial_request: TrialRequest) -> None:
    blind = replace(version(3), residuals=Residuals(1, np.array([1.0, 1.0, 1e9])))
    (trial_request.folder / "blind.safetensors").write_bytes(blind.pack())
    request = replace(trial_request, new=trial_request.folder / "blind.safetensors")
    assert "synthetic faults of 'c'" in str(run_request(request).rejection)


def test_a_fixed_threshold_and_a_first_version_reach_the_process(trial_request: TrialRequest) -> None:
    trial = TrialProcess(replace(trial_request, rule=ThresholdRule(1e9, 1e-3), current=None))
    assert eventually(trial.result).rejection is None
    trial.close()


def test_a_version_of_other_features_is_rejected_with_their_names(trial_request: TrialRequest) -> None:
    assert "'c'" in str(
        run_request(replace(trial_request, schema=Schema(("a", "b", "x")), current=None)).rejection
    )


def test_without_buffered_events_nothing_is_scored(trial_request: TrialRequest) -> None:
    (trial_request.folder / "buffer.ring").unlink()
    result = run_request(trial_request)
    assert (result.rejection, result.windows, result.scores.count) == (None, 0, 0)


def test_a_process_that_fails_is_a_failed_trial(trial_request: TrialRequest) -> None:
    trial = TrialProcess(replace(trial_request, new=trial_request.folder / "nothing"))
    with pytest.raises(TrialError, match="code 1"):
        eventually(trial.result)
    trial.close()


def test_a_trial_has_a_deadline(trial_request: TrialRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.versions.trial_process.MAX_TRIAL_S", 0.0)
    trial = TrialProcess(trial_request)
    with pytest.raises(TrialError, match="took longer"):
        eventually(trial.result)
    trial.close()
    assert trial._child.returncode is not None
