"""The results of `flockwatch local`: `report.json`, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from common.model.manifest import Manifest
from common.settings import Settings
from flockwatch.runs import shown
from flockwatch.simulation.findings import Findings

if TYPE_CHECKING:
    from flockwatch.quality.comparison import Comparison

MODELS = ("federated", "local_only", "pooled", "random")


def report(
    settings: Settings,
    rounds: list[dict[str, Any]],
    reason: str,
    manifest: Manifest,
    findings: Sequence[Findings],
    comparisons: Sequence[Comparison],
    wall_s: float,
) -> dict[str, Any]:
    """Return the results of a run as JSON values: rounds, clients, totals, settings.

    Args:
        settings: The settings of the run.
        rounds: The rounds, from the server's history.
        reason: Why the run ended.
        manifest: The newest version.
        findings: The alerts and incidents of that version in each client's rows.
        comparisons: Detection quality of the version and of other models, where it was measured.
        wall_s: Duration of the run.
    """
    trained = [r for r in rounds if r["kind"] == "train" and r["answered"]]
    before, after = _errors(rounds, 0), _errors(rounds, manifest.version)
    compared = {c.client: c for c in comparisons}
    clients: list[dict[str, Any]] = [
        {
            "client": f.client,
            "rows": f.training,
            "error_before": before.get(f.client),
            "error_after": after.get(f.client),
            "threshold": f.threshold,
            "events_scored": f.events,
            "above_threshold": f.above,
            "faults": f.faults,
            "faults_found": f.faults_found,
            **{model: _quality(compared.get(f.client), model) for model in MODELS},
        }
        for f in findings
    ]
    return {
        "reason": reason,
        "version": manifest.version,
        "hash": manifest.hash,
        "totals": {
            "rounds": len(trained),
            "wall_s": wall_s,
            "seconds_per_round": _median([r["wall_s"] for r in trained]),
            "bytes_up": sum(r["bytes_up"] for r in rounds),
            "bytes_down": sum(r["bytes_down"] for r in rounds),
            "http_bytes_up": _sum(rounds, "sent_bytes"),
            "http_bytes_down": _sum(rounds, "received_bytes"),
            "encode_s": _sum(rounds, "encode_s") + sum(r["encode_s"] or 0 for r in rounds),
            "decode_s": _sum(rounds, "decode_s") + sum(r["decode_s"] or 0 for r in rounds),
            "error_before": _mean([c["error_before"] for c in clients]),
            "error_after": _mean([c["error_after"] for c in clients]),
            "events_scored": sum(f.events for f in findings),
            "above_threshold": sum(f.above for f in findings),
            "faults": sum(f.faults or 0 for f in findings),
            "faults_found": sum(f.faults_found or 0 for f in findings),
            **{model: _mean_quality([c[model] for c in clients]) for model in MODELS},
        },
        "clients": clients,
        "rounds": rounds,
        "settings": settings.dump(),
    }


def table(results: dict[str, Any]) -> Table:
    """Return the table of a report: a row for each client, and their mean."""
    labelled = results["totals"]["federated"] is not None
    clients = Table(
        caption=_ERROR + (_QUALITY if labelled else ""), caption_justify="left", box=box.SIMPLE_HEAD
    )
    for column in ("client", "rows", "error before", "error after"):
        clients.add_column(
            column, justify="left" if column == "client" else "right", no_wrap=column == "client"
        )
    if labelled:
        for model in MODELS:
            clients.add_column(model.replace("_", "-"), justify="right", no_wrap=True)
    for client in results["clients"]:
        clients.add_row(shown(client["client"]), str(client["rows"]), *_cells(client, labelled))
    total_rows = str(sum(client["rows"] for client in results["clients"]))
    clients.add_section()
    clients.add_row("mean", total_rows, *_cells(results["totals"], labelled), style="bold")
    return clients


_ERROR = (
    "Error: mean squared reconstruction error on held-out rows, with the first and the newest model version."
)
_QUALITY = (
    "\nOther columns: AUROC / average precision on labelled test rows. local-only: trained on the client's\n"
    "own rows; pooled: trained on the rows of all clients in one place; random: random scores."
)


def _cells(values: dict[str, Any], labelled: bool) -> list[str]:
    errors = [_number(values["error_before"]), _number(values["error_after"])]
    if not labelled:
        return errors
    qualities = (values[model] for model in MODELS)
    return errors + [f"{q['auroc']:.3f} / {q['average_precision']:.3f}" if q else "-" for q in qualities]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _errors(rounds: list[dict[str, Any]], version: int) -> dict[str, float]:
    """Return each client's mean reconstruction error with a version."""
    replies = (reply for r in rounds for reply in r["replies"] if reply["version"] == version)
    return {reply["client"]: reply["error"]["mean"] for reply in replies}


def _sum(rounds: list[dict[str, Any]], key: str) -> float:
    """Return the sum of a field over all replies."""
    return sum(reply[key] or 0 for r in rounds for reply in r["replies"])


def _quality(comparison: Comparison | None, model: str) -> dict[str, float] | None:
    quality = getattr(comparison, model, None)
    return asdict(quality) if quality is not None else None


def _mean_quality(qualities: list[dict[str, float] | None]) -> dict[str, float] | None:
    present = [q for q in qualities if q is not None]
    return {key: sum(q[key] for q in present) / len(present) for key in present[0]} if present else None


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
