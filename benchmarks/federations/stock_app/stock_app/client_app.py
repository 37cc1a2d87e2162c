"""The ClientApp: trains and evaluates on this node's rows."""

import keras
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from stock_app.task import load_data, load_model

app = ClientApp()


def load(message: Message, context: Context) -> tuple[keras.Model, NDArray[np.float32], NDArray[np.float32]]:
    """Return the model with the message's weights, the training rows and the held-out rows."""
    config = context.run_config
    train_rows, test_rows = load_data(str(context.node_config["rows"]), float(config["holdout"]))
    model = load_model(int(config["features"]), [int(width) for width in str(config["hidden"]).split()])
    model.set_weights(message.content.array_records["arrays"].to_numpy_ndarrays())
    return model, train_rows, test_rows


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model on this node's rows."""
    model, rows, _ = load(message, context)
    history = model.fit(
        rows,
        rows,
        epochs=int(context.run_config["local-epochs"]),
        batch_size=int(context.run_config["batch-size"]),
        verbose=0,
    )
    metrics = MetricRecord({"train-loss": float(history.history["loss"][-1]), "num-examples": len(rows)})
    content = RecordDict({"arrays": ArrayRecord(model.get_weights()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on this node's held-out rows."""
    model, _, rows = load(message, context)
    loss = model.evaluate(rows, rows, verbose=0)
    metrics = MetricRecord({"eval-loss": float(loss), "num-examples": len(rows)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
