"""The model and the data that both sides of the app use."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray


def load_model(features: int, hidden: Sequence[int]) -> keras.Model:
    """Build and compile an autoencoder with ReLU hidden layers and a linear output layer."""
    model = keras.Sequential(
        [
            keras.Input((features,)),
            *(keras.layers.Dense(width, activation="relu") for width in hidden),
            keras.layers.Dense(features),
        ]
    )
    model.compile(optimizer="adam", loss="mse")
    return model


def load_data(file: str, holdout: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the training rows and the held-out rows, which are the last ones."""
    rows = np.load(file)
    split = len(rows) - round(len(rows) * holdout)
    return rows[:split], rows[split:]
