"""`detector.family`: detectors of sums over the fleet and of a client's own rows score in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from client.buffers.training_buffer import BufferedRows
from client.detection.scorer import Scorer
from client.training.own_detectors import MIN_WINDOWS
from client.training.personalisation import personalise
from client.training.worker import TrainerCache
from client.versions.trial import buffer_scores
from common.detectors.choice import AUTOENCODER, FAMILIES, FLEET_FOREST, FLEET_GAUSSIAN, FLEET_PCA, MEMBERS
from common.detectors.contract import DetectorState
from common.detectors.ensemble import MIN_SHARE, EnsembleState, voting_weights
from common.model.lag_covariances import LagCovariances
from common.model.leaf_counts import LeafCounts, trees_of
from common.model.manifest import Manifest, ManifestError
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.settings import DetectorFamily, Settings
from tests.client.training.samples import client_rows, version

if TYPE_CHECKING:
    from client.training.trainer import Trainer

ROWS = np.cumsum(np.random.default_rng(3).standard_normal((600, 2)), axis=0).astype(np.float32)
ROWS = ROWS - np.float32(0.02) * np.cumsum(ROWS, axis=0)  # they wander, and come back
FOLLOWS = np.arange(len(ROWS)) == 0


def fleet(family: str = "ensemble") -> Manifest:
    made = version(
        detector={"family": family}, scaling={"by": "shared", "clip": 10.0},
        scoring={"personal_epochs": 0, "prior": 90},
    )  # fmt: skip
    return replace(made, residuals=Residuals.of(np.full((1000, 6), 2.0)))


def personal(family: str = "ensemble", rows: np.ndarray = ROWS) -> Manifest:
    return personalise(fleet(family), client_rows(rows), TrainerCache())


def test_a_client_adds_detectors_of_its_own_rows() -> None:
    own = personal()
    assert own.ensemble is not None
    assert list(own.ensemble.tails) == [AUTOENCODER, "pca", "isolation_forest", "kmeans"]
    assert own.personalised and own.hash != personal("autoencoder").hash


def test_an_ensemble_is_the_default() -> None:
    assert Settings().detector.family == "ensemble"
    assert personal("autoencoder").ensemble is None


def test_covariances_of_the_fleet_replace_the_own() -> None:
    starts = np.arange(598, dtype=np.int32)
    like, unlike = (
        LagCovariances.of(rows.astype(np.float32), starts, 3)
        for rows in (ROWS, np.random.default_rng(0).standard_normal(ROWS.shape))
    )
    made = [
        personalise(replace(fleet("pca"), covariances=fleets), client_rows(ROWS), TrainerCache())
        for fleets in (like, unlike)
    ]
    for own in made:
        assert own.ensemble is not None
        assert list(own.ensemble.tails) == [FLEET_PCA]
        assert own.covariances is None
        assert Manifest.unpack(own.pack()).hash == own.hash
    components = [m.ensemble.states[FLEET_PCA].by_input["components"] for m in made if m.ensemble]
    assert np.abs(components[0][0] - components[1][0]).max() > 0.01
    plain = personalise(replace(fleet("autoencoder"), covariances=like), client_rows(ROWS), TrainerCache())
    assert plain.hash == personal("autoencoder").hash


def without_trainer(*_: object) -> Trainer:
    raise AssertionError("a family without a network needs no trainer")


STARTS = np.arange(598, dtype=np.int32)
COVARIANCES = LagCovariances.of(ROWS, STARTS, 3)
LEAF_COUNTS = LeafCounts.of(trees_of(fleet().settings, fleet().architecture), ROWS, STARTS, 3)


@pytest.mark.parametrize(("family", "sums", "members"), [
    ("pca", {"covariances": COVARIANCES}, [FLEET_PCA]), ("pca", {}, ["pca"]),
    ("kmeans", {"covariances": COVARIANCES}, ["kmeans"]),
    ("one_class_svm", {}, ["one_class_svm"]),
    ("gaussian", {"covariances": COVARIANCES}, [FLEET_GAUSSIAN]), ("gaussian", {}, ["gaussian"]),
    ("isolation_forest", {"leaf_counts": LEAF_COUNTS}, [FLEET_FOREST]),
    ("isolation_forest", {"covariances": COVARIANCES}, ["isolation_forest"]),
])  # fmt: skip
def test_a_machine_scores_by_one_family_in_place_of_the_autoencoder(
    family: str, sums: dict[str, Any], members: list[str]
) -> None:
    settings = fleet(family).settings.values | {"scoring": {"personal_epochs": 3, "prior": 90}}
    given = replace(fleet(family), settings=VersionSettings.parse(settings), **sums)
    own = personalise(given, client_rows(ROWS), without_trainer)
    assert own.ensemble is not None
    assert list(own.ensemble.tails) == list(own.ensemble.states) == members
    assert Manifest.unpack(own.pack()).hash == own.hash
    scorer, window = Scorer(own), ROWS[400:403].copy()
    usual = scorer.score_window(window)
    window[-1, 1] += 1000
    assert scorer.score_window(window) > max(3 * usual, 5)
    assert scorer.explain(window).share.argmax() == 1


def votes(components: int, own: float = 1.0) -> dict[str, float]:
    """The weights of the default's members with so many principal components of windows of ten values."""
    of_pca = DetectorState({"components": np.eye(10, dtype=np.float32)[:components]})
    return voting_weights((AUTOENCODER, FLEET_PCA, FLEET_FOREST, "kmeans"), {FLEET_PCA: of_pca}, own)


