"""Background load: `python -m benchmarks.detection.background_training` trains until it is terminated."""

from __future__ import annotations

from benchmarks.detection import stream
from client.training.trainer import Trainer
from common.processes.children import end_with_parent


def main() -> None:
    """Train without end, as a client trains within a task."""
    end_with_parent(lambda: None)
    manifest = stream.version(1)
    trainer = Trainer(manifest.architecture, stream.SETTINGS.training)
    rows, weights = stream.training_rows(), manifest.weights
    print("training", flush=True)
    while True:
        weights, _ = trainer.fit(weights, rows, epochs=10, seed=0)


if __name__ == "__main__":
    main()
