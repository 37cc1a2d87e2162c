"""The shape of an autoencoder, independent of any framework: widths, activations, initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.detectors.autoencoder import Layer
from common.model.weights import Shapes, Weights
from common.settings import Activation, ModelSettings, PositiveInt


@dataclass(frozen=True)
class Architecture:
    """A dense autoencoder over a window of events.

    Its input is the last `window` events of `features` values each, flattened, the oldest event first.

    >>> Architecture(features=19, window=10, hidden=(64, 16, 64)).widths
    (190, 64, 16, 64, 190)
    """

    features: PositiveInt
    window: PositiveInt = 1
    hidden: tuple[PositiveInt, ...] = (64, 16, 64)
    activation: Activation = "relu"
    output_activation: Activation = "linear"

    @classmethod
    def from_settings(cls, settings: ModelSettings, features: int) -> Self:
        """Return the architecture that the settings describe, for a number of features."""
        return cls(features=features, **settings.model_dump())

    @property
    def inputs(self) -> int:
        """Number of values in one window."""
        return self.window * self.features

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of values before the first layer and after each layer."""
        return (self.inputs, *self.hidden, self.inputs)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activation of each layer."""
        return (*[self.activation] * len(self.hidden), self.output_activation)

    @property
    def shapes(self) -> Shapes:
        """The shape of each weight array, by name. Kernels are (inputs, outputs)."""
        shapes: Shapes = {}
        for layer, (inputs, outputs) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            shapes[f"dense_{layer}/kernel"] = (inputs, outputs)
            shapes[f"dense_{layer}/bias"] = (outputs,)
        return shapes

    def layers(self, weights: Weights) -> list[Layer]:
        """Return kernel, bias and activation of each layer."""
        return [
            (weights[f"dense_{layer}/kernel"], weights[f"dense_{layer}/bias"], activation)
            for layer, activation in enumerate(self.activations)
        ]

    def recency_weights(self, decay: float) -> NDArray[np.float32]:
        """Return a weight for each input that falls with the age of its event.

        Args:
            decay: Weight of an event, as a share of the weight of the next one.

        Returns:
            Shape (inputs,), mean 1.

        >>> Architecture(features=1, window=3).recency_weights(0.5).astype(float).round(2).tolist()
        [0.43, 0.86, 1.71]
        """
        events = decay ** np.arange(self.window - 1, -1, -1.0)
        return np.repeat(events / events.mean(), self.features).astype(np.float32)

    def initial_weights(self, seed: int) -> Weights:
        """Return Glorot-uniform kernels and zero biases, as Keras draws them by default.

        Source: Glorot and Bengio 2010, equation 16.
        """
        rng = np.random.default_rng(seed)
        weights: Weights = {}
        for name, shape in self.shapes.items():
            if len(shape) == 1:
                weights[name] = np.zeros(shape, np.float32)
            else:
                limit = np.sqrt(6 / sum(shape))
                weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        return weights
