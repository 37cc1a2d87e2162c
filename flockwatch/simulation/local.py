"""`flockwatch local`: a whole federation on this machine, one operating-system process a client."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from client.data.partition import Partition
from client.training.worker import ClientWorker
from common.config import save
from common.formats.files import write_atomic
from common.model.manifest import Manifest
from common.packages import python_module
from common.processes import Processes
from common.settings import Settings
from flockwatch.quality.comparison import Comparison
from flockwatch.runs import new_folder, terminal
from flockwatch.simulation import live
from flockwatch.simulation.partitions import PartitionSource, gather
from flockwatch.simulation.report import report, table
from server.flower.superlink_process import flower_environment, free_port
from server.storage.history import History
from server.storage.registry import Registry

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1


class RunFailed(RuntimeError):
    """The federation did not come to its end; the message says where to look."""


def run(settings: Settings) -> int:
    """Run a federation over the settings' data, print its table, and write its report.

    Raises:
        ConfigError, DataError, PartitionError, SchemaError: before any process starts.
        RunFailed: the server ended with an error.
    """
    console = terminal()
    folder = new_folder(settings.local.runs)
    sources = gather(settings, folder / "data")
    for source in sources:
        source.partition.aligned(sources[0].partition.schema)
        if settings.local.live:
            live.stretch(source.partition)
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings.with_values(
        server={
            "host": "127.0.0.1",
            "port": free_port(),
            "state": folder / "server",
            "database": None,
        },
        federation={"min_clients": len(sources)},
    )
    save(settings, folder / "settings.yaml")
    console.print(f"{len(sources)} clients, a process each; logs and results in {folder}")
    machines = [
        live.MonitoredMachine.of(s.partition, folder / "clients") for s in sources if settings.local.live
    ]
    with Processes() as processes:
        started = time.monotonic()
        reason = _federate(settings, folder, sources, machines, processes, console)
        wall_s = time.monotonic() - started
        if not machines:
            processes.end()
        newest = Registry(folder / "server" / "versions", settings.server.keep_versions).latest()
        if newest is None:
            raise RunFailed(f"the run ended without a version: {reason}; logs are in {folder}")
        manifest = newest[0]
        rounds = _history(folder).rounds()
        partitions = [source.partition for source in sources]
        judgements = [ClientWorker(partition, "local").judge(manifest) for partition in partitions]
        comparisons = _compare(partitions, manifest, settings, console)
        found = report(settings, rounds, reason, manifest, judgements, comparisons, wall_s)
        _show(found, console)
        if machines:
            found["live"] = live.show(machines, manifest.version, settings, console)
    write_atomic(folder / "report.json", json.dumps(found, indent=1).encode())
    console.print(f"Report: {folder}/report.json   newest version: {folder}/server/versions")
    return 0


def _federate(
    settings: Settings,
    folder: Path,
    sources: Sequence[PartitionSource],
    machines: Sequence[live.MonitoredMachine],
    processes: Processes,
    console: Console,
) -> str:
    """Start the server and the clients, and show the rounds as they fall; why the run ended."""
    command = python_module("flockwatch")
    config = ["--config", str(folder / "settings.yaml")]
    processes.start(
        "server",
        [*command, "server", *config],
        folder / "server.log",
        flower_environment(folder / "server" / "flower"),
    )
    streams = {machine.partition.name: machine.flags for machine in machines}
    for source in sources:
        name = source.partition.name
        state = folder / "clients" / name
        processes.start(
            name,
            [
                *command, "client", *config, "--state", str(state), "--data", str(source.file),
                "--server", f"127.0.0.1:{settings.server.port}", "--name", name, *streams.get(name, ()),
            ],
            folder / "clients" / f"{name}.log",
            flower_environment(state / "flower"),
        )  # fmt: skip
    _follow(settings, folder, processes, [source.partition.name for source in sources], console)
    if processes.exit_code("server"):
        raise RunFailed(
            f"the server ended with an error; {folder}/server.log ends:\n{processes.log_tail('server')}"
        )
    return (folder / "server" / "ended").read_text()


def _follow(
    settings: Settings, folder: Path, processes: Processes, names: Sequence[str], console: Console
) -> None:
    """Show progress until the server ends; say so when a client has died."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("rounds"), TimeElapsedColumn(), TextColumn("{task.fields[state]}"),
    )  # fmt: skip
    history: History | None = None
    dead: set[str] = set()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=settings.federation.max_rounds, state="starting processes")
        while processes.exit_code("server") is None:
            for name in names:
                if name not in dead and processes.exit_code(name) is not None:
                    dead.add(name)
                    console.print(f"[yellow]client {name} has ended:[/] {processes.log_tail(name)}")
            if history is None and (folder / "server" / "history.sqlite").exists():
                history = _history(folder)
            if history is not None:
                _update(progress, task, history)
            time.sleep(LOOK_EVERY_S)
        if history is not None:
            _update(progress, task, history)


def _update(progress: Progress, task: object, history: History) -> None:
    newest = history.newest_round()
    if newest is not None:
        state = f"error {newest['error']:.4g}" if newest["error"] is not None else "round failed"
        progress.update(task, completed=newest["version"], state=state)  # type: ignore[arg-type]
    elif (note := history.last_note()) is not None:
        progress.update(task, state=f"{note[0]}: {note[1]}")  # type: ignore[arg-type]


def _compare(
    partitions: Sequence[Partition], manifest: Manifest, settings: Settings, console: Console
) -> list[Comparison]:
    """The rivals' figures, where there are labels to judge by and the libraries to train with."""
    if not settings.local.compare or all(p.test_labels is None for p in partitions):
        return []
    from flockwatch.quality.comparison import compare

    with console.status("comparing") as status:
        return compare(
            partitions, manifest, settings, lambda doing: status.update(f"for comparison: {doing}")
        )


def _show(found: dict[str, object], console: Console) -> None:
    totals = found["totals"]
    assert isinstance(totals, dict)  # noqa: S101
    console.print(table(found))
    console.print(f"Anomalies detected: {totals['anomalies_detected']}")
    console.print(
        f"{totals['rounds']} rounds in {totals['wall_s']:.1f} s, {totals['seconds_per_round']:.2f} s each "
        f"(median); ended: {found['reason']}"
    )


def _history(folder: Path) -> History:
    return History(folder / "server" / "history.sqlite")
