"""Training: it learns, it repeats itself exactly, and it agrees with the NumPy forward pass."""

from __future__ import annotations

from typing import get_args

import keras
import numpy as np
import pytest

from client.training.trainer import Trainer
from common.model.scoring import reconstruct, scores, window_starts, windows
from common.model.weights import Architecture, norm, subtract
from common.settings import Activation, TrainingSettings

SHAPE = Architecture(features=3, window=2, hidden=(8, 4, 8))
ROWS = np.random.default_rng(0).standard_normal((400, 1)).astype(np.float32) @ np.ones((1, 3), np.float32)


def trainer(**settings: object) -> Trainer:
    return Trainer(
        SHAPE, TrainingSettings.model_validate({"batch_size": 16, "learning_rate": 0.01} | settings)
    )


def test_training_lowers_the_error() -> None:
    first = SHAPE.initial_weights(0)
    trained, loss = trainer().fit(first, ROWS, epochs=30, seed=0)
    assert scores(SHAPE, trained, ROWS).mean() < 0.5 * scores(SHAPE, first, ROWS).mean()
    assert loss == pytest.approx(scores(SHAPE, trained, ROWS).mean(), rel=0.5)


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    one = trainer()
    first = SHAPE.initial_weights(0)
    again, other = (one.fit(first, ROWS, 2, seed)[0] for seed in (7, 8))
    same, _ = trainer().fit(first, ROWS, 2, 7)
    assert all(np.array_equal(again[name], same[name]) for name in first)
    assert not all(np.array_equal(again[name], other[name]) for name in first)


def test_each_fit_starts_with_a_new_optimiser() -> None:
    one = trainer()
    first = SHAPE.initial_weights(0)
    before, _ = one.fit(first, ROWS, 1, 0)
    one.fit(SHAPE.initial_weights(1), 100 * ROWS, 3, 1)
    after, _ = one.fit(first, ROWS, 1, 0)
    assert all(np.array_equal(before[name], after[name]) for name in first)


def test_only_the_windows_of_starts_are_trained_on() -> None:
    first = SHAPE.initial_weights(0)
    poisoned = ROWS.copy()
    poisoned[200:] = 1e6
    chosen = np.arange(199, dtype=np.int32)
    clean, _ = trainer().fit(first, ROWS, 2, 0, starts=chosen)
    same, _ = trainer().fit(first, poisoned, 2, 0, starts=chosen)
    assert all(np.array_equal(clean[name], same[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_every_optimiser_and_loss_learns(optimizer: str, loss: str) -> None:
    first = SHAPE.initial_weights(0)
    trained, _ = trainer(optimizer=optimizer, loss=loss).fit(first, ROWS, 10, 0)
    assert scores(SHAPE, trained, ROWS).mean() < scores(SHAPE, first, ROWS).mean()


@pytest.mark.parametrize("activation", get_args(Activation))
def test_numpy_and_keras_reconstruct_the_same(activation: Activation) -> None:
    shape = Architecture(3, 2, (8, 2, 8), activation, activation)
    model = Trainer(shape, TrainingSettings())._model
    weights = shape.initial_weights(3)
    model.set_weights([weights[name] for name in shape.shapes])
    inputs = windows(5 * ROWS, 2)
    np.testing.assert_allclose(
        reconstruct(shape, weights, inputs), model.predict(inputs, verbose=0), rtol=1e-5, atol=1e-5
    )


def test_one_epoch_equals_keras_fit_in_the_same_order() -> None:
    first = SHAPE.initial_weights(0)
    ours, _ = trainer().fit(first, ROWS, 1, seed=5)
    inputs = windows(ROWS, 2)[np.random.default_rng(5).permutation(len(ROWS) - 1)]
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *(keras.layers.Dense(width, activation="relu") for width in (8, 4, 8)),
            keras.layers.Dense(6),
        ]
    )
    model.set_weights(list(first.values()))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(inputs, inputs, epochs=1, batch_size=16, shuffle=False, verbose=0)
    for ours_array, theirs in zip(ours.values(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours_array, theirs, rtol=1e-4, atol=1e-6)


def test_the_proximal_term_keeps_weights_near_the_start() -> None:
    architecture = Architecture(3, window=1, hidden=(4,))
    given = architecture.initial_weights(0)
    rows = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)

    def moved(mu: float) -> float:
        trainer = Trainer(architecture, TrainingSettings(proximal_mu=mu, learning_rate=0.1, optimizer="sgd"))
        trainer.fit(architecture.initial_weights(1), rows, 1, 1)  # what was given before is forgotten
        trained, _ = trainer.fit(given, rows, 100, 0)
        return norm(subtract(trained, given))

    free, held, tight = moved(0.0), moved(0.3), moved(3.0)
    assert free > 1.3 * held > 1.3 * tight > 0


def test_frozen_layers_keep_their_weights_and_the_others_learn() -> None:
    first = SHAPE.initial_weights(0)
    trained, _ = trainer(frozen=2).fit(first, ROWS, epochs=2, seed=0)
    kept = [name for name in first if np.array_equal(first[name], trained[name])]
    assert kept == ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]


