"""Updates of clients for tests, as they are received and as they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.model.histogram import ScoreHistogram
from common.model.scoring import ErrorSummary
from common.protocol.messages import Update
from server.federation.replies import AdmittedReply, Reply, SentMessage


def update(client: str, difference: Any = (1.0, 0.0), scores: Any = (), **changes: Any) -> Update:
    """Return an update of version 3, whose difference is one array or named arrays."""
    arrays = difference if isinstance(difference, dict) else {"w": np.array(difference, np.float32)}
    values = {
        "version": 3, "rows": 10, "error": ErrorSummary(1, 0.5, 0.5, 0.5, 0.5, 0.5), "drifted": False,
        "loss": 0.1, "train_s": 1.0, "difference": arrays,
        "scores": ScoreHistogram.of(np.array(scores, np.float64)),
    }  # fmt: skip
    return Update(**{"client": client, **values, **changes})


def admitted(answer: Update, number: int = 4, bytes_up: int = 10) -> AdmittedReply:
    """Return an update as it is stored after admission."""
    sent = SentMessage(1, number, "train", version=3)
    return AdmittedReply(answer, Reply(sent, answer, "", "", None, bytes_up))  # type: ignore[arg-type]
