"""The regime of a machine: the lasting changes of the level of each feature since the first rows."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from common.formats.files import write_atomic
from common.model.moments import Moments

log = logging.getLogger(__name__)

FILE = "regime.json"


@dataclass(frozen=True)
class Move:
    """A lasting change of a feature: a value `x` before it corresponds to `factor * x + offset` after it."""

    factor: float
    offset: float

    def then(self, later: Move) -> Move:
        """Return both changes as one.

        >>> Move(2.0, 1.0).then(Move(1.0, 5.0))
        Move(factor=2.0, offset=6.0)
        """
        return Move(self.factor * later.factor, self.offset * later.factor + later.offset)


@dataclass(frozen=True)
class Regime:
    """The lasting changes of a machine, by feature, which its detector has adapted to.

    The detector writes it to the state folder. The trainer moves the rows of a data file, which are from the
    time before, to the same level; the rows in the training buffer are moved already.
    """

    moves: Mapping[str, Move] = field(default_factory=dict)
    base: str = ""
    """Hash of the fixed version that was adapted (`flockwatch detect`); empty on a client that trains."""

    @classmethod
    def load(cls, folder: Path) -> Regime:
        """Return the regime in a state folder; one without moves if there is none or it cannot be read."""
        try:
            content = json.loads((folder / FILE).read_bytes())
            moves = {str(name): Move(float(a), float(b)) for name, (a, b) in content["moves"].items()}
            if not all(math.isfinite(m.factor) and math.isfinite(m.offset) for m in moves.values()):
                raise ValueError("a move is not finite")
            return cls(moves, str(content["base"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("regime not read file=%s reason=%s", folder / FILE, error)
            return cls()

    def save(self, folder: Path) -> None:
        """Write the regime to a state folder.

        Raises:
            OSError: the folder cannot be written.
        """
        moves = {name: [move.factor, move.offset] for name, move in self.moves.items()}
        write_atomic(folder / FILE, json.dumps({"moves": moves, "base": self.base}).encode())

    def then(self, later: Mapping[str, Move], base: str = "") -> Regime:
        """Return the regime after further changes."""
        moves = dict(self.moves)
        for name, move in later.items():
            moves[name] = moves[name].then(move) if name in moves else move
        return Regime(moves, base)

    def apply(self, rows: NDArray[np.float32], features: Sequence[str]) -> NDArray[np.float32]:
        """Return rows, shape (n, features), moved to the present level; the same array without moves.

        Args:
            rows: Rows from before the changes.
            features: Names of the columns.
        """
        return move_rows(rows, {features.index(n): move for n, move in self.moves.items() if n in features})


def move_rows(rows: NDArray[np.float32], moves: Mapping[int, Move]) -> NDArray[np.float32]:
    """Return rows, shape (n, features), with some columns moved; the same array if there are no moves."""
    if not moves:
        return rows
    moved = rows.copy()
    for column, move in moves.items():
        moved[:, column] = rows[:, column] * move.factor + move.offset
    return moved


def move_moments(moments: Moments, moves: Mapping[int, Move]) -> Moments:
    """Return the moments of the moved rows."""
    factor, offset = np.ones_like(moments.mean), np.zeros_like(moments.mean)
    for i, move in moves.items():
        factor[i], offset[i] = move.factor, move.offset
    return replace(
        moments,
        mean=moments.mean * factor + offset,
        m2=moments.m2 * factor**2,
        minimum=moments.minimum * factor + offset,
        maximum=moments.maximum * factor + offset,
        within=moments.within * factor**2,
        step=moments.step * factor if len(moments.step) else moments.step,
    )
