# SPDX-License-Identifier: Apache-2.0
"""Which of many objects the fleet has, answered in time whatever the servers do.

LMCache asks for all objects of a request at once, thousands of them, and waits for the
answer of every adapter without a time-out of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from memkv_lmcache.client import Client, Result
from memkv_lmcache.errors import MemKVError, Status, miss_reason
from memkv_lmcache.header import MAX_HEADER
from memkv_lmcache.hints import Depths
from memkv_lmcache.keys import ObjectName, object_key
from memkv_lmcache.l2.layouts import Expected
from memkv_lmcache.l2.tasks import Deadlines
from memkv_lmcache.metrics import Counters
from memkv_lmcache.workers import Workers

logger = logging.getLogger(__name__)

#: Of the time that a lookup has: the part in which servers are asked, and the part
#: after which it is answered.  The rest is for the switch of threads.
ASK_SHARE = 0.8
ANSWER_SHARE = 0.9

#: Takes our headers with a key text of usual length; a longer one is asked for again.
HEADER_ROOM = 1024
#: Keys of one batch.  What is found is kept from batch to batch.
BATCH = 2048
THREADS = 2

Done = Callable[[list[int]], None]


class Lookups:
    """Runs lookups on threads of its own.  Any thread."""

    def __init__(
        self,
        client: Client,
        depths: Depths,
        counters: Counters,
        *,
        budget: float,
        lease_ms: int,
    ) -> None:
        self._client = client
        self._depths = depths
        self._counters = counters
        self._budget = budget
        self._lease_ms = lease_ms
        self._workers = Workers("memkv-l2-lookup", THREADS)
        self._deadlines = Deadlines("memkv-l2-deadline", budget * ANSWER_SHARE)

    def start(self, keys: Sequence[ObjectName], layouts: Any, done: Done) -> None:
        """Calls ``done`` with the indices of what is there, once and within ``budget``.

        ``layouts`` are those that LMCache expects.  What is found is leased.
        """
        lookup = _Lookup(len(keys), self._counters, done)
        ask_until = time.monotonic() + self._budget * ASK_SHARE

        def run() -> None:
            try:
                if not lookup.is_over:
                    self._run(lookup, keys, Expected(layouts), ask_until)
            except MemKVError as error:
                lookup.miss_rest(miss_reason(error.status))
            except Exception:
                lookup.miss_rest("internal")
                logger.exception("MemKV: a lookup of %d keys failed", len(keys))
            lookup.answer()

        self._deadlines.watch(lookup.answer)
        if not self._workers.submit(run):
            lookup.answer()

    def close(self) -> None:
        """Answers what is under way, and all that comes later, with what was found."""
        self._workers.close()
        self._deadlines.close()

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds until no lookup is running."""
        return self._workers.wait_idle(timeout)

    def _run(
        self,
        lookup: _Lookup,
        keys: Sequence[ObjectName],
        expected: Expected,
        ask_until: float,
    ) -> None:
        wire = [object_key(key) for key in keys]
        order, rows = _by_chunk(keys)
        for begin in range(0, len(order), BATCH):
            if lookup.is_over or time.monotonic() >= ask_until:
                break
            indices = order[begin : begin + BATCH]
            results = self._ask([wire[i] for i in indices], ask_until)
            found, misses = [], Counter[str]()
            for i, result in zip(indices, results, strict=True):
                group = keys[i].object_group_id
                if result.status != Status.OK:
                    misses[miss_reason(result.status)] += 1
                elif expected.accepts(result.header, wire[i], group):
                    found.append(i)
                else:
                    misses["header_mismatch"] += 1
            lookup.note(found, misses)
        lookup.answer()
        for row in rows:
            self._depths.learn(wire[i] for i in row)

    def _ask(self, keys: Sequence[bytes], until: float) -> list[Result]:
        def stat(keys: Sequence[bytes], header_room: int) -> list[Result]:
            return self._client.stat_many(
                keys,
                headers=True,
                header_room=header_room,
                lease_ms=self._lease_ms,
                timeout=max(0.0, until - time.monotonic()),
            )

        results = stat(keys, HEADER_ROOM)
        longer = [i for i, r in enumerate(results) if r.status == Status.TOO_SMALL]
        if longer:
            again = stat([keys[i] for i in longer], MAX_HEADER)
            for i, result in zip(longer, again, strict=True):
                results[i] = result
        return results


class _Lookup:
    """One lookup: what is known so far, until it is answered.  Any thread.

    It outlives its answer in the queue of deadlines, so it does not hold the keys.
    """

    def __init__(self, count: int, counters: Counters, done: Done) -> None:
        self.is_over = False
        self._count = count
        self._counters = counters
        self._done = done
        self._lock = threading.Lock()
        self._found: list[int] = []
        self._misses: Counter[str] = Counter()

    def note(self, found: list[int], misses: Counter[str]) -> None:
        """Adds to what is known; too late once it is over."""
        with self._lock:
            if not self.is_over:
                self._found += found
                self._misses += misses

    def miss_rest(self, reason: str) -> None:
        """What is not known by now is missed for ``reason``."""
        with self._lock:
            self._misses[reason] += self._rest()

    def answer(self) -> None:
        """Says what is known; the rest is missed for want of time.  Once only."""
        with self._lock:
            if self.is_over:
                return
            self.is_over = True
            self._misses["timeout"] += self._rest()
            found, self._found = self._found, []
        self._counters.count("lookup_hits", len(found))
        for reason, n in self._misses.items():
            if n:
                self._counters.miss(reason, n)
        self._done(found)

    def _rest(self) -> int:
        return self._count - len(self._found) - self._misses.total()


def _by_chunk(keys: Sequence[ObjectName]) -> tuple[list[int], list[list[int]]]:
    """The order in which to ask, and the indices of each row.

    A row is what one rank holds of one group, chunk by chunk.  Rows come one behind the
    other, but a prefix is as long as its shortest row: so all rows' first chunks are
    asked for first.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault((key.kv_rank, key.object_group_id), []).append(i)
    chunks = max(map(len, rows.values()), default=0)
    lists = list(rows.values())
    order = [row[n] for n in range(chunks) for row in lists if n < len(row)]
    return order, lists
