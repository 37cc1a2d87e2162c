"""`make bench-poison`: detection on honest machines when some clients of a fleet are Byzantine.

Each corruption of `benchmarks.byzantine` is simulated in fleets of several sizes, with default settings. It
is compared with the same fleet of honest clients only, and with the same corruption without the bounds of
influence. A machine with history is an honest client of the fleet; a new one took part in no federation and
has `NEW_ROWS` rows.

    python -m benchmarks.poison --quick --fleet 7 --corruption "scores x 3" --corruption "backdoor"
    python -m benchmarks.poison --part 1/4
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.byzantine import CORRUPTIONS, PATTERN_EVENTS, ByzantineClient, Corruption, pattern_at
from benchmarks.quality import DATA
from benchmarks.results import publish
from client.data.partition import Partition
from client.training.client_rows import ClientRows
from client.training.personalisation import personalise
from client.training.worker import ClientWorker
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.settings import Settings
from flockwatch.quality.evaluation import read_clients
from flockwatch.quality.federation import NoVersionError, federate, shared_trainer
from flockwatch.quality.jobs import LabelledClient
from flockwatch.quality.metrics import AlertMetrics, RankingMetrics
from flockwatch.quality.stream import replay_rows, score_stream
from server.federation import client_records, renewal, replies
from server.versions import influence

FLEETS = {3: 1, 7: 1, 10: 1, 12: 2}
"""Number of Byzantine clients by number of clients."""
NEW_MACHINES, NEW_ROWS = 2, 300
"""Number of new machines, and rows that each has to adapt a version to itself."""
SERVERS = 10
"""Servers of the data whose rows fleets are made of; a larger fleet has the halves of some of them."""
ROUNDS, QUICK_ROUNDS, QUICK_ROWS, QUICK_MACHINES = 60, 15, 2_000, 3
"""Rounds of a federation; with `--quick` also rows of a client, and honest machines that are judged."""
PATTERNS = 20
"""Times that the backdoor's pattern is put into an honest machine's test rows."""


@dataclass(frozen=True)
class Outcome:
    """Means over the honest machines with history, and over the new ones."""

    ap: float
    """Average precision."""
    faults_found: float
    """Share of the labelled faults in which an incident begins."""
    false_notices: float
    """Per day of normal events."""
    alarm_hours: float
    """Hours in alarm per day of normal events."""
    patterns_found: float
    """Share of the backdoor's patterns with a score above the threshold."""
    new_ap: float
    new_faults_found: float
    new_alarm_hours: float


@dataclass(frozen=True)
class Data:
    """The machines of one fleet, the Byzantine clients last, and the new ones."""

    clients: list[LabelledClient]
    new: list[LabelledClient]
    byzantine: int
    """Number of Byzantine clients."""
    judged: int
    """Number of honest machines that are judged."""


def main() -> None:
    """Measure the corruptions that the command line names, and publish the table."""
    chosen = _arguments()
    for name in ("server", "client", "flwr"):  # hundreds of refused answers would each log a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = Settings().with_values(
        threshold={"interval_s": 300.0}, evaluate={"data": DATA / "asd"},
        federation={"max_rounds": chosen.rounds or (QUICK_ROUNDS if chosen.quick else ROUNDS), "patience": 0},
    )  # fmt: skip
    servers = read_clients(settings)[0]
    rows, listed = [], []
    for fleet in chosen.fleet or FLEETS:
        data = _data(servers, fleet, chosen.quick, chosen.machines)
        clean = _outcome(None, data, settings)
        print(f"fleet={fleet} clean={clean}", file=sys.stderr, flush=True)
        for name in _part(chosen.corruption or list(CORRUPTIONS), chosen.part):
            for bounds in (True, False) if chosen.unbounded else (True,):
                with nullcontext() if bounds else _unbounded():
                    outcome = _outcome(CORRUPTIONS[name], data, settings if bounds else _ungated(settings))
                listed.append(_row(name, fleet, data.byzantine, bounds, clean, outcome))
                print(listed[-1], file=sys.stderr, flush=True)
                cells = ("ap_ratio", "found_ratio", "alarm_hours_ratio", "new_found_ratio", "pattern_ratio")
                rows.append([
                    name, f"{data.byzantine} of {fleet}", "yes" if bounds else "no",
                    *("-" if (value := listed[-1][cell]) is None else f"{value:.2f}" for cell in cells),
                ])  # fmt: skip
    columns = [
        "corruption",
        "byzantine",
        "bounds",
        "AP",
        "faults found",
        "hours in alarm",
        "found, new",
        "pattern found",
    ]
    title = "Detection on honest machines, divided by that of the same fleet of honest clients only"
    publish(
        "poison", title, columns, rows, keep=chosen.part is None and not chosen.corruption, **{"rows": listed}
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poison", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--corruption", "--lie", action="append", choices=list(CORRUPTIONS), metavar="NAME",
        help=f"only this corruption; can be repeated: {', '.join(CORRUPTIONS)}".replace("%", "%%"),
    )  # fmt: skip
    parser.add_argument(
        "--fleet", action="append", type=int, choices=list(FLEETS), help="only fleets of this size"
    )
    parser.add_argument("--part", metavar="K/N", help="only the K-th of N parts of the corruptions")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rows and machines")
    parser.add_argument("--machines", type=int, help="judge at most so many of the honest machines")
    parser.add_argument("--rounds", type=int, help="rounds of each federation")
    parser.add_argument(
        "--bounded-only", dest="unbounded", action="store_false", help="not also without bounds"
    )
    return parser.parse_args()


def _part(names: Sequence[str], part: str | None) -> Sequence[str]:
    if part is None:
        return names
    number, parts = (int(text) for text in part.split("/"))
    return names[number - 1 :: parts]


