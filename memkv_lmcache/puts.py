# SPDX-License-Identifier: Apache-2.0
"""The bounded queue of puts.

The engine hands over memory objects and goes on; worker threads ask which values the
fleet lacks, send those, and let go of every object, whatever happened.  A full queue
drops puts: a cache may forget, but it never makes its engine wait.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from memkv_lmcache.client import Client, Put, Result
from memkv_lmcache.errors import Status
from memkv_lmcache.metrics import Counters
from memkv_lmcache.workers import Workers

logger = logging.getLogger(__name__)

#: One batch of a worker; small enough that memory is given back steadily.
BATCH_COUNT = 64
BATCH_BYTES = 64 << 20


@dataclass(eq=False, slots=True)
class PutTask:
    """One value on its way.  ``obj`` is referenced from ``submit`` until it is over."""

    key: bytes
    header: bytes
    obj: Any
    size: int
    depth: int = 0
    group: int = 0
    #: True: the fleet has it.  Never an exception.
    done: Future[bool] = field(default_factory=Future)


class PutQueue:
    """Puts on their way to the fleet.  Any thread may use it.

    ``view`` gives the bytes of an object; ``on_stored`` hears the bytes of each value
    that was sent.
    """

    def __init__(
        self,
        client: Client,
        counters: Counters,
        view: Callable[[Any], memoryview],
        *,
        max_bytes: int,
        max_count: int,
        timeout: float,
        threads: int = 1,
        on_stored: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._client = client
        self._counters = counters
        self._view = view
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._timeout = timeout
        self._on_stored = on_stored
        self._workers = Workers("memkv-put", threads)
        self._lock = threading.Lock()
        self._tasks: dict[bytes, PutTask] = {}
        self._queue: deque[PutTask] = deque()
        self._bytes = 0
        self._closed = False

    def submit(self, tasks: Sequence[PutTask]) -> list[Future[bool]]:
        """Queues what fits; never waits.

        Returns a future for each task: of the put under way where the key has one, and
        one that is False already where there was no place left.
        """
        futures = []
        for task in tasks:
            with self._lock:
                running = self._tasks.get(task.key)
                if running is None and self._has_place(task):
                    task.obj.ref_count_up()
                    self._tasks[task.key] = running = task
                    self._queue.append(task)
                    self._bytes += task.size
            if running is None:
                self._counters.count("put_dropped")
                task.done.set_result(False)
                running = task
            futures.append(running.done)
        self._workers.submit(self._drain)
        return futures

    def pending(self, key: bytes) -> Future[bool] | None:
        """The put of ``key`` that is queued or running; None where there is none."""
        with self._lock:
            task = self._tasks.get(key)
            return task.done if task else None

    def close(self, timeout: float) -> bool:
        """Takes no more puts and gives those queued ``timeout`` seconds to be sent.

        False: some are still under way, and the memory of their objects in use.
        """
        with self._lock:
            self._closed = True
        self._workers.close()
        idle = self._workers.wait_idle(timeout)
        with self._lock:
            forgotten = list(self._queue)
            self._queue.clear()
        self._finish(forgotten, frozenset())
        return idle

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds until no put is queued or running."""
        return self._workers.wait_idle(timeout)

    def _has_place(self, task: PutTask) -> bool:
        return (
            not self._closed
            and len(self._tasks) < self._max_count
            and self._bytes + task.size <= self._max_bytes
        )

    def _drain(self) -> None:
        while batch := self._take():
            stored: frozenset[bytes] = frozenset()
            try:
                stored = self._store(batch)
            except Exception as error:
                logger.warning("MemKV: %d puts failed: %s", len(batch), error)
            finally:
                self._finish(batch, stored)

    def _take(self) -> list[PutTask]:
        batch: list[PutTask] = []
        size = 0
        with self._lock:
            while self._queue and len(batch) < BATCH_COUNT and size < BATCH_BYTES:
                task = self._queue.popleft()
                batch.append(task)
                size += task.size
        return batch

    def _store(self, batch: list[PutTask]) -> frozenset[bytes]:
        """Puts what is absent or has another header; returns what is stored now."""
        found = self._client.stat_many(
            [task.key for task in batch], headers=True, timeout=self._timeout
        )
        stored = {
            task.key
            for task, result in zip(batch, found, strict=True)
            if result.status == Status.OK and result.header == task.header
        }
        self._counters.count("put_present", len(stored))
        wanted = [
            task
            for task, result in zip(batch, found, strict=True)
            if task.key not in stored and self._is_wanted(result)
        ]
        if not wanted:
            return frozenset(stored)
        results = self._client.put_many(
            [
                Put(
                    key=task.key,
                    data=self._view(task.obj),
                    header=task.header,
                    depth=task.depth,
                    group=task.group,
                )
                for task in wanted
            ],
            timeout=self._timeout,
        )
        for task, result in zip(wanted, results, strict=True):
            if result.status in (Status.OK, Status.EXISTS):
                stored.add(task.key)
                self._counters.count("put_stored")
                self._counters.count("put_bytes", task.size)
                self._on_stored(task.size)
            else:
                self._count_failure(result)
        return frozenset(stored)

    def _is_wanted(self, found: Result) -> bool:
        if found.status in (Status.OK, Status.NOT_FOUND, Status.TOO_SMALL):
            return True
        self._count_failure(found)
        return False

    def _count_failure(self, result: Result) -> None:
        self._counters.count("put_failed")
        logger.debug("a put failed: %s", result.status.name)

    def _finish(self, batch: list[PutTask], stored: frozenset[bytes]) -> None:
        for task in batch:
            with self._lock:
                del self._tasks[task.key]
                self._bytes -= task.size
            obj, task.obj = task.obj, None
            try:
                obj.ref_count_down()
            finally:
                task.done.set_result(task.key in stored)
