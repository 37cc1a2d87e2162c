"""The gate: an update is sound, or it is refused with a reason."""

from __future__ import annotations

import math

import numpy as np

from common.manifest import Manifest
from common.messages import Evaluation, Update
from common.weights import add, is_finite, shapes

MOST_ROWS = 10**12
"""No machine trains on more; a larger count would only outweigh all others."""


class NotAdmitted(ValueError):
    """An answer must not be used; the message says why."""


def admit(answer: Update | Evaluation, asked: Manifest) -> None:
    """Check a client's answer against the version it was asked about.

    Raises:
        NotAdmitted: it is about another version, has no rows, has another shape, or is not finite.
    """
    if answer.version != asked.version:
        raise NotAdmitted(f"it is about version {answer.version}, asked was {asked.version}")
    if not 1 <= answer.rows <= MOST_ROWS:
        raise NotAdmitted(f"it counts {answer.rows} rows")
    if not math.isfinite(answer.error.mean) or answer.error.mean < 0:
        raise NotAdmitted(f"its reconstruction error is {answer.error.mean}")
    if isinstance(answer, Update):
        if shapes(answer.difference) != asked.architecture.shapes:
            raise NotAdmitted(
                f"its arrays have shapes {shapes(answer.difference)}, "
                f"the model's are {asked.architecture.shapes}"
            )
        kinds = {array.dtype.name for array in answer.difference.values()} - {"float32"}
        if kinds:
            raise NotAdmitted(f"its arrays are of type {', '.join(sorted(kinds))}, expected float32")
        if not is_finite(answer.difference):
            raise NotAdmitted("its arrays hold a NaN or an infinity")
        with np.errstate(over="ignore"):
            if not is_finite(add(asked.weights, answer.difference)):
                raise NotAdmitted("its arrays are so large that the weights would overflow")
