"""This client's error feedback on disk: what its encodings left out outlives the process."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from common.compression.feedback import Feedback
from common.formats.bundle import BundleError, checked, pack, unpack
from common.formats.files import write_atomic
from common.model.weights import Weights, is_finite, shapes

log = logging.getLogger(__name__)

_ERROR = "error"


@dataclass(frozen=True)
class _Header:
    """The fields of the file."""

    model: str
    version: int
    serial: int
    pending: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FeedbackState:
    """The error, of which model it is, and how far the numbering of updates has come."""

    model: str = ""
    """What the weights mean: features and architecture. An error of another model says nothing."""
    version: int = -1
    """That the last update started from: an older one belongs to another history."""
    serial: int = field(default_factory=lambda: secrets.randbits(40))
    """Of the last update. It starts anywhere, so that a lost file is not taken for updates before it."""
    feedback: Feedback = field(default_factory=Feedback)

    def fitting(self, model: str, version: int) -> FeedbackState:
        """This, or no error at all where it belongs to another model or another history."""
        same = model == self.model and version >= self.version
        return FeedbackState(model, version, self.serial, self.feedback if same else Feedback())


def read(path: Path | None) -> FeedbackState:
    """What was written last; nothing where there is no file, or a damaged one, which the log names."""
    if path is None:
        return FeedbackState()
    try:
        fields, arrays = unpack(path.read_bytes())
        said = checked(_Header, fields)
        pending = {serial: _named(arrays, str(serial)) for serial in said.pending}
        parts = [error := _named(arrays, _ERROR), *pending.values()]
        fitting = all(shapes(part) == shapes(error) for part in parts)
        if not fitting or not all(is_finite(part) for part in parts):
            raise BundleError("its arrays do not fit each other")
        return FeedbackState(said.model, said.version, said.serial, Feedback(error, pending))
    except FileNotFoundError:
        return FeedbackState()
    except (OSError, ValueError, TypeError) as error:
        log.error("error feedback is lost file=%s reason=%s", path, error)
        return FeedbackState()


def write(path: Path | None, kept: FeedbackState) -> None:
    """Put it on disk; a full disk costs an error that is forgotten in a restart, not the update."""
    if path is None:
        return
    header = {
        "model": kept.model, "version": kept.version, "serial": kept.serial,
        "pending": list(kept.feedback.pending),
    }  # fmt: skip
    groups = {_ERROR: kept.feedback.error, **{str(n): s for n, s in kept.feedback.pending.items()}}
    named = {f"{group}/{name}": array for group, part in groups.items() for name, array in part.items()}
    try:
        write_atomic(path, pack(header, named))
    except OSError as error:
        log.error("error feedback not written file=%s reason=%s", path, error)


def _named(arrays: Weights, group: str) -> Weights:
    start = f"{group}/"
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
