"""A client's error feedback on disk, so that it survives the process."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from common.compression.feedback import Feedback
from common.formats.bundle import BundleError, as_dataclass, pack, unpack
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
    """Error feedback, the model that it belongs to, and the serial number of the last update."""

    model: str = ""
    """Features and architecture. Feedback of another model cannot be used."""
    version: int = -1
    """Version that the last update started from. An earlier version belongs to another run."""
    serial: int = field(default_factory=lambda: secrets.randbits(40))
    """Serial number of the last update. The first is random, so that a lost file does not repeat numbers."""
    feedback: Feedback = field(default_factory=Feedback)

    def for_version(self, model: str, version: int) -> FeedbackState:
        """Return the state for a task; without feedback if this is of another model or another run."""
        usable = model == self.model and version >= self.version
        return FeedbackState(model, version, self.serial, self.feedback if usable else Feedback())


def read(path: Path | None) -> FeedbackState:
    """Return the state that was written last; an empty one if there is no file, or a damaged one (logged)."""
    if path is None:
        return FeedbackState()
    try:
        fields, arrays = unpack(path.read_bytes())
        header = as_dataclass(_Header, fields)
        error = _group(arrays, _ERROR)
        pending = {serial: _group(arrays, str(serial)) for serial in header.pending}
        parts = [error, *pending.values()]
        if not all(shapes(part) == shapes(error) and is_finite(part) for part in parts):
            raise BundleError("its arrays do not match")
        return FeedbackState(header.model, header.version, header.serial, Feedback(error, pending))
    except FileNotFoundError:
        return FeedbackState()
    except (OSError, ValueError, TypeError) as error:
        log.error("error feedback lost file=%s reason=%s", path, error)
        return FeedbackState()


def write(path: Path | None, state: FeedbackState) -> None:
    """Write the state. A full disk is logged: then a restart loses the feedback, but not the update."""
    if path is None:
        return
    header = {
        "model": state.model, "version": state.version, "serial": state.serial,
        "pending": list(state.feedback.pending),
    }  # fmt: skip
    groups = {_ERROR: state.feedback.error, **{str(n): s for n, s in state.feedback.pending.items()}}
    arrays = {f"{group}/{name}": array for group, part in groups.items() for name, array in part.items()}
    try:
        write_atomic(path, pack(header, arrays))
    except OSError as error:
        log.error("error feedback not written file=%s reason=%s", path, error)


def _group(arrays: Weights, group: str) -> Weights:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
