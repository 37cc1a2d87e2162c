"""With new moments a version stays the same function of a client's rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import LagCovariances
from common.model.manifest import Manifest
from common.model.moments import Moments, Scaler
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import score_windows, version_scores
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture, Weights, add, subtract
from server.versions.rescaling import Rescaling, rescaled

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(400, 3)).astype(np.float32) * [1, 5, 0.2] + [0, 3, 9]
WINDOW = 2


def weights(seed: int) -> Weights:
    shapes = Architecture(3, window=WINDOW, hidden=(5, 4)).shapes
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) * 0.4 for name, shape in shapes.items()}


def version(by: str, rows: np.ndarray = ROWS) -> Manifest:
    settings = VersionSettings.parse({"scaling": {"by": by, "clip": None}})
    architecture = Architecture(3, window=WINDOW, hidden=(5, 4))
    return Manifest(
        version=3, schema=Schema(("a", "b", "c")), architecture=architecture, weights=weights(1),
        moments=Moments.of(rows), settings=settings, scores=ScoreHistogram.of(np.ones(9)),
    )  # fmt: skip


def scores(manifest: Manifest) -> np.ndarray:
    scaler = Scaler.chosen(manifest.settings.scaling, manifest.moments, Moments.of(ROWS))
    return version_scores(manifest, scaler.apply(ROWS.astype(np.float32)))


def with_residuals(manifest: Manifest) -> Manifest:
    scaler = Scaler.chosen(manifest.settings.scaling, manifest.moments, Moments.of(ROWS))
    result = score_windows(manifest.architecture, manifest.weights, scaler.apply(ROWS.astype(np.float32)))
    return replace(manifest, residuals=result.residuals)


OTHER = Moments.of(ROWS * [2.0, 0.5, 1.0] + [1.0, 0.0, 0.0])


@pytest.mark.parametrize("by", ["shared", "fleet"])
def test_a_rescaled_version_gives_the_same_scores(by: str) -> None:
    given = with_residuals(version(by))
    result = rescaled(given, OTHER)
    assert result is not None
    again, change = result
    assert again.moments is OTHER
    assert change.ratio[0] == pytest.approx(0.5, rel=0.01)
    np.testing.assert_allclose(again.residuals.squares, with_residuals(again).residuals.squares, rtol=1e-3)
    # All but the floor under the usual error of an input, which is a share of the mean over all of them.
    assert np.corrcoef(scores(given), scores(again))[0, 1] > 0.999
    np.testing.assert_allclose(scores(again), scores(given), rtol=0.1)


@pytest.mark.parametrize("by", ["client", "none"])
def test_clients_that_scale_by_themselves_need_no_new_version(by: str) -> None:
    assert rescaled(version(by), OTHER) is None


def test_a_small_change_is_not_worth_a_new_scaler() -> None:
    assert rescaled(version("shared"), Moments.of(ROWS * 1.2)) is None
    assert rescaled(version("shared"), Moments.of(ROWS + 0.5)) is None
    assert rescaled(version("fleet"), Moments.of(ROWS * [1, 1, 1] + [0.5, 0, 0])) is not None


@pytest.mark.parametrize("by", ["shared", "fleet"])
def test_an_update_of_the_version_before_goes_the_same_way(by: str) -> None:
    change = Rescaling.between(version(by).settings.scaling, Moments.of(ROWS), OTHER)
    before, trained = weights(1), weights(2)
    expected = change.of_weights(trained, WINDOW)
    update = change.of_difference(subtract(trained, before), WINDOW)
    result = add(change.of_weights(before, WINDOW), update)
    for name, array in expected.items():
        np.testing.assert_allclose(result[name], array, atol=1e-5)


def test_without_residuals_there_are_none() -> None:
    change = Rescaling.between(version("shared").settings.scaling, Moments.of(ROWS), OTHER)
    assert change.of_residuals(Residuals(), WINDOW).count == 0


def test_covariances_of_the_fleet_follow_its_scale() -> None:
    starts = np.arange(len(ROWS) - WINDOW + 1, dtype=np.int32)
    before, after = (
        LagCovariances.of(
            Scaler.chosen(version("shared").settings.scaling, moments, Moments.of(ROWS)).apply(
                ROWS.astype(np.float32)
            ),
            starts,
            WINDOW,
        )
        for moments in (Moments.of(ROWS), OTHER)
    )
    result = rescaled(replace(version("shared"), covariances=before), OTHER)
    assert result is not None and result[0].covariances is not None
    np.testing.assert_allclose(result[0].covariances.values, after.values, rtol=1e-3, atol=1e-4)