@pytest.mark.parametrize(("components", "reconstruct"), [(1, 0.729), (5, 0.125), (10, MIN_SHARE)])
def test_members_that_reconstruct_count_for_more_the_fewer_components_hold_the_variance(
    components: int, reconstruct: float
) -> None:
    weights = votes(components)
    assert weights[AUTOENCODER] + weights[FLEET_PCA] == pytest.approx(reconstruct)
    assert weights[FLEET_FOREST] == weights["kmeans"] == pytest.approx((1 - reconstruct) / 2)


@pytest.mark.parametrize(("own", "share"), [(0.0, MIN_SHARE), (0.5, 0.35), (1.0, 0.7)])
def test_the_autoencoder_counts_for_more_with_more_own_windows(own: float, share: float) -> None:
    weights = votes(1, own)
    assert weights[AUTOENCODER] == pytest.approx(share * (weights[AUTOENCODER] + weights[FLEET_PCA]))
    assert sum(weights.values()) == pytest.approx(1.0)


def test_votes_count_the_same_without_principal_components_or_with_one_kind_of_members() -> None:
    of_pca = DetectorState({"components": np.eye(10, dtype=np.float32)[:1]})
    assert voting_weights((AUTOENCODER, "kmeans"), {}, 1.0) == {AUTOENCODER: 0.5, "kmeans": 0.5}
    assert voting_weights(("pca",), {"pca": of_pca}, 1.0) == {"pca": 1.0}
    both = voting_weights(("pca", "kmeans"), {"pca": of_pca}, 1.0)
    assert both == {"pca": pytest.approx(0.729), "kmeans": pytest.approx(0.271)}


def test_a_file_holds_the_weights() -> None:
    own = personal()
    again = Manifest.unpack(own.pack()).ensemble
    assert own.ensemble is not None and again is not None
    assert again.weights == pytest.approx(own.ensemble.weights)
    assert len(set(own.ensemble.weights.values())) == 3


def test_a_version_without_weights_has_equal_ones() -> None:
    """A version file of an earlier release."""
    own = personal().ensemble
    assert own is not None
    arrays = {name: array for name, array in own.arrays().items() if not name.startswith("weight/")}
    assert EnsembleState.of_arrays(arrays).weights == dict.fromkeys(own.tails, 0.25)


