# SPDX-License-Identifier: Apache-2.0
"""Loads values into the engine's own memory, and owns that memory until they are there.

The only module that allocates and releases memory objects.  A worker thread allocates,
receives, verifies and releases; the engine waits for it no longer than its deadline,
and what lands after that goes back to the allocator.  A load is a prefix: it ends at
the first key that fails, for whatever reason.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from memkv_lmcache.client import Client, Get, Result
from memkv_lmcache.errors import MemKVError, Status, miss_reason
from memkv_lmcache.header import (
    MAX_HEADER,
    HeaderError,
    ShapeHeader,
    same_layout,
    unpack,
)
from memkv_lmcache.metrics import Counters
from memkv_lmcache.tensors import Expected, Layouts, allocation
from memkv_lmcache.workers import Workers

logger = logging.getLogger(__name__)

#: Takes our headers with a key text of usual length; a longer one costs a round trip.
HEADER_ROOM = 1024

#: Seconds that an engine waits beyond the deadline of a load, so that what did land
#: before it is not lost.
GRACE = 0.2


def view(obj: Any) -> memoryview:
    """The bytes of a memory object, without the padding of its allocation."""
    return memoryview(obj.byte_array)[: obj.get_size()].cast("B")


def release(obj: Any) -> None:
    """Gives up the reference that ``allocate`` gave us."""
    try:
        obj.ref_count_down()
    except Exception:
        logger.exception("MemKV: a memory object could not be released")


class Load:
    """A batch on its way.  It belongs to a worker until one ``claim`` has its objects;
    if none does in time, the worker gives them back itself."""

    def __init__(self, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self._objects: Future[list[Any]] = Future()
        self._objects.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        return self._abandoned

    def deliver(self, objects: list[Any]) -> bool:
        """The worker's part.  False: nobody waits any more; they are released."""
        with self._lock:
            if not self._abandoned:
                self._objects.set_result(objects)
                return True
        for obj in objects:
            release(obj)
        return False

    def claim(self) -> list[Any]:
        """Waits a moment longer than the deadline.  The caller owns one reference to
        each object."""
        try:
            return self._objects.result(self._patience())
        except FutureTimeoutError:
            return self._abandon()

    async def claim_async(self) -> list[Any]:
        """As ``claim``, without holding up the event loop."""
        waiter = asyncio.wrap_future(self._objects)
        try:
            await asyncio.wait({waiter}, timeout=self._patience())
        except BaseException:
            for obj in self._abandon():
                release(obj)
            raise
        finally:
            waiter.cancel()
        return self._abandon()

    def _patience(self) -> float:
        return max(0.0, self.deadline + GRACE - time.monotonic())

    def _abandon(self) -> list[Any]:
        with self._lock:
            if self._objects.done():
                return self._objects.result()
            self._abandoned = True
            return []