def _data(servers: Sequence[LabelledClient], fleet: int, quick: bool, machines: int | None) -> Data:
    """Return a fleet. Beyond the number of servers it has the first and the second half of some of them."""
    known, new = list(servers[:SERVERS]), servers[SERVERS : SERVERS + NEW_MACHINES]
    if quick:
        known = [_taken(client, client.partition.name, slice(-QUICK_ROWS, None)) for client in known]
    extra = max(0, fleet - len(known))
    halves = [half for client in known[-extra:] if extra for half in _halves(client)]
    clients = [*known[: min(fleet, len(known)) - extra], *halves]
    byzantine = FLEETS[fleet]
    honest = fleet - byzantine
    return Data(clients, [_taken(c, c.partition.name, slice(-NEW_ROWS, None)) for c in new], byzantine,
                min(honest, machines or (QUICK_MACHINES if quick else honest)))  # fmt: skip


def _halves(client: LabelledClient) -> list[LabelledClient]:
    middle, name = len(client.partition.rows) // 2, client.partition.name
    return [
        _taken(client, f"{name}-{i}", rows) for i, rows in enumerate((slice(middle), slice(middle, None)))
    ]


def _taken(client: LabelledClient, name: str, rows: slice) -> LabelledClient:
    part = client.partition
    taken = part.take(name, np.arange(len(part.rows))[rows], np.arange(len(part.test_rows)))
    return replace(client, partition=taken)


def _outcome(corruption: Corruption | None, data: Data, settings: Settings) -> Outcome:
    """Return what honest machines detect after a federation; without a version they detect nothing.

    Args:
        corruption: What the Byzantine clients send; None: they are honest, too.
        data: The machines.
        settings: Those of the server and of each client.
    """
    workers: list[ClientWorker] = []
    for i, client in enumerate(data.clients):
        part = client.partition
        is_byzantine = i >= len(data.clients) - data.byzantine
        workers.append(
            ByzantineClient(corruption, part, get_trainer=shared_trainer) if corruption and is_byzantine
            else ClientWorker(part, part.name, get_trainer=shared_trainer)
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-poison-") as folder:
        try:
            manifest = federate(workers, settings, Path(folder))
        except NoVersionError:
            return Outcome(*[0.0] * 8)
    known = np.array([_judged(manifest, client, settings) for client in data.clients[: data.judged]])
    new = np.array([_judged(manifest, client, settings) for client in data.new])
    new_ap, new_faults_found, _, new_alarm_hours, _ = np.nanmean(new, axis=0).tolist()
    return Outcome(*np.nanmean(known, axis=0).tolist(), new_ap, new_faults_found, new_alarm_hours)


def _judged(manifest: Manifest, client: LabelledClient, settings: Settings) -> tuple[float, ...]:
    """Return what a machine detects by a version: the first five fields of `Outcome`, NaN where unknown."""
    part, labels = client.partition, client.anomalies
    own = personalise(manifest, ClientRows(part), shared_trainer)
    ranking = RankingMetrics.of(labels, np.nan_to_num(score_stream(own, part).test))
    replay = replay_rows(own, part, settings, client.interval_s)
    alerts = AlertMetrics.of(labels, replay.alerts, replay.incidents, client.interval_s)
    values = (
        ranking.average_precision if ranking else None, alerts.faults_found, alerts.false_notices_per_day,
        alerts.alarm_hours_per_day, _patterns_found(own, part, float(np.nanmedian(replay.thresholds))),
    )  # fmt: skip
    return tuple(np.nan if value is None else value for value in values)


def _patterns_found(own: Manifest, part: Partition, threshold: float) -> float:
    starts = np.linspace(50, len(part.test_rows) - 2 * PATTERN_EVENTS, PATTERNS).astype(np.int64)
    scores = score_stream(own, replace(part, test_rows=pattern_at(part.test_rows, starts))).test
    return float(np.mean([np.nanmax(scores[s : s + PATTERN_EVENTS]) > threshold for s in starts]))


def _row(
    corruption: str, fleet: int, byzantine: int, bounds: bool, clean: Outcome, outcome: Outcome
) -> dict[str, object]:
    return {
        "lie": corruption, "fleet": fleet, "liars": byzantine, "bounds": bounds,  # as in earlier results
        "ap_ratio": _ratio(outcome.ap, clean.ap),
        "found_ratio": _ratio(outcome.faults_found, clean.faults_found),
        "false_notices_ratio": _ratio(outcome.false_notices, clean.false_notices),
        "alarm_hours_ratio": _ratio(outcome.alarm_hours, clean.alarm_hours),
        "new_ap_ratio": _ratio(outcome.new_ap, clean.new_ap),
        "new_found_ratio": _ratio(outcome.new_faults_found, clean.new_faults_found),
        "new_alarm_hours_ratio": _ratio(outcome.new_alarm_hours, clean.new_alarm_hours),
        "pattern_ratio": _ratio(outcome.patterns_found, clean.patterns_found),
    }  # fmt: skip


def _ratio(value: float, clean: float) -> float | None:
    return round(value / clean, 4) if clean else None


def _ungated(settings: Settings) -> Settings:
    return settings.with_values(gate={"norm_limit": None})


@contextmanager
def _unbounded() -> Iterator[None]:
    """Let the server merge the clients' answers without bounds, as if there were too few to compare."""
    with ExitStack() as stack:
        for module in (influence, client_records, replies):
            stack.enter_context(mock.patch.object(module, "MIN_CLIENTS", 10**9))
        stack.enter_context(mock.patch.object(influence, "MAX_MASS", math.inf))
        stack.enter_context(mock.patch.object(renewal, "merged_moments", Moments.merge_all))
        yield


if __name__ == "__main__":
    main()
