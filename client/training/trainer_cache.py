"""Access to the trainer, which is loaded at its first use: importing Keras takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from common.model.architecture import Architecture
from common.settings import TrainingSettings

if TYPE_CHECKING:
    from client.training.trainer import Trainer

TrainerFactory = Callable[[Architecture, TrainingSettings], "Trainer"]
"""Returns a trainer for a model and settings; raises `TrainingUnavailableError` if it cannot."""


class TrainingUnavailableError(RuntimeError):
    """TensorFlow is not installed on this machine."""


class TrainerCache:
    """A `TrainerFactory` that keeps the last trainer: making one compiles a graph."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    def __call__(self, architecture: Architecture, settings: TrainingSettings) -> Trainer:
        """Return a trainer, the kept one if the model and the settings are the same.

        Raises:
            TrainingUnavailableError: TensorFlow is not installed.
        """
        trainer = self._trainer
        if trainer is None or (trainer.architecture, trainer.settings) != (architecture, settings):
            try:
                from client.training.trainer import Trainer
            except ImportError as error:
                raise TrainingUnavailableError(
                    f"training needs TensorFlow, which is not installed here ({error}): "
                    "install flockwatch with its extra 'train'"
                ) from error
            self._trainer = trainer = Trainer(architecture, settings)
        return trainer
