from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from common.model.histogram import ScoreHistogram
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.scoring import ErrorSummary
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.messages import Evaluation, Update
from common.settings import GateSettings
from server.federation.admission import AdmissionError, admit, limit_norms
from tests.server.replies import admitted
from tests.server.replies import update as sample

ARCHITECTURE = Architecture(2, window=1, hidden=(3,))
SUMMARY = ErrorSummary(count=5, mean=0.5, p50=0.25, p95=0.75, p99=0.875, max=1.0)
LARGEST = float(np.finfo(np.float32).max)


def asked(weight: float = 0.5) -> Manifest:
    return Manifest(
        version=3,
        schema=Schema(("cpu", "memory")),
        architecture=ARCHITECTURE,
        weights={n: np.full(s, weight, np.float32) for n, s in ARCHITECTURE.shapes.items()},
        moments=Moments.of(np.array([[1.0, 2.0], [3.0, 5.0]])),
        settings=VersionSettings(),
    )


MEASURED: dict[str, Any] = {
    "client": "edge-1",
    "version": 3,
    "rows": 100,
    "error": SUMMARY,
    "scores": ScoreHistogram.empty(),
    "drifted": False,
}


def difference(value: float = 0.25, **changes: Any) -> dict[str, Any]:
    made = {n: np.full(s, value, np.float32) for n, s in ARCHITECTURE.shapes.items()}
    return made | {name.replace("__", "/"): array for name, array in changes.items()}


def update(**changes: Any) -> Update:
    values = {"loss": 0.1, "train_s": 1.0, "difference": difference()}
    return Update(**{**MEASURED, **values, **changes})


def evaluation(**changes: Any) -> Evaluation:
    return Evaluation(**{**MEASURED, **changes})


@pytest.mark.parametrize(
    "answer",
    [
        update(),
        evaluation(),
        update(rows=1),
        update(difference=difference(0.0)),
        update(error=msgspec.structs.replace(SUMMARY, mean=0.0)),
        update(difference=dict(reversed(difference().items()))),
        update(residuals=Residuals.of(np.ones((3, ARCHITECTURE.inputs)))),
    ],
    ids=["update", "evaluation", "one row", "nothing learned", "no error", "another order", "residuals"],
)
def test_a_sound_answer_is_admitted(answer: Update | Evaluation) -> None:
    admit(answer, 3, asked())


@pytest.mark.parametrize("make", [update, evaluation])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "about version 2, not 3"),
        ({"version": 4}, "about version 4, not 3"),
        ({"residuals": Residuals.of(np.ones((3, 5)))}, "of 5 inputs, the model has 2"),
        ({"residuals": Residuals(1, np.full(2, 1e300))}, "mean over 1 windows is too large"),
        ({"residuals": Residuals(10**13, np.ones(2))}, "they count 10000000000000 windows of 5"),
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_is_refused_with_the_reason(
    make: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdmissionError, match=message):
        admit(make(**changes), 3, asked())


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {n: a for n, a in difference().items() if n != "dense_0/bias"},
        difference(dense_0__bias=np.zeros(4, np.float32)),
        difference(dense_0__kernel=np.zeros((3, 2), np.float32)),
        difference(dense_0__bias=np.zeros((3, 1), np.float32)),
        difference(dense_9__bias=np.zeros(3, np.float32)),
    ],
    ids=["empty", "one missing", "longer", "transposed", "one axis more", "one more"],
)
def test_arrays_of_another_shape_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(AdmissionError, match="shapes"):
        admit(update(difference=changed), 3, asked())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", list(ARCHITECTURE.shapes))
def test_one_value_that_is_not_finite_is_refused(name: str, value: float) -> None:
    changed = difference()
    changed[name].flat[-1] = value
    with pytest.raises(AdmissionError, match="NaN or an infinity"):
        admit(update(difference=changed), 3, asked())


def test_a_difference_that_overflows_the_weights_is_refused() -> None:
    """Each is finite, and their sum is not: no version could be made of it."""
    with pytest.raises(AdmissionError):
        admit(update(difference=difference(LARGEST)), 3, asked(LARGEST))


def limited(gate: GateSettings, *norms: float) -> tuple[list[float], list[str]]:
    """Return what the gate leaves of updates of these norms, one per client, and the reasons for the rest."""
    replies = [admitted(sample(f"c{i}", (size, 0.0)), number=i) for i, size in enumerate(norms)]
    used, rejected = limit_norms(replies, norms, gate)
    return [reply.factor * norms[reply.number] for reply in used], [reason for _, reason in rejected]


def test_an_unusual_norm_is_clipped_or_rejected() -> None:
    norms = (1.0, 1.1, 0.9, 1.0, 1.05, 100.0)
    left, rejected = limited(GateSettings(norm_action="clip"), *norms)
    assert left[:5] == pytest.approx(norms[:5])
    assert 1.1 < left[5] < 5
    assert not rejected
    left, rejected = limited(GateSettings(norm_action="refuse"), *norms)
    assert len(left) == 5
    assert "its norm is 100" in rejected[0]


@pytest.mark.parametrize("norms", [(1.0, 1.3), (1.0, 2.0, 4.0, 8.0, 16.0), (0.0, 0.0, 0.0, 0.0, 5.0)])
def test_usual_norms_pass(norms: tuple[float, ...]) -> None:
    left, rejected = limited(GateSettings(norm_action="refuse"), *norms)
    assert left == pytest.approx(norms)
    assert not rejected


def test_of_two_clients_the_smaller_norm_bounds_the_larger() -> None:
    assert limited(GateSettings(norm_action="clip"), 1.0, 100.0)[0] == pytest.approx([1.0, 1.35], rel=0.01)
    assert limited(GateSettings(norm_action="clip"), 1.0)[0] == [1.0]


def test_without_a_limit_any_norm_passes() -> None:
    assert len(limited(GateSettings(norm_limit=None), 1, 1, 1, 1, 1e6)[0]) == 5
