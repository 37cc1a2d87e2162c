"""`flockwatch evaluate`: reads a folder of labelled files, runs all jobs in worker processes, and reports."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.data.files.csv_text import DataError
from client.data.files.partitions import data_files, read_partition
from client.data.partition import Partition
from common.config import ConfigError
from common.formats.files import write_atomic
from common.settings import Settings
from flockwatch.quality import plots
from flockwatch.quality.autoencoders import held_out_rows
from flockwatch.quality.jobs import (
    FEDERATED,
    METHODS,
    OF_VERSION,
    TRAINED,
    Job,
    JobResult,
    LabelledClient,
    epochs_of,
    run_job,
)
from flockwatch.quality.report import report
from flockwatch.quality.table import caption, tables
from flockwatch.runs import new_folder, terminal

ONE_THREAD = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
"""Variables that limit a worker to one thread: there are as many workers as cores."""


def run(settings: Settings) -> int:
    """Evaluate the data that the settings name, print the tables, and write `quality.json` and the plots.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError, DataError, SchemaError: the settings or the data cannot be used.
    """
    console = terminal()
    folder = new_folder(settings.evaluate.runs)
    clients, left_out = read_clients(settings)
    for reason in left_out.values():
        console.print(f"Left out: {reason}", markup=False)
    values, results = evaluate(clients, left_out, settings, console)
    values["data"] = [client.partition.summary() for client in clients]
    folder.mkdir(parents=True)
    write_atomic(folder / "quality.json", json.dumps(values, indent=1).encode(), 0o666)
    plots.draw(folder, clients, results)
    console.print(*tables(values), caption(values), sep="\n")
    console.print(f"Metrics and plots: {folder}")
    return 0


def read_clients(settings: Settings) -> tuple[list[LabelledClient], dict[str, str]]:
    """Read the data of every client.

    Returns:
        The clients that can be evaluated, and for each other client why it is left out.

    Raises:
        ConfigError: the settings name no folder.
        DataError, SchemaError: a file cannot be read or has other features, or no client can be evaluated.
    """
    folder = settings.evaluate.data
    if folder is None:
        raise ConfigError("'evaluate.data' is not set: pass --data FOLDER, with one labelled file per client")
    clients: list[LabelledClient] = []
    left_out: dict[str, str] = {}
    for file in data_files(folder):
        partition = read_partition(file, settings.data)
        if (reason := _why_left_out(partition, settings)) is not None:
            left_out[partition.name] = f"{file}: {reason}"
            continue
        interval_s = settings.threshold.interval_s or partition.interval_s
        schema = clients[0].partition.schema if clients else partition.schema
        clients.append(LabelledClient(partition.aligned(schema), interval_s))
    if not clients:
        raise DataError("no client can be evaluated:\n" + "\n".join(left_out.values()))
    return clients, left_out


def _why_left_out(partition: Partition, settings: Settings) -> str | None:
    """Return why a client's rows cannot be evaluated; None if they can."""
    if partition.test_labels is None:
        return (
            f"no labelled test rows; expected '{settings.data.split}' with 1 for test rows and "
            f"'{settings.data.label}' with 1 for anomalies"
        )
    count, window = len(partition.rows), settings.model.window
    held_out = held_out_rows(count, settings)
    if min(count - held_out, held_out or count) < window:
        return (
            f"{count} training rows, of which {held_out} are held out; a window needs {window} rows to train "
            f"on and {window} that are held out"
        )
    return None


def evaluate(
    clients: Sequence[LabelledClient], left_out: Mapping[str, str], settings: Settings, console: Console
) -> tuple[dict[str, Any], list[JobResult]]:
    """Run all jobs; return the report as JSON values, and the results that it was made from.

    Args:
        clients: The fleet.
        left_out: Why other clients are left out, for the report.
        settings: The settings of the evaluation.
        console: Where progress is shown.
    """
    started = time.monotonic()
    results = sorted(_run_with_progress(clients, settings, console), key=lambda result: result.job.seed)
    return report(clients, left_out, results, settings, time.monotonic() - started), results


def _plan(settings: Settings) -> list[Job]:
    """Return the jobs that depend on no other, the longest first."""
    seeds = [settings.training.seed + i for i in range(settings.evaluate.seeds)]
    folds = range(settings.evaluate.folds if settings.evaluate.new_client_rows is not None else 0)
    baselines = [method for method in METHODS if method not in (*TRAINED, *OF_VERSION)]
    return [
        *(Job(FEDERATED, seed) for seed in seeds),
        *(Job(FEDERATED, seed, fold=fold) for seed in seeds for fold in folds),
        *(Job(method, seed) for method in baselines for seed in seeds),
    ]


def _run_with_progress(
    clients: Sequence[LabelledClient], settings: Settings, console: Console
) -> Iterator[JobResult]:
    plan = _plan(settings)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"),
        TimeElapsedColumn(),
    )  # fmt: skip
    total = len(plan) + len(TRAINED) * settings.evaluate.seeds
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("evaluating", total=total)
        for result in _run_jobs(plan, clients, settings):
            progress.advance(task)
            yield result


def _run_jobs(
    plan: Iterable[Job], clients: Sequence[LabelledClient], settings: Settings
) -> Iterator[JobResult]:
    """Yield the result of each job when it is done.

    When a federation is done, models without a federation are trained for as many epochs.
    """
    workers = settings.evaluate.workers or _cores()
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            waiting = {pool.submit(run_job, job, clients, settings) for job in plan}
            while waiting:
                future = next(as_completed(waiting))
                waiting.remove(future)
                result = future.result()
                if result.job.method == FEDERATED and result.job.fold is None:
                    epochs = epochs_of(result.rounds, settings)
                    jobs = [Job(method, result.job.seed, epochs) for method in TRAINED]
                    waiting |= {pool.submit(run_job, job, clients, settings) for job in jobs}
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Prepare a worker process: it logs errors only, and ends when its parent has ended."""
    for name in ("", "flwr"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