class Landing:
    """Loads batches on worker threads.  Any thread may use it.

    ``allocator`` is the engine's CPU backend, or None where it has none; ``on_landed``
    hears the count and the bytes of each batch that the engine took.
    """

    def __init__(
        self,
        client: Client,
        allocator: Any,
        layouts: Layouts,
        counters: Counters,
        *,
        threads: int = 2,
        on_landed: Callable[[int, int], None] = lambda count, size: None,
    ) -> None:
        self._client = client
        self._allocator = allocator
        self._layouts = layouts
        self._counters = counters
        self._on_landed = on_landed
        self._workers = Workers("memkv-load", threads)

    def start(self, keys: Sequence[bytes], layered: bool, timeout: float) -> Load:
        """Begins to load the values of ``keys``, all of layers or all of chunks.

        ``Load.claim`` has the objects of the prefix that was there.
        """
        load = Load(timeout)

        def run() -> None:
            self._run(load, keys, layered)

        if self._allocator is None or not keys or not self._workers.submit(run):
            load.deliver([])
        return load

    def close(self) -> None:
        """Takes no more loads."""
        self._workers.close()

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds until no load is queued or running."""
        return self._workers.wait_idle(timeout)

    def _run(self, load: Load, keys: Sequence[bytes], layered: bool) -> None:
        objects: list[Any] = []
        reason = "timeout"
        if not load.abandoned:
            batch = _Batch(self._client, self._allocator, keys, load.deadline)
            try:
                objects = batch.land(self._layouts.expected(layered))
                reason = batch.reason
            except MemKVError as error:
                reason = miss_reason(error.status)
            except Exception:
                reason = "internal"
                logger.exception("MemKV: a load of %d keys failed", len(keys))
        # Counted before the engine has them: it may free them at once.
        count, size = len(objects), sum(obj.get_size() for obj in objects)
        if load.deliver(objects):
            self._counters.count("get_hits", count)
            self._counters.count("get_bytes", size)
            self._on_landed(count, size)
        else:
            reason = "timeout"
        if reason:
            self._counters.miss(reason)


class _Batch:
    """The memory of one load: a slot a key, each with at most one object of ours."""

    def __init__(
        self,
        client: Client,
        allocator: Any,
        keys: Sequence[bytes],
        deadline: float,
    ) -> None:
        self._client = client
        self._allocator = allocator
        self._keys = keys
        self._deadline = deadline
        self._slots: list[Any] = [None] * len(keys)
        self._end = len(keys)  # the prefix that may still succeed
        #: Why it ends before the last key; empty: it does not.
        self.reason = ""

    def land(self, expected: Expected | None) -> list[Any]:
        """The objects of the longest prefix that could be loaded; the caller's."""
        try:
            if expected is None:
                layouts: dict[int, ShapeHeader | None] = dict.fromkeys(range(self._end))
            else:
                layouts = self._land_full(expected)
            if layouts:
                self._land_others(layouts, expected)
            landed = self._slots[: self._end]
            self._slots[: self._end] = []
            return landed
        finally:
            for obj in self._slots:
                if obj is not None:
                    release(obj)

    def _land_full(self, expected: Expected) -> dict[int, ShapeHeader | None]:
        """Loads every key as a full chunk, in one round trip.

        Returns the keys whose values are of another layout, with it where it is known.
        """
        others: dict[int, ShapeHeader | None] = {}
        wanted = {i: expected.full for i in range(self._end)}
        gets = self._allocate(wanted, HEADER_ROOM)
        for i, result in self._get(gets):
            if result.status == Status.TOO_SMALL:
                others[i] = None
            elif result.status != Status.OK:
                self._fail(i, miss_reason(result.status))
                break
            else:
                header = self._parse(i, result, expected)
                if header is None:
                    self._fail(i, "header_mismatch")
                    break
                if not same_layout(header, expected.full):
                    others[i] = header
        return others

    def _land_others(
        self, layouts: dict[int, ShapeHeader | None], expected: Expected | None
    ) -> None:
        """Loads keys by the headers of their values."""
        known = self._ask_layouts(layouts, expected)
        for i in known:
            self._release(i)
        gets = self._allocate(known, MAX_HEADER)
        for i, result in self._get(gets):
            header = None
            if result.status == Status.OK:
                header = self._parse(i, result, expected)
                if header is None or not same_layout(header, known[i]):
                    self._fail(i, "header_mismatch")
                    break
            else:
                self._fail(i, miss_reason(result.status))
                break

    def _ask_layouts(
        self, layouts: dict[int, ShapeHeader | None], expected: Expected | None
    ) -> dict[int, ShapeHeader]:
        """The layouts of the keys that may still succeed, asked for where not known."""
        known = {i: header for i, header in layouts.items() if header is not None}
        unknown = [i for i in layouts if i not in known and i < self._end]
        if unknown:
            results = self._client.stat_many(
                [self._keys[i] for i in unknown], headers=True, timeout=self._left()
            )
            for i, result in zip(unknown, results, strict=True):
                if result.status != Status.OK:
                    self._fail(i, miss_reason(result.status))
                    break
                header = self._parse(i, result, expected)
                if header is None:
                    self._fail(i, "header_mismatch")
                    break
                known[i] = header
        return {i: known[i] for i in sorted(known) if i < self._end}

    def _allocate(
        self, layouts: dict[int, ShapeHeader], header_room: int
    ) -> dict[int, Get]:
        """Memory for each value, one by one and in order; the first that fails ends the
        prefix."""
        gets: dict[int, Get] = {}
        for i, layout in layouts.items():
            try:
                shapes, dtypes, fmt = allocation(layout)
            except HeaderError:
                self._fail(i, "header_mismatch")
                break
            # to wait in the allocator could last for ever; a batch is all or nothing
            obj = self._allocator.allocate(shapes, dtypes, fmt, busy_loop=False)
            if obj is None:
                self._fail(i, "no_memory")
                break
            self._slots[i] = obj
            gets[i] = Get(self._keys[i], view(obj), header_room=header_room)
        return gets

    def _get(self, gets: dict[int, Get]) -> Iterator[tuple[int, Result]]:
        if not gets:
            return iter(())
        results = self._client.get_many_into(list(gets.values()), timeout=self._left())
        return zip(gets, results, strict=True)

    def _parse(
        self, i: int, result: Result, expected: Expected | None
    ) -> ShapeHeader | None:
        """The header of a value that the engine can use; None: it cannot."""
        try:
            header = unpack(result.header, self._keys[i])
        except HeaderError as error:
            logger.debug("MemKV: %s", error)
            return None
        fits = expected is None or expected.fits(header)
        return header if fits and header.length == result.size else None

    def _fail(self, i: int, reason: str) -> None:
        if i < self._end:
            self._end = i
            self.reason = reason

    def _release(self, i: int) -> None:
        obj, self._slots[i] = self._slots[i], None
        if obj is not None:
            release(obj)

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())
