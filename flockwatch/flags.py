"""Commands and flags as `argparse` has them: a flag overrides a setting, and its help shows the default."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.settings import Settings

Run = Callable[[Settings, argparse.Namespace], int]

SETTINGS = (
    "Each flag overrides the setting in brackets. Settings can also be given in the settings file\n"
    "and in the environment, such as FLOCKWATCH_SERVER__PORT=8000; configs/default.yaml lists all."
)


def overrides(options: argparse.Namespace) -> list[str]:
    """Return the settings that flags override, each as `section.key=value`."""
    values = {key: value for key, value in vars(options).items() if "." in key and value is not None}
    return [f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in values.items()]


def add_plain_command(
    subparsers: Any, run: Run, summary: str, example: str = "", details: str = ""
) -> argparse.ArgumentParser:
    """Add a command that has no settings.

    Args:
        subparsers: Where the command is added.
        run: The command's function; the command has its name.
        summary: What the command does, in one line, without a full stop.
        example: Command lines to show.
        details: More about what it does, in sentences.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        run.__name__,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f"\n\n{details}" if details else ""),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()) if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, config=None, set=[], verbose=False)
    return parser


def add_command(
    subparsers: Any, run: Run, summary: str, example: str = "", details: str = ""
) -> argparse.ArgumentParser:
    """Add a command that reads settings; the arguments are those of `add_plain_command`."""
    parser = add_plain_command(subparsers, run, summary, example, details)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="override any setting, as in --set server.port=8000; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--verbose", action="store_true", help="log debug messages, and print the traceback of an error"
    )
    return parser


def flag_adder(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """Add a group of flags that override settings; return the function that adds a flag to it."""
    group = parser.add_argument_group("settings", SETTINGS)

    def add_flag(
        name: str, metavar: str, key: str, help_text: str, *, text: bool = False, action: str = "store"
    ) -> None:
        # A text is taken as it is, even if YAML would read a number or a list.
        kind = json.dumps if text else str
        section, _, field = key.partition(".")
        default = getattr(getattr(Settings(), section), field)
        shown = default[0] if isinstance(default, tuple) else default
        note = f"[{key}]" if shown is None else f"[{key}, default: {shown}]"
        group.add_argument(
            name, dest=key, type=kind, metavar=metavar, action=action, help=f"{help_text} {note}"
        )

    return add_flag


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return a function that reads a number above zero."""

    def read(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
        return value

    return read
