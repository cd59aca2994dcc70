"""Counters."""

from __future__ import annotations

import threading

from memkv_lmcache.metrics import Counters


def test_counters_lose_nothing_between_threads() -> None:
    """Counting from several threads at once adds up, misses with their reason."""
    counters = Counters()

    def work() -> None:
        for _ in range(1000):
            counters.miss("absent")
            counters.count("get_bytes", 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot() == {"miss_absent": 4000, "get_bytes": 12000}
