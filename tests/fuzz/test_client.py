"""Fuzzed messages to a client: none ends it, blinds it, or keeps it from the tasks and versions that follow.

`FLOCKWATCH_FUZZ` is the number of messages that are mutated; `make soak` sends many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import client

MUTATIONS = int(os.environ.get("FLOCKWATCH_FUZZ", "150"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_client_goes_on_under_mutated_messages_of_every_kind(tmp_path: Path, seed: int) -> None:
    answers = client.run(tmp_path, MUTATIONS, seed)
    assert {"ProtocolError", "ManifestError", "Description", "Update", "Evaluation"} <= answers.keys()
    assert sum(answers.values()) >= MUTATIONS
