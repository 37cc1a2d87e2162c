"""The model and the data, as both sides of the app use them."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray


def load_model(features: int, hidden: Sequence[int]) -> keras.Model:
    """A compiled autoencoder: ReLU inside, linear outside."""
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
    """The rows to train on and the held-out ones, which are the last."""
    rows = np.load(file)
    split = len(rows) - round(len(rows) * holdout)
    return rows[:split], rows[split:]
