"""What several tests need and pytest does not have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 30.0) -> T:
    """Returns the first true answer of `condition`, asked until `timeout` seconds pass.

    Raises AssertionError with the last answer after that.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s; last answer: {answer!r}")
        time.sleep(0.005)
    return answer
