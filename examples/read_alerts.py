"""Read notices from standard input and print a line for each: what a program behind a sink does with them.

flockwatch detect --manifest VERSION.safetensors --source file:ROWS.csv | python examples/read_alerts.py
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any


def describe(notice: dict[str, Any]) -> str:
    """Return one line about a notice."""
    machine, alert = notice["client"], notice["alert"]
    if notice.get("text"):
        return f"{machine}: {notice['text']}"
    if notice["kind"] == "incident_ended":
        return f"{machine}: ended after {notice['events']} events, highest score {alert['score']:.3g}"
    started = datetime.fromtimestamp(notice["started"], UTC)
    cause = alert["causes"][0]
    return (
        f"{machine}: started {started:%Y-%m-%d %H:%M}, score {alert['score']:.3g} "
        f"above the threshold {alert['threshold']:.3g}; "
        f"{cause['feature']} is {cause['value']:.4g}, expected {cause['expected']:.4g}"
    )


if __name__ == "__main__":
    for line in sys.stdin:
        print(describe(json.loads(line)), flush=True)
