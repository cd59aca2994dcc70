# SPDX-License-Identifier: Apache-2.0
"""How much of a prefix the fleet has, within a budget.

One batch of STATs asks for the headers too: a value that turns out not to fit only when
it is loaded would be a hit taken back, which fails the engine's request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from memkv_lmcache.client import Client, Result
from memkv_lmcache.errors import MemKVError, Status, miss_reason
from memkv_lmcache.header import (
    MAX_HEADER,
    HeaderError,
    is_intact,
    layout_part,
    unpack,
)
from memkv_lmcache.hints import Depths
from memkv_lmcache.metrics import Counters
from memkv_lmcache.puts import PutQueue
from memkv_lmcache.tensors import Expected, Layouts

logger = logging.getLogger(__name__)

#: Takes our headers with a key text of usual length; longer ones are asked for again.
HEADER_ROOM = 512


class Lookups:
    """Counts prefixes in the caller's thread; no payload moves.  Any thread."""

    def __init__(
        self,
        client: Client,
        layouts: Layouts,
        puts: PutQueue,
        depths: Depths,
        counters: Counters,
        *,
        budget_ms: int,
        lease_ms: int,
    ) -> None:
        self._client = client
        self._layouts = layouts
        self._puts = puts
        self._depths = depths
        self._counters = counters
        self._budget = budget_ms / 1000
        self._lease_ms = lease_ms

    def count(
        self, keys: Sequence[bytes], *, layered: bool, pin: bool, whole: bool
    ) -> int:
        """How many of ``keys`` from the first on could be loaded now.  Never raises.

        ``layered``: the keys are of layers; ``pin``: lease what is found; ``whole``:
        the first key is known to be the first of its prefix.
        """
        if not keys:
            return 0
        try:
            hits, reason = self._count(keys, layered, pin, whole)
        except MemKVError as error:
            hits, reason = 0, miss_reason(error.status)
        except Exception:
            hits, reason = 0, "internal"
            logger.exception("MemKV: a lookup of %d keys failed", len(keys))
        self._counters.count("lookup_hits", hits)
        if reason:
            self._counters.miss(reason)
        return hits

    def _count(
        self, keys: Sequence[bytes], layered: bool, pin: bool, whole: bool
    ) -> tuple[int, str]:
        if whole:
            self._depths.learn(keys)
        deadline = time.monotonic() + self._budget
        hits, room = 0, HEADER_ROOM
        while True:
            rest = keys[hits:]
            results = self._client.stat_many(
                rest,
                headers=True,
                header_room=room,
                lease_ms=self._lease_ms if pin else 0,
                depths=range(hits + 1, len(keys) + 1) if whole else None,
                timeout=max(0.0, deadline - time.monotonic()),
            )
            found, reason = _usable(rest, results, self._layouts.expected(layered))
            hits += found
            if (
                reason
                and results[found].status is Status.TOO_SMALL
                and room < MAX_HEADER
            ):
                room = MAX_HEADER
                continue
            if reason != "absent":
                return hits, reason
            # it may be a value of our own that is still on its way
            put = self._puts.pending(keys[hits])
            if put is None or not _wait(put, deadline):
                return hits, reason


def _usable(
    keys: Sequence[bytes], results: Sequence[Result], expected: Expected | None
) -> tuple[int, str]:
    """The length of the usable prefix, and why it ends; empty: it does not."""
    known: dict[bytes, bool] = {}
    for i, (key, result) in enumerate(zip(keys, results, strict=True)):
        if result.status != Status.OK:
            return i, miss_reason(result.status)
        if not is_intact(result.header, key):
            return i, "header_mismatch"
        layout = layout_part(result.header)
        if layout not in known:
            known[layout] = _fits(result.header, key, expected)
        if not known[layout]:
            return i, "header_mismatch"
    return len(keys), ""


def _fits(header: bytes, key: bytes, expected: Expected | None) -> bool:
    try:
        parsed = unpack(header, key)
    except HeaderError:
        return False
    return expected is None or expected.fits(parsed)


def _wait(put: Future[bool], deadline: float) -> bool:
    """Waits until a put is over; True: its value is stored."""
    try:
        return put.result(max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        return False