def test_counts_of_an_unlike_fleet_make_another_forest() -> None:
    other = np.random.default_rng(0).standard_normal(ROWS.shape).astype(np.float32)
    trees = trees_of(fleet().settings, fleet().architecture)
    made = [
        personalise(
            replace(fleet("isolation_forest"), leaf_counts=counts), client_rows(ROWS), without_trainer
        )
        for counts in (LEAF_COUNTS, LeafCounts.of(trees, other, STARTS, 3))
    ]
    lengths = [m.ensemble.states[FLEET_FOREST].other["lengths"] for m in made if m.ensemble]
    assert np.abs(lengths[0] - lengths[1]).max() > 1
    assert all(m.leaf_counts is None for m in made)


def test_every_family_in_the_settings_has_detectors() -> None:
    assert set(get_args(DetectorFamily)) == FAMILIES.keys()
    assert {name for members in FAMILIES.values() for name in members} <= {AUTOENCODER, *MEMBERS}


def test_with_few_rows_the_autoencoder_scores_alone() -> None:
    assert personal(rows=ROWS[: MIN_WINDOWS - 5]).ensemble is None


def test_the_version_has_the_scores_of_its_own_held_out_rows() -> None:
    own = personal()
    assert own.scores.count == 58  # a tenth of the rows, without the first two
    assert own.scores.quantile(0.5) == pytest.approx(0.7, abs=0.35)


def test_a_file_holds_the_same_version() -> None:
    own = personal()
    again = Manifest.unpack(own.pack())
    assert again.hash == own.hash
    events = BufferedRows(ROWS, FOLLOWS)
    np.testing.assert_allclose(buffer_scores(again, events), buffer_scores(own, events), rtol=1e-5)


def test_events_in_another_order_of_features_have_the_same_scores() -> None:
    own = personal()
    turned = own.aligned(Schema(("b", "a")))
    result = buffer_scores(turned, BufferedRows(ROWS[:, ::-1], FOLLOWS))
    np.testing.assert_allclose(result, buffer_scores(own, BufferedRows(ROWS, FOLLOWS)), rtol=1e-3, atol=1e-3)


def test_the_stream_has_the_scores_of_the_file() -> None:
    own = personal()
    scorer, expected = Scorer(own), buffer_scores(own, BufferedRows(ROWS, FOLLOWS))
    one_by_one = [scorer.score_one(row) for row in ROWS[:300]]
    together = scorer.score_many(ROWS[300:])
    np.testing.assert_allclose([*one_by_one[2:], *together], expected, rtol=1e-3, atol=1e-3)


def test_an_explanation_names_the_feature_that_is_unusual() -> None:
    scorer, window = Scorer(personal()), ROWS[400:403].copy()
    window[-1, 1] += 60
    why = scorer.explain(window)
    assert why.share.argmax() == 1 and why.share.sum() == pytest.approx(1, abs=1e-4)
    assert scorer.score_window(window) > 3 * scorer.score_window(ROWS[400:403])


def test_a_missing_feature_has_no_share() -> None:
    scorer, window = Scorer(personal()), ROWS[400:403].copy()
    window[:, 0] = np.nan
    assert scorer.explain(window).share.tolist() == pytest.approx([0, 1])
    assert np.isfinite(scorer.score_window(window))


def test_a_version_with_detectors_that_do_not_fit_is_refused() -> None:
    own = personal()
    state = own.ensemble
    assert state is not None
    other = {name: one.take(np.arange(4)) for name, one in state.states.items()}
    with pytest.raises(ManifestError, match="for 4 inputs, expected 6"):
        replace(own, ensemble=replace(state, states=other))
    unknown = {**state.states, "oracle": state.states["kmeans"]}
    with pytest.raises(ManifestError, match="no detector 'oracle'"):
        replace(own, ensemble=replace(state, states=unknown))
    with pytest.raises(ManifestError, match="one tail each"):
        replace(own, ensemble=replace(state, tails={}))
    for weights in ({}, dict.fromkeys(state.tails, 1.0), dict.fromkeys(state.tails, np.nan)):
        with pytest.raises(ManifestError, match="one weight each"):
            replace(own, ensemble=replace(state, weights=weights))
