"""Names of features and clients that other programs stumble over. All of them are names."""

from __future__ import annotations

NAMES = (
    r"\\PRESS2\Processor(_Total)\% Processor Time",
    'inlet 3/4" temp',
    "a\tb",
    "line\nbreak level=ERROR forged",
    "carriage\rreturn",
    "bell\a and escape \x1b[31m",
    "nul\0byte",
    "\u202eright to left\u202c",
    "no-break\u00a0space, zero\u200bwidth, line\u2028separator",
    "<script>alert(1)</script>",
    "[red]markup[/red]",
    "{brace} %s %d $x `y`",
    "temp\u00e9rature",
    "tempe\u0301rature",
    "Temp",
    "temp",
    "温度",
    "\N{THERMOMETER}\N{VARIATION SELECTOR-16}",
    "x" * 1024,
    " leading and trailing ",
    ".",
    "..",
    "a/b",
    "=1+1",
    "null",
)

NO_NAMES = ("\ud800 half a pair", "x" * 1025)
"""Names that cannot be used: one that has no bytes in UTF-8, and one that is too long."""
