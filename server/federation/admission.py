"""Admission: a reply is used only if it is sound, and an update only if its norm is usual in the federation.

`ReplyIntake` takes in each reply and returns the event for the coordinator; `limit_norms` is the norm gate of
an aggregation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from common.compression.codec import CompressionError
from common.model.manifest import Manifest
from common.model.weights import add, is_finite, norm, shapes
from common.protocol.messages import Description, Evaluation, Update
from common.robust import MAD_TO_STD
from common.settings import GateSettings
from server.coordination.events import Described, DescriptionFailed, Event, ReplyAdmitted, TaskFailed
from server.coordination.state import State, client_name
from server.federation.client_records import ClientRecords
from server.federation.journal import Journal
from server.federation.replies import (
    DUPLICATE,
    UNREADABLE,
    AdmittedReplies,
    AdmittedReply,
    Reply,
    SentMessage,
    error_text,
)
from server.federation.sums import problem_of_sums

log = logging.getLogger(__name__)

MAX_ERROR = float(np.finfo(np.float32).max)
"""Largest squared error of one input, and largest magnitude of a value: rows and errors are float32."""

ROUNDING = 1e-3
"""Tolerance of the checks of moments, as a share of a value: moments are sums of float32 values."""

MIN_NORMS = 2
"""Smallest number of norms with which one can be called unusual. Of two, the smaller one decides."""

MIN_SPREAD = 0.2
"""Lower bound of the spread of log norms, so that clients that agree closely tolerate small differences."""


class AdmissionError(ValueError):
    """A reply must not be used.

    Args:
        kind: One or two words under which it is counted.
        reason: What is wrong, and what was expected.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def admit(answer: Update | Evaluation, version: int, newest: Manifest) -> Update | Evaluation:
    """Check a client's answer, and decode it if it is an update.

    The types of its fields have bounded each of them already (`common.bounds`).

    Args:
        answer: The answer as it was received.
        version: The version that the client was sent.
        newest: The newest version, which an update would change.

    Returns:
        The answer, decoded.

    Raises:
        AdmissionError: it is about another version, its residuals are not the model's, or its arrays cannot
            be decoded, have another shape, or are not finite.
    """
    if answer.version != version:
        raise AdmissionError("version", f"it is about version {answer.version}, not {version}")
    if answer.scores.count > answer.error.count:
        raise AdmissionError(
            "scores", f"it has {answer.scores.count} scores of {answer.error.count} held-out events"
        )
    if answer.residuals.count:
        residuals, inputs = answer.residuals, newest.architecture.inputs
        if len(residuals.squares) != inputs:
            raise AdmissionError(
                "residuals", f"they are of {len(residuals.squares)} inputs, the model has {inputs}"
            )
        if residuals.count > answer.error.count:
            raise AdmissionError(
                "residuals", f"they count {residuals.count} windows of {answer.error.count} held-out events"
            )
        if (residuals.squares > MAX_ERROR * np.asarray(residuals.counts)).any():
            raise AdmissionError("residuals", f"their mean over {residuals.count} windows is too large")
    if isinstance(answer, Update):
        if answer.covariances is not None or answer.leaf_counts is not None:
            _check_sums(answer, newest)
        expected = newest.architecture.shapes
        try:
            answer = answer.decoded(expected)
        except CompressionError as error:
            raise AdmissionError("codec", f"it cannot be decoded: {error}") from error
        if shapes(answer.difference) != expected:
            raise AdmissionError(
                "shape", f"its arrays have shapes {shapes(answer.difference)}, the model's are {expected}"
            )
        if not is_finite(answer.difference):
            raise AdmissionError("not finite", "its arrays hold a NaN or an infinity")
        with np.errstate(over="ignore"):
            if not is_finite(add(newest.weights, answer.difference)):
                raise AdmissionError("overflow", "its arrays are so large that the weights would overflow")
    return answer


def _check_sums(update: Update, newest: Manifest) -> None:
    """Check the sums of an update.

    Raises:
        AdmissionError: they are not of the model, or of more windows than the client has rows.
    """
    if (problem := problem_of_sums(update, newest)) is not None:
        raise AdmissionError(*problem)


def check_description(description: Description) -> None:
    """Check a client's moments: they have to be those of some rows of float32 values.

    A mean lies between the smallest and the largest value, and a variance is at most a quarter of the squared
    range (Popoviciu's inequality). With these bounds no sum over clients can overflow.

    Raises:
        AdmissionError: there are no rows that have these moments.
    """
    moments = description.moments
    if moments is None:
        return
    low, high = moments.minimum, moments.maximum
    margin = ROUNDING * moments.magnitude
    if (moments.magnitude > MAX_ERROR).any():
        raise AdmissionError("moments", f"a value is {moments.magnitude.max():.3g}, more than float32 holds")
    if (low > high).any() or ((moments.mean < low - margin) | (moments.mean > high + margin)).any():
        raise AdmissionError("moments", "a mean is not between the smallest and the largest value")
    largest = moments.counts * np.square(high - low + margin) / 4 * (1 + ROUNDING)
    for name, squares in (("m2", moments.m2), ("within", moments.within)):
        if (squares > largest).any():
            raise AdmissionError("moments", f"'{name}' is more than the range of the values allows")
    if (moments.steps > high - low + margin).any():
        raise AdmissionError("moments", "a step is larger than the range of the values")


