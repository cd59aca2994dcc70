# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how: the same work by us and by the bare engine, in turns.

Both have one connection, a client process and a server process with one worker.  A
ratio is the median over rounds of ours to raw measured right before it, so that a busy
machine slows both.  Ours has its checksums and its authentication on.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from memkv_lmcache.bench.raw import RawEngine, Timing, build
from memkv_lmcache.client import Client, Get, Put, Result
from memkv_lmcache.errors import Status, error_for
from memkv_lmcache.header import ShapeHeader, Tensor, pack
from memkv_lmcache.processes import Server

KIB, MIB = 1024, 1024**2
SIZES = (64 * KIB, MIB, 4 * MIB, 32 * MIB)
MAX_SIZE = 64 * MIB
LOOKUP_KEYS = 1000
#: Of the server.  All of it is filled once: the first touch of a page is the kernel's.
_MEMORY = 512 * MIB
_BATCH_BYTES, _MAX_BATCH = 32 * MIB, 64
#: How libmemkv cuts a batch into requests: up to so many bytes of several values.
_GET_REQUEST, _PUT_REQUEST, _TABLE = 16 * MIB, 4 * MIB, 256 * KIB
_REQUEST_ROW, _REPLY_ROW = 64, 48

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """GET and PUT of one size; rates are 10**9 bytes a second, medians over rounds."""

    size: int
    batch: int
    get_gbps: float
    put_gbps: float
    raw_get_gbps: float | None
    raw_put_gbps: float | None
    get_ratio: float | None
    put_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """Batches of STAT, headers and all, as the plugin's lookups are."""

    keys_per_batch: int
    p50_ms: float
    p99_ms: float
    keys_per_s: int
    raw_p50_ms: float | None
    raw_p99_ms: float | None
    raw_keys_per_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that ``memkv bench`` found; what is raw is None without the bare engine."""

    cpus: int
    rounds: int
    seconds: float
    has_raw: bool
    throughput: tuple[Throughput, ...]
    lookups: Lookups


def measure(sizes: Sequence[int], seconds: float, rounds: int, say: Say) -> Report:
    """Measures everything, ``seconds`` for each figure in each of ``rounds``."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-memkv-bench")))
        program = build(folder)
        raw = stack.enter_context(RawEngine(program)) if program else None
        server = stack.enter_context(Server(folder, _MEMORY, workers=1))
        client = stack.enter_context(server.client(num_connections=1))
        say("filling the server's memory once")
        _fill(client)
        bench = _Bench(client, raw, seconds, rounds, say)
        return Report(
            cpus=len(os.sched_getaffinity(0)),
            rounds=rounds,
            seconds=seconds,
            has_raw=raw is not None,
            throughput=tuple(bench.throughput(size) for size in sizes),
            lookups=bench.lookups(),
        )


