"""`flockwatch status`: a running server's `/status` as a table for people."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

ANSWER_WITHIN_S = 10.0

COLUMNS = (
    "client", "state", "version", "behind", "s/update", "admitted", "refused", "error", "cosine",
    "distance",
)  # fmt: skip
STYLES = {"gone": "dim", "refused": "red", "late": "yellow", "resting": "yellow", "asked": "dim"}


class StatusUnavailable(RuntimeError):
    """No server answers with a status at this address."""


def fetch(address: str) -> dict[str, Any]:
    """The status that a server shows at `HOST:PORT`.

    Raises:
        StatusUnavailable: nothing answers there, or something else does.
    """
    url = f"http://{address}/status"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as answer:
            found = json.loads(answer.read())
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise StatusUnavailable(
            f"{url}: {reason}; is the server run with server.status: {address}?"
        ) from None
    except ValueError:
        raise StatusUnavailable(f"{url}: what answers there is not flockwatch") from None
    if not isinstance(found, dict) or "clients" not in found:
        raise StatusUnavailable(f"{url}: what answers there is not flockwatch")
    return found


def shown(status: Mapping[str, Any]) -> Group:
    """The status for people: what the run does and waits for, and a row for each client."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("client", "state", "refused") else "right")
    for name, client in sorted(status["clients"].items()):
        table.add_row(*_cells(name, client), style=STYLES.get(client["state"], ""))
    version = "none yet" if status["version"] is None else status["version"]
    first = f"version {version}, error {_number(status.get('error'))}, {status.get('mode', 'starting')}"
    if status["superlink"] != "up":
        first += "; SuperLink is down"
    if status["stopped"]:
        first += f"; ended: {status['stopped']}"
    elif status["silent_s"] > 5:
        first += f"; the ServerApp has been silent for {status['silent_s']:.0f} s"
    waiting = f"waiting: {status['waiting']}" if status["waiting"] else ""
    whys = [Text(f"{n}: {c['why']}", "dim") for n, c in sorted(status["clients"].items()) if c.get("why")]
    return Group(Text(first, "bold"), *([Text(waiting)] if waiting else []), table, *whys)


def show(address: str) -> None:
    """Print the status of the server at `HOST:PORT`.

    Raises:
        StatusUnavailable: nothing answers there, or something else does.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(shown(fetch(address)))


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
