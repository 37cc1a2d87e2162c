"""Run `make demo`'s command and draw its output as docs/demo.svg: `.venv/bin/python docs/record_demo.py`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS = 118
FONT = "font-family: ui-monospace, 'DejaVu Sans Mono', monospace"
STYLE = f"""
    .{{unique_id}}-matrix {{{{ {FONT}; font-size: {{char_height}}px; line-height: {{line_height}}px; }}}}
    .{{unique_id}}-title {{{{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}}}
    {{styles}}"""
PICTURE = f"""<svg viewBox="0 0 {{width}} {{height}}" xmlns="http://www.w3.org/2000/svg">
<style>{STYLE}</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}"/>
</clipPath>
{{lines}}
</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})" clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">{{matrix}}</g>
</g>
</svg>
"""
"""As rich draws a terminal, but without fonts from other hosts."""


def main() -> None:
    """Replace the picture."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "PYTHONPATH": str(ROOT)}
    environment["TTY_INTERACTIVE"] = "0"  # progress is drawn once, when it is complete
    command = [sys.executable, "-m", "flockwatch", "local", "--config", "configs/demo.yaml"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.rstrip().split("\n")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line))
    (ROOT / "docs" / "demo.svg").write_text(console.export_svg(title="make demo", code_format=PICTURE))


if __name__ == "__main__":
    main()
