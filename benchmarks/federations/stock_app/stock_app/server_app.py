"""The ServerApp: FedAvg over all clients; records when each round ended."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from stock_app.task import load_model

app = ServerApp()


def average(replies: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Average the metrics as FedAvg does, and add the number of clients."""
    metrics = aggregate_metricrecords(replies, weighted_by)
    metrics["clients"] = len(replies)
    return metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for the configured number of rounds and write their times to a JSON file."""
    config = context.run_config
    clients = int(config["num-clients"])
    rounds = int(config["num-server-rounds"])
    model = load_model(int(config["features"]), [int(width) for width in str(config["hidden"]).split()])

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=clients,
        min_evaluate_nodes=clients,
        min_available_nodes=clients,
        train_metrics_aggr_fn=average,
        evaluate_metrics_aggr_fn=average,
    )

    finished: list[float] = []

    def note_time(_round: int, _arrays: ArrayRecord) -> None:
        """Record the time; Flower calls this once before the first round and once after each."""
        finished.append(time.monotonic())

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.get_weights()),
        num_rounds=rounds,
        evaluate_fn=note_time,
    )

    trained, evaluated = result.train_metrics_clientapp, result.evaluate_metrics_clientapp
    numbers = range(1, rounds + 1)
    report = {
        "finished": finished,
        "train": [trained[n]["clients"] if n in trained else 0 for n in numbers],
        "evaluate": [evaluated[n]["clients"] if n in evaluated else 0 for n in numbers],
        "eval-loss": [evaluated[n]["eval-loss"] if n in evaluated else None for n in numbers],
    }
    Path(str(config["times"])).write_text(json.dumps(report))
