from __future__ import annotations

import pytest

from common.durations import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.9, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (119.9, "119 seconds"),
        (120, "2 minutes"),
        (3 * 3600 + 3599, "3 hours"),
        (86400, "24 hours"),
        (14 * 86400, "14 days"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
