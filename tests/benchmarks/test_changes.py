from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.watch import changes
from benchmarks.watch.changes import Recording


@pytest.fixture
def recording() -> Recording:
    rows = np.random.default_rng(0).normal(0, [0.1, 1.0, 5.0], (4000, 3)).astype(np.float32)
    labels = np.zeros(4000, np.bool_)
    labels[3000:3010] = True
    return Recording("m", ("a", "b", "c"), rows, labels, 2000)


def test_the_usual_feature_has_the_median_spread(recording: Recording) -> None:
    assert changes.usual_feature(recording) == "b"


def test_a_shift_begins_at_its_row_and_changes_one_feature(recording: Recording) -> None:
    copy = changes.shifted(recording, "b", 2000)
    difference = copy.rows - recording.rows
    assert not difference[:2000].any()
    assert not difference[:, [0, 2]].any()
    assert difference[2000:, 1] == pytest.approx(8.0, rel=0.1)


def test_a_silent_feature_is_null_in_its_events(recording: Recording) -> None:
    copy = changes.silent(recording, "b", 2000)
    assert json.loads(copy.event(1999, 7.0))["b"] == pytest.approx(float(recording.rows[1999, 1]))
    assert json.loads(copy.event(2000, 7.5)) == {
        "ts": 7.5,
        "a": pytest.approx(float(recording.rows[2000, 0])),
        "b": None,
        "c": pytest.approx(float(recording.rows[2000, 2])),
    }


def test_a_near_constant_feature_makes_a_step_now_and_then(recording: Recording) -> None:
    values = changes.near_constant(recording, "b").rows[:, 1]
    assert set(np.unique(values)) == {np.float32(0.0), np.float32(changes.QUANTUM)}
    assert 5 <= (values > 0).sum() <= 50


def test_a_counter_rises_and_starts_again(recording: Recording) -> None:
    values = changes.counter(recording, "b").rows[:, 1]
    falls = np.flatnonzero(np.diff(values) < 0) + 1
    assert falls.tolist() == [changes.COUNTER_EVENTS, 2 * changes.COUNTER_EVENTS]
    assert values[falls].max() < 0.1
    assert 0.5 < values.max() < 1.5


def test_a_tag_is_a_text_field_of_each_event(recording: Recording) -> None:
    event = json.loads(changes.tagged(recording).event(5, 0.0))
    assert {**event, **changes.TAG} == event
    assert list(event)[:4] == ["ts", "a", "b", "c"]


def test_a_part_keeps_its_labels_and_the_place_of_its_test_rows(recording: Recording) -> None:
    part = recording.part(1500)
    assert part.test_from == 500
    assert np.flatnonzero(part.labels).tolist() == list(range(1500, 1510))


def test_the_machines_with_most_faults_are_chosen_in_their_order(recording: Recording) -> None:
    quiet = Recording("quiet", recording.features, recording.rows, np.zeros(4000, np.bool_), 2000)
    assert changes.most_faults([quiet, recording], 1) == [recording]
    assert changes.most_faults([quiet, recording], 5) == [quiet, recording]
