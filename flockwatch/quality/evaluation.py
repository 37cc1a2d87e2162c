"""`flockwatch evaluate`: reads a folder of labelled files, has every row worked out, and reports."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.data.partition import data_files, read_interval_s, read_partition
from client.data.tables import DataError
from common.config import ConfigError
from common.formats.files import write_atomic
from common.settings import Settings
from flockwatch.quality import plots
from flockwatch.quality.outcome import outcome
from flockwatch.quality.protocol import FEDERATED, ROWS, TRAINED, Done, Job, Labelled, done, epochs_of
from flockwatch.quality.table import caption, tables
from flockwatch.runs import new_folder, terminal

INTERVAL_S = 60.0
"""Taken from one row to the next where neither the settings nor the rows say."""
ONE_THREAD = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
"""Each worker has a core; more threads would only wait for each other."""


def run(settings: Settings) -> int:
    """Evaluate the settings' data, print the table, and write `quality.json` and the pictures.

    Raises:
        ConfigError, DataError, SchemaError: the settings or the data cannot be used.
    """
    console = terminal()
    folder = new_folder(settings.evaluate.runs)
    clients = labelled(settings)
    found, finished = evaluated(clients, settings, console)
    folder.mkdir(parents=True)
    write_atomic(folder / "quality.json", json.dumps(found, indent=1).encode())
    plots.draw(folder, clients, finished)
    console.print(*tables(found), caption(found), sep="\n")
    console.print(f"Figures and pictures: {folder}")
    return 0


def labelled(settings: Settings) -> list[Labelled]:
    """Every client's data.

    Raises:
        ConfigError: no folder is named.
        DataError, SchemaError: a file cannot be used, has no labelled test rows, or other features.
    """
    if settings.evaluate.data is None:
        raise ConfigError("'evaluate.data' is not set: name a folder with one labelled file a client")
    clients: list[Labelled] = []
    for file in data_files(settings.evaluate.data):
        partition = read_partition(file, settings.data)
        if partition.test_labels is None:
            raise DataError(
                f"{file}: no labelled test rows; expected '{settings.data.split}' with 1 for test rows and "
                f"'{settings.data.label}' with 1 for anomalies"
            )
        interval_s = settings.threshold.interval_s or read_interval_s(file, settings.data) or INTERVAL_S
        first = clients[0].partition.schema if clients else partition.schema
        clients.append(Labelled(partition.aligned(first), interval_s))
    return clients


def evaluated(
    clients: Sequence[Labelled], settings: Settings, console: Console
) -> tuple[dict[str, Any], list[Done]]:
    """All figures as JSON values, and all that was worked out for them."""
    started = time.monotonic()
    finished = sorted(_finished(clients, settings, console), key=lambda d: d.job.seed)
    return outcome(clients, finished, settings, time.monotonic() - started), finished


def seeds(settings: Settings) -> list[int]:
    """Of the runs of each row."""
    return [settings.training.seed + i for i in range(settings.evaluate.seeds)]


def _plan(settings: Settings) -> list[Job]:
    """What can be done at once: the longest first."""
    folds = range(settings.evaluate.folds if settings.evaluate.new_client_rows is not None else 0)
    simple = [row for row in ROWS if row not in (*TRAINED, FEDERATED)]
    return [
        *(Job(FEDERATED, seed) for seed in seeds(settings)),
        *(Job(FEDERATED, seed, fold=fold) for seed in seeds(settings) for fold in folds),
        *(Job(row, seed) for row in simple for seed in seeds(settings)),
    ]


def _finished(clients: Sequence[Labelled], settings: Settings, console: Console) -> Iterator[Done]:
    plan = _plan(settings)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"),
        TimeElapsedColumn(),
    )  # fmt: skip
    total = len(plan) + len(TRAINED) * settings.evaluate.seeds
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("evaluating", total=total)
        for result in _worked(plan, clients, settings):
            progress.advance(task)
            yield result


def _worked(plan: Iterable[Job], clients: Sequence[Labelled], settings: Settings) -> Iterator[Done]:
    """Each job as it is done; when a federation is, its rivals are given as many epochs as it had."""
    workers = settings.evaluate.workers or _cores()
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            waiting = {pool.submit(done, job, clients, settings) for job in plan}
            while waiting:
                result = next(as_completed(waiting))
                waiting.remove(result)
                found = result.result()
                if found.job.row == FEDERATED and found.job.fold is None:
                    epochs = epochs_of(found.rounds, settings)
                    rivals = [Job(row, found.job.seed, epochs) for row in TRAINED]
                    waiting |= {pool.submit(done, job, clients, settings) for job in rivals}
                yield found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """In a worker: do not outlive the process that asked, and be silent."""
    # Hundreds of rounds and replays would tell of themselves: here only what goes wrong is news.
    for name in ("", "flwr"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
