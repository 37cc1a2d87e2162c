from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import structs

from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.residuals import Residuals
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.settings import FederationSettings
from server.coordination.events import Described, DescriptionFailed, ReplyAdmitted, TaskFailed
from server.coordination.state import ConnectedClient, State
from server.federation.admission import ReplyIntake, check_description
from server.federation.client_records import ClientRecords
from server.federation.journal import Journal
from server.federation.replies import DUPLICATE, AdmittedReplies, Reply, SentMessage
from server.storage.history import History
from tests.server.descriptions import description
from tests.server.notes import read_notes
from tests.server.replies import update

ARCHITECTURE = Architecture(1, window=1, hidden=(2,))
NEWEST = Manifest(
    3, Schema(("f",)), ARCHITECTURE, ARCHITECTURE.initial_weights(0), Moments.of(np.array([[0.0], [1.0]])),
    VersionSettings(),
)  # fmt: skip
STATE = State(clients={1: ConnectedClient("ready", 0.0, description("a", "i", ("f",)))})


class Desk:
    """An intake with all that it writes to."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "history.sqlite"
        self.history = History(self._file)
        self.history.check()
        self.replies, self.records = AdmittedReplies(), ClientRecords()
        journal = Journal(self.history, FederationSettings(), lambda: 0.0, None)
        self.intake = ReplyIntake(self.replies, self.records, journal)

    def event(self, answer: Any, kind: Any = "train", error: str = "", error_kind: str = "") -> Any:
        """Return the event for node 1's reply to message 7."""
        sent = SentMessage(1, 7, kind, version=3)
        reply = Reply(sent, answer, error, error_kind, None, 10)  # type: ignore[arg-type]
        return self.intake.event(reply, STATE, NEWEST)

    @property
    def notes(self) -> list[tuple[str, str]]:
        return read_notes(self._file)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.history.close()


def trained(client: str = "a", **changes: Any) -> Any:
    difference = {n: np.full(s, 0.5, np.float32) for n, s in ARCHITECTURE.shapes.items()}
    return update(client, **{"version": 3, "serial": 5, **changes, "difference": difference})


def test_a_description_is_passed_on(desk: Desk) -> None:
    event = desk.event(description("a", "i", ("f",)), kind=None)
    assert isinstance(event, Described)
    assert (event.node, event.number, event.description.client) == (1, 7, "a")


def test_a_failed_description_is_noted(desk: Desk) -> None:
    assert desk.event(None, None, "protocol 3", "protocol") == DescriptionFailed(1, "protocol 3", fault=True)
    assert [kind for kind, _ in desk.notes] == ["refused"]


def test_an_admitted_update_is_stored_and_recorded(desk: Desk) -> None:
    assert desk.event(trained(drifted=True)) == ReplyAdmitted(1, 7, drifted=True)
    assert desk.replies.waiting("a") == (5,)
    assert (desk.records["a"].version, desk.records["a"].rows) == (3, 10)
    assert desk.notes == []


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (trained(version=2), "version", "about version 2, not 3"),
        (trained("b"), "name", "it is signed 'b'"),
    ],
)
def test_an_update_that_is_not_admitted_is_counted_and_noted(
    desk: Desk, answer: Any, kind: str, reason: str
) -> None:
    event = desk.event(answer)
    assert isinstance(event, TaskFailed)
    assert event.fault
    assert reason in event.reason
    assert dict(desk.records["a"].refused) == {kind: 1}
    assert desk.replies.waiting("a") == ()
    (note,) = desk.notes
    assert note == ("rejected", f"a: {event.reason}")


def test_an_error_counts_for_the_client_that_was_asked(desk: Desk) -> None:
    assert desk.event(None, "train", "out of memory", "failed") == TaskFailed(1, 7, "out of memory")
    assert dict(desk.records["a"].refused) == {"failed": 1}


def test_a_duplicate_is_counted_and_changes_nothing_else(desk: Desk) -> None:
    assert desk.event(None, "train", "a second reply", DUPLICATE) is None
    assert dict(desk.records["a"].refused) == {DUPLICATE: 1}


def described_by(**changes: Any) -> Any:
    sound = description("a", "i", ("f",))
    assert sound.moments is not None
    return structs.replace(sound, moments=structs.replace(sound.moments, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"maximum": np.array([1e200])},
        {"minimum": np.array([-1e200]), "mean": np.array([-1e200])},
        {"mean": np.array([7.0])},
        {"m2": np.array([1e6])},
        {"within": np.array([1e200])},
        {"step": np.array([30.0])},
        {"minimum": np.array([2.0])},
    ],
    ids=str,
)
def test_moments_that_no_rows_have_are_refused(desk: Desk, changes: dict[str, Any]) -> None:
    event = desk.event(described_by(**changes), kind=None)
    assert isinstance(event, DescriptionFailed)
    assert event.fault
    assert desk.notes


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, (4, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=False)))
def test_the_moments_of_any_rows_are_admitted(rows: Any) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        moments = Moments.of(np.concatenate([rows, np.zeros((1, 2), np.float32)]))
    sound = description("a", "i", ("f", "g"))
    check_description(structs.replace(sound, moments=moments))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scores": np.arange(3.0)}, "3 scores of 1 held-out events"),
        ({"residuals": Residuals(2, np.ones(1))}, "2 windows of 1"),
    ],
)
def test_counts_that_do_not_fit_each_other_are_refused(desk: Desk, changes: Any, text: str) -> None:
    event = desk.event(trained(**changes))
    assert isinstance(event, TaskFailed)
    assert event.fault
    assert text in event.reason


def test_whatever_goes_wrong_with_a_reply_is_its_clients_fault(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OverflowError("far too large")

    monkeypatch.setattr(desk.records, "record_reply", fails)
    event = desk.event(trained())
    assert isinstance(event, TaskFailed)
    assert event.fault
    assert "OverflowError: far too large" in event.reason
    assert dict(desk.records["a"].refused) == {"error": 1}