# Missing values.


def with_gaps(share: float, seed: int = 1) -> np.ndarray:
    missing = np.random.default_rng(seed).random(ROWS.shape) < share
    return np.where(missing, np.float32(np.nan), ROWS)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_rows_with_missing_values_are_learned(loss: str) -> None:
    first = SHAPE.initial_weights(0)
    trained, _ = trainer(loss=loss).fit(first, with_gaps(0.2), epochs=30, seed=0)
    assert scores(SHAPE, trained, ROWS).mean() < 0.5 * scores(SHAPE, first, ROWS).mean()
    assert np.nanmean(scores(SHAPE, trained, with_gaps(0.2, 2))) < scores(SHAPE, first, ROWS).mean()


def test_the_loss_of_rows_with_missing_values_is_their_score() -> None:
    rows, first = with_gaps(0.3), SHAPE.initial_weights(0)
    starts = window_starts(rows, np.zeros(len(rows), np.bool_), SHAPE.window)
    still = trainer(optimizer="sgd", learning_rate=1e-12, batch_size=len(starts))
    _, loss = still.fit(first, rows, 1, 0, starts)
    assert loss == pytest.approx(scores(SHAPE, first, rows, starts).mean(), rel=1e-5)


def test_a_missing_value_elsewhere_changes_nothing_of_what_is_learned() -> None:
    first, starts = SHAPE.initial_weights(0), np.arange(199, dtype=np.int32)
    rows = ROWS.copy()
    rows[300] = np.nan
    plain, _ = trainer().fit(first, ROWS, 2, 0, starts)
    masked, _ = trainer().fit(first, rows, 2, 0, starts)
    for name in first:
        np.testing.assert_allclose(masked[name], plain[name], rtol=1e-3, atol=1e-5)


def test_a_feature_that_is_never_there_teaches_nothing_about_it() -> None:
    first, rows = SHAPE.initial_weights(0), ROWS.copy()
    rows[:, 2] = np.nan
    trained, _ = trainer().fit(first, rows, 3, 0)
    last = f"dense_{len(SHAPE.hidden)}"
    for part in ("kernel", "bias"):
        before, after = first[f"{last}/{part}"], trained[f"{last}/{part}"]
        assert np.array_equal(before[..., [2, 5]], after[..., [2, 5]])
        assert not np.array_equal(before, after)


def test_windows_without_any_value_do_not_spoil_the_weights() -> None:
    rows = ROWS.copy()
    rows[50:60] = np.nan
    trained, loss = trainer().fit(SHAPE.initial_weights(0), rows, 2, 0)
    assert np.isfinite(loss)
    assert all(np.isfinite(array).all() for array in trained.values())
