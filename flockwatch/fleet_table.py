"""`flockwatch status`: the status of a running server, as a table."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.display import printable
from flockwatch.runs import terminal

TIMEOUT_S = 10.0

COLUMNS = (
    "client", "state", "version", "behind", "s/update", "admitted", "refused", "error", "cosine",
    "distance",
)  # fmt: skip
CAPTION = (
    "version: the model version that the newest update started from; behind: versions made since;\n"
    "s/update: mean seconds from task to update; error: reconstruction error on held-out rows;\n"
    "cosine: direction of the updates compared with the fleet's, -1 to 1;\n"
    "distance: difference of the scores from the fleet's, 0 to 1."
)
STYLES = {
    "gone": "dim",
    "refused": "red",
    "late": "yellow",
    "resting": "yellow",
    "asked": "dim",
    "enrolled": "dim",
}


class StatusUnavailableError(RuntimeError):
    """No flockwatch server answers at an address."""


def fetch(address: str) -> dict[str, Any]:
    """Return the status of the server at `HOST:PORT`.

    Raises:
        StatusUnavailableError: no flockwatch server answers.
    """
    url = f"http://{address}/status"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            status = json.loads(answer.read())
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise StatusUnavailableError(
            f"{url}: {reason}; expected a server that was started with --status {address}"
        ) from None
    except ValueError:
        raise StatusUnavailableError(f"{url}: the answer is not from a flockwatch server") from None
    if not isinstance(status, dict) or "clients" not in status:
        raise StatusUnavailableError(f"{url}: the answer is not from a flockwatch server")
    return status


def render(status: Mapping[str, Any]) -> Group:
    """Return the status as text: the state of the run, what it waits for, and a row for each client."""
    table = Table(box=box.SIMPLE_HEAD, caption=CAPTION, caption_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("client", "state", "refused") else "right")
    for name, client in sorted(status["clients"].items()):
        table.add_row(
            *(Text(printable(cell)) for cell in _cells(name, client)), style=STYLES.get(client["state"], "")
        )
    version = "none yet" if status["version"] is None else status["version"]
    summary = (
        f"model version {version}, error {_number(status.get('error'))}, {status.get('mode', 'starting')}"
    )
    if status["superlink"] != "up":
        summary += "; SuperLink is down"
    if status["stopped"]:
        summary += f"; ended: {status['stopped']}"
    elif status["silent_s"] > 5:
        summary += f"; no sign of life from the ServerApp for {status['silent_s']:.0f} s"
    waiting = f"waiting: {status['waiting']}" if status["waiting"] else ""
    reasons = [
        Text(printable(f"{name}: {client['why']}"), "dim")
        for name, client in sorted(status["clients"].items())
        if client.get("why")
    ]
    lines = [Text(printable(summary), "bold"), *([Text(printable(waiting))] if waiting else [])]
    return Group(*lines, table, *reasons)


def show(address: str) -> None:
    """Print the status of the server at `HOST:PORT`.

    Raises:
        StatusUnavailableError: no flockwatch server answers.
    """
    terminal().print(render(fetch(address)))


def _cells(name: str, client: Mapping[str, Any]) -> list[str]:
    refused = ", ".join(f"{count} {reason}" for reason, count in sorted(client.get("refused", {}).items()))
    others = [f"{client[key]} {key}" for key in ("clipped", "dropped") if client.get(key)]
    return [
        name,
        client["state"] + (" (drifted)" if client.get("drifted") else ""),
        _text(client.get("version")),
        _text(client.get("behind")),
        _number(client.get("mean_s"), 2),
        _text(client.get("admitted", 0)),
        ", ".join([*([refused] if refused else []), *others]) or "-",
        _number(client.get("error")),
        _number(client.get("cosine"), 2),
        _number(client.get("distance"), 2),
    ]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
