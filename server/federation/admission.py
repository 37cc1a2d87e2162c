"""The gate: an update is sound, and of a size that is usual in the fleet, or it is refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from common.compression.codec import CompressionError
from common.model.manifest import Manifest
from common.model.weights import add, is_finite, shapes
from common.protocol.messages import Evaluation, Update

MAX_ROWS = 10**12
"""No machine trains on more; a larger count would only outweigh all others."""

MAX_ERROR = float(np.finfo(np.float32).max)
"""Of one input, squared: as large as a score can be."""

MIN_NORMS = 4
"""With fewer clients nobody can say which norm is out of line."""

MIN_SPREAD = 0.35
"""Of log norms: a fleet that agrees closely must not refuse whoever differs by a few percent."""


class AdmissionError(ValueError):
    """An answer must not be used.

    Args:
        kind: One or two words to count it under.
        reason: What was wrong, and what was expected.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def admit(answer: Update | Evaluation, version: int, current: Manifest) -> Update | Evaluation:
    """Check a client's answer; an update is checked as it is once decoded.

    Args:
        answer: What came.
        version: The version that the client was asked about.
        current: The newest version, which the update would change.

    Returns:
        The answer, decoded.

    Raises:
        NotAdmitted: it is about another version, has no rows, cannot be decoded, has another shape, or is
            not finite.
    """
    if answer.version != version:
        raise AdmissionError("version", f"it is about version {answer.version}, asked was {version}")
    if not 1 <= answer.rows <= MAX_ROWS:
        raise AdmissionError("rows", f"it counts {answer.rows} rows")
    if not math.isfinite(answer.error.mean) or answer.error.mean < 0:
        raise AdmissionError("error", f"its reconstruction error is {answer.error.mean}")
    if answer.residuals.count:
        found, inputs = answer.residuals, current.architecture.inputs
        if len(found.squares) != inputs:
            raise AdmissionError(
                "residuals", f"they are of {len(found.squares)} inputs, the model has {inputs}"
            )
        if found.count > MAX_ROWS or (found.squares > MAX_ERROR * found.count).any():
            raise AdmissionError(
                "residuals", f"their mean over {found.count} windows is out of all proportion"
            )
    if isinstance(answer, Update):
        expected = current.architecture.shapes
        try:
            answer = answer.decoded(expected)
        except CompressionError as error:
            raise AdmissionError("codec", f"it cannot be decoded: {error}") from error
        if shapes(answer.difference) != expected:
            raise AdmissionError(
                "shape", f"its arrays have shapes {shapes(answer.difference)}, the model's are {expected}"
            )
        kinds = {array.dtype.name for array in answer.difference.values()} - {"float32"}
        if kinds:
            raise AdmissionError(
                "type", f"its arrays are of type {', '.join(sorted(kinds))}, expected float32"
            )
        if not is_finite(answer.difference):
            raise AdmissionError("not finite", "its arrays hold a NaN or an infinity")
        with np.errstate(over="ignore"):
            if not is_finite(add(current.weights, answer.difference)):
                raise AdmissionError("overflow", "its arrays are so large that the weights would overflow")
    return answer


def largest_norm(norms: Collection[float], limit: float) -> float | None:
    """The largest norm of an update that is not out of line with the fleet's.

    Args:
        norms: The newest norm of each client, so that one that sends often has no more say than others.
        limit: Robust standard deviations of log norm (1.4826 MAD) above the median.

    Returns:
        None if too few clients are known to say.

    >>> round(largest_norm([1.0, 1.1, 0.9, 1.0, 1000.0], limit=5.0), 1)
    5.8
    """
    logs = np.log([norm for norm in norms if norm > 0 and math.isfinite(norm)])
    if len(logs) < MIN_NORMS:
        return None
    median = float(np.median(logs))
    spread = max(1.4826 * float(np.median(np.abs(logs - median))), MIN_SPREAD)
    return math.exp(min(median + limit * spread, 700.0))
