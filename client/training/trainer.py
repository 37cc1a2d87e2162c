"""Training in Keras, which only this file imports. A process keeps one model and one compiled epoch.

A model that is rebuilt in each round leaks megabytes a round; one that is kept and given weights does not.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN sums in an order that depends on the processor, logs this at each start, and is no faster on these
# layers (measured: 22 ms an epoch of 5,000 x 38 with it, 22 ms without).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from common.model.weights import Architecture, Weights
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
    """A Keras autoencoder with a compiled training epoch, which is given weights and returns trained ones.

    Args:
        architecture: The model's shape.
        settings: Optimiser, loss, batch size and frozen layers.
    """

    def __init__(self, architecture: Architecture, settings: TrainingSettings) -> None:
        self.architecture = architecture
        self.settings = settings
        self._model = build_model(architecture)
        for layer in self._model.layers[: settings.frozen]:
            layer.trainable = False
        self._optimizer = _OPTIMIZERS[settings.optimizer](settings.learning_rate)
        self._optimizer.build(self._model.trainable_variables)
        self._optimizer_start = [variable.numpy() for variable in self._optimizer.variables]
        self._start = [tf.Variable(v, trainable=False) for v in self._model.trainable_variables]
        # Each is compiled when it is first used: the second one only if a value is missing.
        self._epoch, self._masked_epoch = (
            _epoch_of(self._model, self._optimizer, self._start, architecture, settings, masked)
            for masked in (False, True)
        )

    def fit(
        self,
        weights: Weights,
        rows: NDArray[np.float32],
        epochs: int,
        seed: int,
        starts: NDArray[np.int32] | None = None,
    ) -> tuple[Weights, float]:
        """Train from `weights` with a new optimiser.

        Args:
            weights: The weights to start from.
            rows: Scaled training rows in time order, shape (n, features), n >= window; NaN where a value is
                missing: the model gets 0 there, and the error is left out of the loss.
            epochs: Passes over all windows.
            seed: Seed of the order of the windows.
            starts: First row of each window; None: every row.

        Returns:
            The trained weights, and the mean loss of the last epoch.
        """
        self._model.set_weights([weights[name] for name in self.architecture.shapes])
        for variable, value in zip(self._optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(value)
        for start, variable in zip(self._start, self._model.trainable_variables, strict=True):
            start.assign(variable)
        rng = np.random.default_rng(seed)
        if starts is None:
            starts = np.arange(len(rows) - self.architecture.window + 1, dtype=np.int32)
        data = tf.constant(rows)
        epoch = self._masked_epoch if np.isnan(rows).any() else self._epoch
        loss = 0.0
        for _ in range(epochs):
            loss = float(epoch(data, tf.constant(rng.permutation(starts))))
        trained = zip(self.architecture.shapes, self._model.get_weights(), strict=True)
        return dict(trained), loss


def build_model(architecture: Architecture) -> keras.Model:
    """Build the autoencoder, with weights drawn by Keras."""
    layers = [keras.Input((architecture.inputs,))]
    for width, activation in zip(architecture.widths[1:], architecture.activations, strict=True):
        layers.append(keras.layers.Dense(width, activation=activation))
    return keras.Sequential(layers)


def _epoch_of(
    model: keras.Model,
    optimizer: Any,
    start: list[tf.Variable],
    architecture: Architecture,
    settings: TrainingSettings,
    masked: bool,
) -> Any:
    """Make one pass over all windows that compiles to a graph, about ten times faster than `model.fit` here.

    Windows are gathered for each batch, so memory holds the rows once and not `window` times.

    Args:
        model: The autoencoder.
        optimizer: Its optimiser, already built.
        start: The weights that training started from, for the proximal term.
        architecture: The model's shape.
        settings: Loss, batch size and the weight of the proximal term.
        masked: Whether rows have NaN where a value is missing.

    Returns:
        A function of scaled rows and the first rows of the windows, which returns the mean loss.
    """
    loss_of = _LOSSES[settings.loss]()
    loss_of_each = _LOSSES[settings.loss](reduction=None)
    offsets = tf.range(architecture.window)

    def masked_loss(inputs: tf.Tensor) -> tf.Tensor:
        missing = tf.math.is_nan(inputs)
        output = model(tf.where(missing, 0.0, inputs), training=True)
        # A missing value has no error and no gradient. The mean error of a window is that of its present
        # inputs.
        losses = loss_of_each(tf.where(missing, tf.stop_gradient(output), inputs), output)
        present = tf.reduce_sum(tf.cast(~missing, tf.float32), axis=1)
        return tf.reduce_mean(losses * architecture.inputs / tf.maximum(present, 1.0))

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
                loss = masked_loss(inputs) if masked else loss_of(inputs, model(inputs, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            if settings.proximal_mu:  # the gradient of mu / 2 * |w - w_start|^2: Li et al. 2020, equation 2
                pairs = zip(gradients, model.trainable_variables, start, strict=True)
                gradients = [g + settings.proximal_mu * (w.value - w0) for g, w, w0 in pairs]
            optimizer.apply(gradients, model.trainable_variables)
            total += loss * tf.cast(tf.shape(batch)[0], tf.float32)
        return total / tf.cast(count, tf.float32)

    return epoch
