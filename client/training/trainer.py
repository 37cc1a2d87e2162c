"""Training: the only file that imports Keras. One model and one compiled epoch per process, kept.

A model rebuilt for each round leaks megabytes a round; one that is kept and given weights does not.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN sums in an order that depends on the processor, says so at each start, and gains nothing on these
# layers (measured: 22 ms an epoch of 5,000 x 38 with it, 22 ms without).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from common.model.architecture import Architecture
from common.model.weights import Weights
from common.settings import TrainingSettings

_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
_LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "huber": keras.losses.Huber,
}


class Trainer:
    """A Keras autoencoder that can be given weights, trained, and asked for weights.

    Args:
        architecture: The model's shape.
        settings: Optimiser, loss, epochs and batch size.
    """

    def __init__(self, architecture: Architecture, settings: TrainingSettings) -> None:
        self.architecture = architecture
        self.settings = settings
        self._model = build(architecture)
        for layer in self._model.layers[: settings.frozen]:
            layer.trainable = False
        self._optimizer = _OPTIMIZERS[settings.optimizer](settings.learning_rate)
        self._optimizer.build(self._model.trainable_variables)
        self._fresh = [variable.numpy() for variable in self._optimizer.variables]
        self._given = [tf.Variable(v, trainable=False) for v in self._model.trainable_variables]
        self._epoch = _compile_epoch(self._model, self._optimizer, self._given, architecture, settings)

    def fit(
        self,
        weights: Weights,
        rows: NDArray[np.float32],
        epochs: int,
        seed: int,
        starts: NDArray[np.int32] | None = None,
    ) -> tuple[Weights, float]:
        """Train from `weights` with a fresh optimiser.

        Args:
            weights: Where to start.
            rows: Scaled training rows in time order, shape (n, features), n >= window.
            epochs: Passes over all windows.
            seed: Of the order of the windows.
            starts: Where windows begin, if not at every row.

        Returns:
            The trained weights, and the mean loss of the last epoch.
        """
        self._model.set_weights([weights[name] for name in self.architecture.shapes])
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        for given, variable in zip(self._given, self._model.trainable_variables, strict=True):
            given.assign(variable)
        rng = np.random.default_rng(seed)
        if starts is None:
            starts = np.arange(len(rows) - self.architecture.window + 1, dtype=np.int32)
        data = tf.constant(rows)
        loss = 0.0
        for _ in range(epochs):
            loss = float(self._epoch(data, tf.constant(rng.permutation(starts))))
        trained = zip(self.architecture.shapes, self._model.get_weights(), strict=True)
        return dict(trained), loss


def build(architecture: Architecture) -> keras.Model:
    """The autoencoder, with weights drawn by Keras."""
    layers = [keras.Input((architecture.inputs,))]
    for width, activation in zip(architecture.widths[1:], architecture.activations, strict=True):
        layers.append(keras.layers.Dense(width, activation=activation))
    return keras.Sequential(layers)


def _compile_epoch(
    model: keras.Model,
    optimizer: Any,
    given: list[tf.Variable],
    architecture: Architecture,
    settings: TrainingSettings,
) -> Any:
    """One pass over all windows as a single graph: about ten times faster than `model.fit` on small models.

    Windows are gathered batch by batch, so memory holds the rows once and not `window` times.
    """
    loss_of = _LOSSES[settings.loss]()
    offsets = tf.range(architecture.window)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec((None, architecture.features), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ]
    )
    def epoch(rows: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        count = tf.shape(starts)[0]
        for first in tf.range(0, count, settings.batch_size):
            batch = starts[first : first + settings.batch_size]
            inputs = tf.reshape(tf.gather(rows, batch[:, None] + offsets), (-1, architecture.inputs))
            with tf.GradientTape() as tape:
                loss = loss_of(inputs, model(inputs, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            if settings.proximal_mu:  # the gradient of mu / 2 * |w - w_given|^2: Li et al. 2020, equation 2
                pairs = zip(gradients, model.trainable_variables, given, strict=True)
                gradients = [g + settings.proximal_mu * (w.value - w0) for g, w, w0 in pairs]
            optimizer.apply(gradients, model.trainable_variables)
            total += loss * tf.cast(tf.shape(batch)[0], tf.float32)
        return total / tf.cast(count, tf.float32)

    return epoch
