"""Waiting for another thread or process, in place of a sleep that stands for its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 240.0
"""A dozen processes that import TensorFlow take minutes on a busy core."""


def eventually(
    condition: Callable[[], Any], within_s: float = PATIENCE_S, goal: str = "", every_s: float = 0.01
) -> Any:
    """Wait for a truthy value of `condition()` and return it; fail the test if there is none in time.

    Args:
        condition: Is called again and again.
        within_s: Longest wait, in seconds.
        goal: What is waited for, for the message of a failed test.
        every_s: Time between two calls, in seconds.
    """
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {within_s:.0f} s: {goal or 'the condition'}"
        time.sleep(every_s)
    return value
