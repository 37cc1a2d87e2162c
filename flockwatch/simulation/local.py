"""`flockwatch local`: a whole federation on this machine, each client in its own process."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from client.data.partition import Partition
from client.training.worker import TrainerCache
from common.config import save
from common.formats.files import private_folder, write_atomic
from common.model.manifest import Manifest
from common.processes.children import Processes
from common.processes.packages import python_module
from common.settings import Settings
from flockwatch.quality.comparison import Comparison
from flockwatch.runs import finite, new_folder, shown, terminal
from flockwatch.simulation import live
from flockwatch.simulation.findings import Findings, summary
from flockwatch.simulation.partitions import PartitionSource, gather, interval_s
from flockwatch.simulation.report import report, table
from server.flower.superlink_process import flower_environment, free_port
from server.storage.history import History
from server.storage.registry import Registry

POLL_INTERVAL_S = 0.1


class RunFailedError(RuntimeError):
    """The federation ended with an error; the message names the folder of its logs."""


def run(settings: Settings) -> int:
    """Run a federation on the data that the settings name, print its table, and write `report.json`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: the settings or the data are wrong; no process was started.
        RunFailedError: the server ended with an error.
    """
    console = terminal()
    folder = new_folder(settings.local.runs)
    sources = gather(settings, folder / "data")
    for source in sources:
        source.partition.aligned(sources[0].partition.schema)
        if settings.local.live:
            live.select_rows(source.partition)
    private_folder(folder)
    settings = finite(settings).with_values(
        server={
            "host": "127.0.0.1",
            "port": free_port(),
            "state": folder / "server",
            "database": None,
        },
        federation={"min_clients": len(sources)},
    )
    save(settings, folder / "settings.yaml")
    console.print(f"{len(sources)} clients, each in its own process. Logs and results: {folder}")
    partitions = [source.partition for source in sources]
    clients = [
        live.MonitoredClient.on_free_ports(partition, folder / "clients")
        for partition in partitions
        if settings.local.live
    ]
    with Processes() as processes:
        started = time.monotonic()
        reason = _train(settings, folder, sources, clients, processes, console)
        wall_s = time.monotonic() - started
        if not clients:
            processes.end()
        newest = Registry(folder / "server" / "versions", settings.server.keep_versions).latest()
        if newest is None:
            raise RunFailedError(f"the run ended without a model version: {reason}; logs are in {folder}")
        manifest = newest[0]
        rounds = _history(folder).rounds()
        trainer = TrainerCache()
        findings = [
            Findings.of(manifest, s.partition, settings, interval_s(s, settings), trainer) for s in sources
        ]
        comparisons = _compare(partitions, manifest, settings, console)
        results = report(settings, rounds, reason, manifest, findings, comparisons, wall_s)
        results["data"] = [partition.summary() for partition in partitions]
        _print_results(results, findings, console)
        if clients:
            results["live"] = live.show(clients, manifest.version, settings, console)
    write_atomic(folder / "report.json", json.dumps(results, indent=1).encode(), 0o666)
    console.print(f"Report: {folder}/report.json   model versions: {folder}/server/versions")
    return 0


def _train(
    settings: Settings,
    folder: Path,
    sources: Sequence[PartitionSource],
    clients: Sequence[live.MonitoredClient],
    processes: Processes,
    console: Console,
) -> str:
    """Start the server and its clients, show the progress of training, and return why it ended.

    Args:
        settings: The settings of the run.
        folder: The folder of the run.
        sources: The data of every client.
        clients: Addresses of the clients that also score a live stream.
        processes: Starts and ends the processes.
        console: Where to print.

    Raises:
        RunFailedError: the server ended with an error.
    """
    command = python_module("flockwatch")
    config = ["--config", str(folder / "settings.yaml")]
    processes.start(
        "server",
        [*command, "server", *config],
        folder / "server.log",
        flower_environment(folder / "server" / "flower"),
    )
    live_flags = {client.partition.name: client.flags for client in clients}
    for source in sources:
        name = source.partition.name
        state = folder / "clients" / name
        processes.start(
            name,
            [
                *command, "client", *config, "--state", str(state), "--data", str(source.file),
                "--server", f"127.0.0.1:{settings.server.port}", "--name", name, *live_flags.get(name, ()),
            ],
            folder / "clients" / f"{name}.log",
            flower_environment(state / "flower"),
        )  # fmt: skip
    names = [source.partition.name for source in sources]
    _show_progress(settings, folder, processes, names, console)
    if processes.exit_code("server"):
        raise RunFailedError(
            f"the server ended with an error; {folder}/server.log ends:\n{processes.log_tail('server')}"
        )
    return (folder / "server" / "ended").read_text()


def _show_progress(
    settings: Settings, folder: Path, processes: Processes, names: Sequence[str], console: Console
) -> None:
    """Show the rounds until the server ends, and a line for each client that ends before.

    Args:
        settings: The settings of the run.
        folder: The folder of the run.
        processes: The server and its clients.
        names: The names of the clients.
        console: Where to print.
    """
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("rounds"), TimeElapsedColumn(), TextColumn("{task.fields[state]}"),
    )  # fmt: skip
    history: History | None = None
    ended: set[str] = set()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=settings.federation.max_rounds, state="starting processes")
        while processes.exit_code("server") is None:
            for name in names:
                if name not in ended and processes.exit_code(name) is not None:
                    ended.add(name)
                    console.print(
                        f"[yellow]client {shown(name)} has ended:[/] {shown(processes.log_tail(name), True)}"
                    )
            if history is None and (folder / "server" / "history.sqlite").exists():
                history = _history(folder)
            if history is not None:
                _update(progress, task, history)
            time.sleep(POLL_INTERVAL_S)
        if history is not None:
            _update(progress, task, history)


def _update(progress: Progress, task: TaskID, history: History) -> None:
    newest = history.newest_round()
    if newest is not None:
        state = f"error {newest['error']:.4g}" if newest["error"] is not None else "round failed"
        progress.update(task, completed=newest["version"], state=state)
    elif (note := history.last_note()) is not None:
        progress.update(task, state=f"{note[0]}: {note[1]}")


def _compare(
    partitions: Sequence[Partition], manifest: Manifest, settings: Settings, console: Console
) -> list[Comparison]:
    """Measure the federated model beside others, if there are labels and the settings ask for it.

    Args:
        partitions: The data of every client.
        manifest: The newest version.
        settings: The settings of the run.
        console: Where to print.
    """
    if not settings.local.compare or all(p.test_labels is None for p in partitions):
        return []
    from flockwatch.quality.comparison import compare  # loads TensorFlow

    with console.status("comparing") as status:
        return compare(partitions, manifest, settings, lambda step: status.update(f"for comparison: {step}"))


def _print_results(results: dict[str, Any], findings: Sequence[Findings], console: Console) -> None:
    totals = results["totals"]
    console.print(table(results))
    for line in summary(findings):
        console.print(line)
    console.print(
        f"{totals['rounds']} rounds in {totals['wall_s']:.1f} s, {totals['seconds_per_round']:.2f} s each "
        f"(median); ended: {results['reason']}"
    )


def _history(folder: Path) -> History:
    return History(folder / "server" / "history.sqlite")
