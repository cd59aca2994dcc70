# SPDX-License-Identifier: Apache-2.0
"""Stores and loads of many objects, in batches on worker threads.

Each is over by a deadline, and never before its last batch has left the library: no
byte lands in an object, or is read from it, once its task was reported.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memkv_lmcache.client import Client, Get, Put, Result
from memkv_lmcache.errors import MemKVError, Status, miss_reason
from memkv_lmcache.header import (
    MAX_HEADER,
    HeaderError,
    ShapeHeader,
    pack,
    unpack,
)
from memkv_lmcache.hints import Depths
from memkv_lmcache.keys import (
    ObjectName,
    object_group,
    object_key,
    object_text,
    wire_key,
)
from memkv_lmcache.l2.layouts import holds, layout_of
from memkv_lmcache.l2.tasks import Countdown
from memkv_lmcache.landing import view
from memkv_lmcache.metrics import Counters
from memkv_lmcache.workers import Workers

logger = logging.getLogger(__name__)

#: Kept back of the time that LMCache was promised: a share, but not too many seconds.
RESERVE_SHARE = 0.1
RESERVE_MAX = 1.0


class Block(NamedTuple):
    """An object and its key.  LMCache lends its memory until the task is reported."""

    key: ObjectName
    obj: Any


@dataclasses.dataclass(slots=True)
class Store:
    """What became of a store, by index: the bytes of the blocks that were sent, and the
    blocks that were there already.  All others failed."""

    sent: dict[int, int] = dataclasses.field(default_factory=dict)
    present: list[int] = dataclasses.field(default_factory=list)


class Transfers:
    """Moves blocks between LMCache's memory and the fleet.  Any thread.

    ``grace`` is in seconds; ``batch`` is how many blocks a thread moves at a time.
    """

    def __init__(
        self,
        client: Client,
        depths: Depths,
        counters: Counters,
        *,
        grace: float,
        threads: int,
        batch: int,
    ) -> None:
        self._client = client
        self._depths = depths
        self._counters = counters
        self._patience = grace - min(RESERVE_MAX, RESERVE_SHARE * grace)
        self._batch = batch
        self._loads = Workers("memkv-l2-load", threads)
        self._stores = Workers("memkv-l2-store", threads)

    def load(self, blocks: Sequence[Block], done: Callable[[list[int]], None]) -> None:
        """Fills objects; ``done`` gets the indices of those that hold their value now.

        What the others hold is undefined.
        """
        loaded: list[int] = []

        def run(first: int, part: Sequence[Block], deadline: float) -> None:
            found = self._load(part, deadline)
            loaded.extend(first + i for i in found)

        self._split(self._loads, blocks, run, lambda: done(loaded))

    def store(self, blocks: Sequence[Block], done: Callable[[Store], None]) -> None:
        """Sends what the fleet lacks or has in another layout."""
        store = Store()

        def run(first: int, part: Sequence[Block], deadline: float) -> None:
            self._store(first, part, deadline, store)

        def finish() -> None:
            failed = len(blocks) - len(store.sent) - len(store.present)
            self._counters.count("put_stored", len(store.sent))
            self._counters.count("put_bytes", sum(store.sent.values()))
            self._counters.count("put_present", len(store.present))
            self._counters.count("put_failed", failed)
            done(store)

        self._split(self._stores, blocks, run, finish)

    def close(self) -> None:
        """Takes no more; what is queued fails once the client is closed."""
        self._loads.close()
        self._stores.close()

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds until nothing is queued or running."""
        deadline = time.monotonic() + timeout
        return self._loads.wait_idle(timeout) and self._stores.wait_idle(
            _left(deadline)
        )

    def _split(
        self,
        workers: Workers,
        blocks: Sequence[Block],
        run: Callable[[int, Sequence[Block], float], None],
        done: Callable[[], None],
    ) -> None:
        """Runs ``blocks`` in parts on ``workers``; then ``done``, whatever happened."""
        deadline = time.monotonic() + self._patience
        begins = range(0, len(blocks), self._batch)
        countdown = Countdown(len(begins), done)

        def run_part(first: int) -> None:
            try:
                run(first, blocks[first : first + self._batch], deadline)
            except (MemKVError, HeaderError) as error:
                logger.warning("MemKV: a batch failed: %s", error)
            except Exception:
                logger.exception("MemKV: a batch failed")
            finally:
                countdown.part_over()

        for first in begins:
            if not workers.submit(lambda first=first: run_part(first)):  # type: ignore[misc]
                countdown.part_over()

    # ---- one batch -------------------------------------------------------------------

    def _load(self, part: Sequence[Block], deadline: float) -> list[int]:
        """The indices in ``part`` of what was loaded."""
        gets = [
            Get(object_key(key), view(obj), header_room=MAX_HEADER) for key, obj in part
        ]
        wanted = [layout_of(obj) for _, obj in part]
        results = self._run(self._client.get_many_into, gets, deadline)
        loaded = []
        for i, result in enumerate(results):
            if result.status != Status.OK:
                self._counters.miss(miss_reason(result.status))
            elif not _landed(result, gets[i].key, wanted[i]):
                self._counters.miss("header_mismatch")
            else:
                loaded.append(i)
                self._counters.count("get_hits")
                self._counters.count("get_bytes", result.size)
        return loaded

    def _store(
        self, first: int, part: Sequence[Block], deadline: float, store: Store
    ) -> None:
        puts = [self._put(block) for block in part]

        def stat(items: Sequence[Put], timeout: float) -> list[Result]:
            return self._client.stat_many(
                [item.key for item in items],
                headers=True,
                # a longer one differs
                header_room=max(len(item.header) for item in items),
                timeout=timeout,
            )

        wanted = []
        for i, found in enumerate(self._run(stat, puts, deadline)):
            if found.status == Status.OK and found.header == puts[i].header:
                store.present.append(first + i)
            elif found.status in (Status.OK, Status.NOT_FOUND, Status.TOO_SMALL):
                wanted.append(i)
        items = [puts[i] for i in wanted]
        results = self._run(self._client.put_many, items, deadline)
        for i, result in zip(wanted, results, strict=True):
            if result.status == Status.OK:
                store.sent[first + i] = part[i].obj.get_size()
            elif result.status == Status.EXISTS:
                store.present.append(first + i)

    def _run(
        self,
        call: Callable[..., list[Result]],
        items: Sequence[Any],
        deadline: float,
    ) -> list[Result]:
        """Runs a batch; without time left, or if none of it could run, it failed."""
        timeout = _left(deadline)
        if not items:
            return []
        status = Status.TIMEOUT
        if timeout > 0:
            try:
                return call(items, timeout=timeout)
            except MemKVError as error:
                status = error.status
                logger.debug("MemKV: a batch failed: %s", error)
        return [Result(status, 0, b"", False)] * len(items)

    def _put(self, block: Block) -> Put:
        text = object_text(block.key)
        key = wire_key(text)
        layout = dataclasses.replace(layout_of(block.obj), key=text)
        return Put(
            key,
            view(block.obj),
            pack(layout, key),
            depth=self._depths.of(key),
            group=object_group(block.key),
        )


def _landed(result: Result, key: bytes, wanted: ShapeHeader) -> bool:
    """Whether what was received is a value for an object of the layout ``wanted``."""
    try:
        stored = unpack(result.header, key)
    except HeaderError:
        return False
    return stored.length == result.size and holds(stored, wanted)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