def limit_norms(
    replies: Sequence[AdmittedReply], norms: Collection[float], gate: GateSettings, clip: bool = False
) -> tuple[list[AdmittedReply], list[tuple[AdmittedReply, str]]]:
    """Clip or reject updates of unusual norm.

    Args:
        replies: The updates of an aggregation.
        norms: The norms to compare with (`ClientRecords.norms`).
        gate: The limit, and whether to clip or to reject.
        clip: Clip in any case: a client that is left alone could otherwise be rejected for good.

    Returns:
        The updates to use, sorted by client so that sums are reproducible; and the rejected ones, each with
        the reason.
    """
    bound = norm_bound(norms, gate.norm_limit) if gate.norm_limit is not None else None
    used: list[AdmittedReply] = []
    rejected: list[tuple[AdmittedReply, str]] = []
    for reply in replies:
        size = norm(reply.update.difference)
        if bound is None or size <= bound:
            used.append(reply)
        elif clip or gate.norm_action == "clip":
            used.append(replace(reply, factor=reply.factor * bound / size, clipped=True))
        else:
            rejected.append((reply, f"not admitted: its norm is {size:.3g}, the limit is {bound:.3g}"))
    return sorted(used, key=lambda reply: (reply.client, reply.number)), rejected


def norm_bound(norms: Collection[float], limit: float) -> float | None:
    """Return the largest norm that is usual among the clients; None with fewer than `MIN_NORMS`.

    Args:
        norms: One norm for each client, so that a client that sends often does not count more than others.
        limit: Robust standard deviations of log norm (`MAD_TO_STD` times the MAD) above the median.

    >>> round(norm_bound([1.0, 1.1, 0.9, 1.0, 1000.0], limit=5.0), 1)
    2.7
    >>> round(norm_bound([1.0, 1000.0], limit=5.0), 1)
    2.7
    """
    logs = np.log([norm for norm in norms if norm > 0 and math.isfinite(norm)])
    if len(logs) < MIN_NORMS:
        return None
    median = float(np.quantile(logs, 0.5, method="lower"))
    deviation = float(np.quantile(np.abs(logs - median), 0.5, method="lower"))
    spread = max(MAD_TO_STD * deviation, MIN_SPREAD)
    return math.exp(min(median + limit * spread, 700.0))


class ReplyIntake:
    """Turns replies into events.

    Args:
        replies: Gets the replies that are admitted.
        records: Count admitted and rejected replies by client.
        journal: Records rejected replies.
    """

    def __init__(self, replies: AdmittedReplies, records: ClientRecords, journal: Journal) -> None:
        self._replies = replies
        self._records = records
        self._journal = journal

    def event(self, reply: Reply, state: State, newest: Manifest | None) -> Event | None:
        """Return the event that a reply causes; None for a duplicate.

        Any error while a reply is checked and recorded counts as a fault of the client that sent it.

        Args:
            reply: A reply.
            state: The coordinator's.
            newest: The newest version; None before there is one.
        """
        try:
            return self._event(reply, state, newest)
        except AdmissionError as error:
            return self.rejected(reply.sent, f"not admitted: {error}", error.kind, state)
        except Exception as error:  # the other clients' replies are still to be handled
            log.exception("reply not handled node=%d", reply.sent.node)
            return self.rejected(reply.sent, f"not admitted: {error_text(error)}", "error", state)

    def rejected(self, sent: SentMessage, reason: str, kind: str, state: State) -> Event:
        """Count and record a reply that its client made unusable; return the event that it causes.

        Args:
            sent: The message that it answers.
            reason: What is wrong with it.
            kind: One or two words under which it is counted.
            state: The coordinator's.
        """
        client = client_name(state, sent.node)
        if sent.kind is None:
            self._journal.description_failed(sent.node, reason, state.clients)
            return DescriptionFailed(sent.node, reason, fault=True)
        self._records.count_rejected(client, kind)
        self._journal.reply_rejected(client, sent.number, reason)
        return TaskFailed(sent.node, sent.number, reason, fault=True)

    def _event(self, reply: Reply, state: State, newest: Manifest | None) -> Event | None:
        sent, answer = reply.sent, reply.answer
        if isinstance(answer, Description):
            check_description(answer)
            return Described(sent.node, sent.number, answer, reply.owner)
        if answer is not None:
            assert newest is not None  # noqa: S101  tasks are sent with it
            return self._admitted(reply, answer, state, newest)
        if reply.error_kind == UNREADABLE:
            return self.rejected(sent, reply.error, UNREADABLE, state)
        if sent.kind is None:
            self._journal.description_failed(sent.node, reply.error, state.clients)
            return DescriptionFailed(sent.node, reply.error)
        client = client_name(state, sent.node)
        self._records.count_rejected(client, reply.error_kind)
        self._journal.reply_rejected(client, sent.number, reply.error)
        is_second = reply.error_kind == DUPLICATE
        return TaskFailed(sent.node, sent.number, reply.error) if not is_second else None

    def _admitted(
        self, reply: Reply, answer: Update | Evaluation, state: State, newest: Manifest
    ) -> ReplyAdmitted:
        """Store an answer.

        Raises:
            AdmissionError: it is not admitted.
        """
        client = state.clients.get(reply.sent.node)
        if client is not None and client.name and client.name != answer.client:
            raise AdmissionError("name", f"it is signed '{answer.client}'")
        with self._journal.timed_decoding():
            answer = admit(answer, reply.sent.version, newest)
        traffic = self._records.record_reply(answer)
        self._replies.add(AdmittedReply(answer, reply, traffic))
        return ReplyAdmitted(reply.sent.node, reply.sent.number, answer.drifted)
