from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from common.model.manifest import Manifest
from common.model.moments import Scaler
from common.model.scoring import scores
from common.settings import ScalingSettings
from tests.client.training.samples import ROWS, client_rows, personal_version, version

TRAINERS = TrainerCache()


def personalised(manifest: Manifest, rows: ClientRows | None = None) -> Manifest:
    return personalise(manifest, rows or client_rows(), TRAINERS)


def test_a_client_uses_a_share_of_the_weights_tuned_on_its_own_rows() -> None:
    fleet = personal_version()
    own = personalised(fleet)
    trusting = personalised(personal_version(prior=10**9))
    tuned = personalised(personal_version(prior=1))
    share = 88 / (88 + 90)
    for name, array in fleet.weights.items():
        assert not np.array_equal(array, tuned.weights[name])
        whole = array + (tuned.weights[name] - array) * (89 / 88)
        np.testing.assert_allclose(own.weights[name], array + share * (whole - array), atol=1e-5)
        np.testing.assert_allclose(trusting.weights[name], array, atol=1e-5)
    usual = trusting.architecture.recency_weights(0.8) / (2.02 * 1.01)
    np.testing.assert_allclose(trusting.precision, usual, rtol=1e-3)


def test_a_personalised_version_has_the_clients_mean_and_the_fleets_spread() -> None:
    fleet = personal_version()
    own = personalised(fleet)
    np.testing.assert_allclose(own.moments.mean, ROWS.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(own.moments.variance, fleet.moments.within / fleet.moments.count)
    assert personalised(fleet).hash == own.hash


def test_own_rows_score_one_on_average_under_a_personalised_version() -> None:
    own = personalised(personal_version(prior=1, decay=1.0))
    scaled = Scaler.chosen(ScalingSettings(), own.moments, own.moments).apply(ROWS[:90])
    result = scores(own.architecture, own.weights, scaled, None, own.precision)
    assert result.mean() == pytest.approx(1, rel=0.05)


def test_a_version_stays_the_same_if_the_settings_ask_for_no_personalisation() -> None:
    assert personalised(version()).hash == replace(version(), personalised=True).hash


def test_a_personalised_version_is_marked() -> None:
    assert not personal_version().personalised
    assert personalised(personal_version()).personalised


def test_without_tensorflow_the_input_weights_are_personal_and_the_weights_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "client.training.trainer", None)
    fleet = personal_version()
    own = personalise(fleet, client_rows(), TrainerCache())
    assert all(np.array_equal(own.weights[n], fleet.weights[n]) for n in fleet.weights)
    assert not np.array_equal(own.precision, fleet.precision)


def test_neither_held_out_nor_test_rows_change_a_personalised_version() -> None:
    other = ROWS.copy()
    other[90:] = ROWS[:10]
    fleet = version(scaling={"by": "fleet"}, scoring={"normalise": True, "personal_epochs": 2})
    assert personalised(fleet).hash == personalised(fleet, client_rows(other, test=other[:50])).hash
