from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from client.training.trainer_cache import TrainerCache, TrainingUnavailableError
from common.settings import Settings
from tests.client.training.samples import version


def test_the_trainer_is_kept_while_the_model_stays_the_same() -> None:
    trainers, shape, settings = TrainerCache(), version().architecture, Settings().training
    assert trainers(shape, settings) is trainers(shape, settings)
    assert trainers(replace(shape, window=2), settings) is not trainers(shape, settings)


def test_without_tensorflow_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "client.training.trainer", None)
    with pytest.raises(TrainingUnavailableError, match="extra 'train'"):
        TrainerCache()(version().architecture, Settings().training)
