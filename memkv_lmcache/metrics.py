# SPDX-License-Identifier: Apache-2.0
"""Counters, with the reason of every miss.  No server and no clock here."""

from __future__ import annotations

import threading
from collections import Counter

MISS = "miss_"


class Counters:
    """Named counters that only grow.  Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()

    def count(self, name: str, n: int = 1) -> None:
        """Adds ``n`` to the counter ``name``."""
        with self._lock:
            self._values[name] += n

    def miss(self, reason: str, n: int = 1) -> None:
        """Counts ``n`` misses for ``reason`` (see ``errors.miss_reason``)."""
        self.count(MISS + reason, n)

    def snapshot(self) -> dict[str, int]:
        """All counters at one moment; a miss stands as ``miss_<reason>``."""
        with self._lock:
            return dict(self._values)
