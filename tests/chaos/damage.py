"""Damage to files, drawn from a seed: cut short, emptied, bits turned, a page overwritten, or missing."""

from __future__ import annotations

import random
from pathlib import Path

KINDS = ("cut", "empty", "bits", "page", "text", "gone")


def files(folder: Path) -> list[Path]:
    """Return all files of a state folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(path: Path, draw: random.Random, kind: str | None = None) -> str:
    """Damage a file; return the kind of damage."""
    kind, content = kind or draw.choice(KINDS), bytearray(path.read_bytes())
    match kind:
        case "cut":
            content = content[: draw.randrange(len(content) + 1)]
        case "empty":
            content.clear()
        case "bits":
            for _ in range(min(len(content), draw.choice((1, 8, 64)))):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        case "page":
            at = draw.randrange(len(content) // 4096 + 1) * 4096
            content[at : at + 4096] = draw.randbytes(min(4096, max(0, len(content) - at)))
        case "text":
            content[:] = b'{"a": [null, 1e999]}\xff\n'
        case "gone":
            path.unlink()
            return kind
    path.write_bytes(content)
    return kind
