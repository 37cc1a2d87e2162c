"""A hook of mkdocs: the built site must load nothing from other hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:@import\s+|url\()\s*["']?(?:https?:)?//[^"')\s]+"""
)
"""Everything that a browser fetches by itself; a link that a reader follows is none of these."""


def on_post_build(config: Any, **_: Any) -> None:
    """Raise an error if a page, a style sheet or a picture refers to another host."""
    loads = [
        f"{path.name}: {load}"
        for path in Path(config["site_dir"]).rglob("*")
        if path.suffix in {".html", ".css", ".svg"}
        for load in LOADS.findall(path.read_text())
    ]
    if loads:
        raise PluginError("loaded from other hosts:\n" + "\n".join(loads))
