# SPDX-License-Identifier: Apache-2.0
"""Where a chunk stands in its prefix, remembered from lookup to put.

LMCache tells a put nothing about that, but looks the whole prefix up before it stores
its end.  A hint for eviction: forgetting one costs nothing but a worse choice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable


class Depths:
    """Depths of the keys seen last, counted from 1.  Any thread."""

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._depths: OrderedDict[bytes, int] = OrderedDict()

    def learn(self, prefix: Iterable[bytes]) -> None:
        """``prefix`` are the keys of one request from its first chunk on."""
        with self._lock:
            for depth, key in enumerate(prefix, start=1):
                self._depths[key] = depth
                self._depths.move_to_end(key)
            while len(self._depths) > self._capacity:
                self._depths.popitem(last=False)

    def of(self, key: bytes) -> int:
        """The depth of ``key``; 0: not known."""
        with self._lock:
            return self._depths.get(key, 0)
