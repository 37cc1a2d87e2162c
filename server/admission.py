"""The gate: an update is sound, or it is refused with a reason."""

from __future__ import annotations

import math

from common.manifest import Manifest
from common.messages import Evaluation, Update
from common.weights import is_finite, shapes


class NotAdmitted(ValueError):
    """An answer must not be used; the message says why."""


def admit(answer: Update | Evaluation, asked: Manifest) -> None:
    """Check a client's answer against the version it was asked about.

    Raises:
        NotAdmitted: it is about another version, has no rows, has another shape, or is not finite.
    """
    if answer.version != asked.version:
        raise NotAdmitted(f"it is about version {answer.version}, asked was {asked.version}")
    if answer.rows < 1:
        raise NotAdmitted(f"it counts {answer.rows} rows")
    if not math.isfinite(answer.error.mean) or answer.error.mean < 0:
        raise NotAdmitted(f"its reconstruction error is {answer.error.mean}")
    if isinstance(answer, Update):
        if shapes(answer.difference) != asked.architecture.shapes:
            raise NotAdmitted(
                f"its arrays have shapes {shapes(answer.difference)}, "
                f"the model's are {asked.architecture.shapes}"
            )
        if not is_finite(answer.difference):
            raise NotAdmitted("its arrays hold a NaN or an infinity")