class _Bench:
    def __init__(
        self,
        client: Client,
        raw: RawEngine | None,
        seconds: float,
        rounds: int,
        say: Say,
    ) -> None:
        self._client = client
        self._raw = raw
        self._seconds = seconds
        self._rounds = rounds
        self._say = say

    def throughput(self, size: int) -> Throughput:
        count = max(1, min(_MAX_BATCH, _BATCH_BYTES // size))
        self._say(f"values of {size // KIB} KiB, {count} a batch")
        keys = [_key(i) for i in range(count)]
        rooms = [bytearray(os.urandom(KIB)) * (size // KIB) for _ in keys]
        puts = [Put(key, room) for key, room in zip(keys, rooms, strict=True)]
        gets = [Get(key, room) for key, room in zip(keys, rooms, strict=True)]

        def remove() -> None:
            self._client.delete_many(keys)

        def put() -> None:
            _expect(self._client.put_many(puts))

        def get() -> None:
            _expect(self._client.get_many_into(gets))

        put_parts = _parts(size, count, _PUT_REQUEST)
        get_parts = _parts(size, count, _GET_REQUEST)
        total = size * count
        # a put is answered by a row for each value
        rates_put = self._pairs(put, total, total // put_parts, 64, put_parts, remove)
        rates_get = self._pairs(get, total, 64, total // get_parts, get_parts)
        remove()
        return Throughput(
            size=size,
            batch=count,
            get_gbps=rates_get[0],
            put_gbps=rates_put[0],
            raw_get_gbps=rates_get[1],
            raw_put_gbps=rates_put[1],
            get_ratio=rates_get[2],
            put_ratio=rates_put[2],
        )

    def lookups(self) -> Lookups:
        self._say(f"lookups of {LOOKUP_KEYS} keys")
        keys = [_key(i) for i in range(LOOKUP_KEYS)]
        header = _header(keys[0])
        puts = [Put(key, b"", _header(key)) for key in keys]
        _expect(self._client.put_many(puts))

        def look() -> None:
            _expect(self._client.stat_many(keys, headers=True))

        request = LOOKUP_KEYS * (_REQUEST_ROW + len(keys[0]))
        reply = LOOKUP_KEYS * (_REPLY_ROW + len(header))
        parts = -(-max(request, reply) // _TABLE)
        ours, raws = [], []
        for _ in range(self._rounds):
            if self._raw:
                raws.append(
                    self._raw.run(
                        request // parts, reply // parts, parts, self._seconds
                    )
                )
            ours.append(_timed(look, self._seconds))
        p50 = statistics.median(one.p50_s for one in ours)
        raw50 = statistics.median(one.p50_s for one in raws) if raws else None
        return Lookups(
            keys_per_batch=LOOKUP_KEYS,
            p50_ms=_ms(p50),
            p99_ms=_ms(statistics.median(one.p99_s for one in ours)),
            keys_per_s=round(LOOKUP_KEYS / p50),
            raw_p50_ms=_ms(raw50) if raw50 else None,
            raw_p99_ms=_ms(statistics.median(one.p99_s for one in raws))
            if raws
            else None,
            raw_keys_per_s=round(LOOKUP_KEYS / raw50) if raw50 else None,
        )

    def _pairs(
        self,
        work: Callable[[], None],
        total: int,
        request: int,
        reply: int,
        parts: int,
        before: Callable[[], None] = lambda: None,
    ) -> tuple[float, float | None, float | None]:
        """Ours, raw and the ratio: medians over the rounds."""
        before()
        work()
        ours, raws = [], []
        for _ in range(self._rounds):
            if self._raw:
                timing = self._raw.run(request, reply, parts, self._seconds)
                raws.append(_gbps(total, timing))
            ours.append(_gbps(total, _timed(work, self._seconds, before)))
        if not raws:
            return _rounded(ours), None, None
        ratios = [one / raw for one, raw in zip(ours, raws, strict=True)]
        return _rounded(ours), _rounded(raws), _rounded(ratios)


def _timed(
    work: Callable[[], None],
    seconds: float,
    before: Callable[[], None] = lambda: None,
) -> Timing:
    """Runs ``work`` for so long; ``before``, run before each time, is not counted."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        before()
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    took.sort()
    n = len(took)
    return Timing(n, sum(took), took[n // 2], took[n * 99 // 100])


def _fill(client: Client) -> None:
    size = 4 * MIB
    block = bytes(size)
    keys = [b"fill-%d" % i for i in range(_MEMORY // size)]
    for first in range(0, len(keys), 8):
        client.put_many([Put(key, block) for key in keys[first : first + 8]])
    client.delete_many(keys)


def _key(number: int) -> bytes:
    """As long as an LMCache key of a usual model's name."""
    return b"meta-llama/Llama-3.1-8B-Instruct@1@0@%016x@bfloat16" % number


def _header(key: bytes) -> bytes:
    tensor = Tensor("bfloat16", (2, 32, 256, 1024))
    return pack(ShapeHeader(tensor.nbytes, 1, (tensor,), key.decode()), key)


def _parts(size: int, count: int, most: int) -> int:
    return -(-count // max(1, most // size))


def _gbps(total: int, timing: Timing) -> float:
    return total * timing.batches / timing.seconds / 1e9


def _rounded(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _expect(results: list[Result]) -> None:
    for result in results:
        if result.status is not Status.OK:
            raise error_for(result.status, f"the measured server: {result.status.name}")
