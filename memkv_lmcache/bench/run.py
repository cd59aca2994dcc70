# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how: the same work by us and by the raw limit, in turns.

Both have one connection, a client process and a server process with one worker.  A
ratio is the median over rounds of ours to raw measured right before it, so that a busy
machine slows both.  Ours has its checksums and its authentication on.

Raw is a bare engine on TCP, perftest on RDMA.  Lookups travel on the stream in any case
and are measured on TCP.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from memkv_lmcache.bench.ground import Ground, rdma_ground, tcp_ground
from memkv_lmcache.bench.raw import KIB, MIB, RawEngine, Timing
from memkv_lmcache.client import Get, Put, Result
from memkv_lmcache.errors import Status, error_for
from memkv_lmcache.header import ShapeHeader, Tensor, pack

SIZES = (64 * KIB, MIB, 4 * MIB, 32 * MIB)
MAX_SIZE = 64 * MIB
LOOKUP_KEYS = 1000
_BATCH_BYTES, _MAX_BATCH = 32 * MIB, 64
_TABLE, _REQUEST_ROW, _REPLY_ROW = 256 * KIB, 64, 48

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
    bytes_remote: int
    bytes_inline: int
    """Payload that the client counted meanwhile, by RDMA and on the stream."""


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
    """All that ``memkv bench`` found; what is raw is None where there is no raw."""

    transport: str
    device: str | None
    """By which RDMA went."""
    cpus: int
    rounds: int
    seconds: float
    has_raw: bool
    raw_get: str | None
    raw_put: str | None
    """What is raw: the program's name."""
    throughput: tuple[Throughput, ...]
    lookups: Lookups | None


def measure(
    sizes: Sequence[int], seconds: float, rounds: int, say: Say, transport: str
) -> Report:
    """Measures everything, ``seconds`` for each figure in each of ``rounds``.

    ``transport`` is ``tcp`` or ``rdma``; for that ``sizes`` are 64 KiB or more, and
    MemKVError: this host has none, or a value went another way.
    """
    room = max(size * _batch(size) for size in sizes)
    places: dict[str, AbstractContextManager[Ground]] = {
        "tcp": tcp_ground(room),
        "rdma": rdma_ground(room, max(sizes)),
    }
    say("making the memory ready")
    with places[transport] as ground:
        bench = _Bench(ground, seconds, rounds, say)
        return Report(
            transport=transport,
            device=ground.device,
            cpus=len(os.sched_getaffinity(0)),
            rounds=rounds,
            seconds=seconds,
            has_raw=ground.raw is not None,
            raw_get=ground.raw.get_tool if ground.raw else None,
            raw_put=ground.raw.put_tool if ground.raw else None,
            throughput=tuple(bench.throughput(size) for size in sizes),
            lookups=bench.lookups(ground.engine) if transport == "tcp" else None,
        )


class _Bench:
    def __init__(self, ground: Ground, seconds: float, rounds: int, say: Say) -> None:
        self._ground = ground
        self._client = ground.client
        self._seconds = seconds
        self._rounds = rounds
        self._say = say

    def throughput(self, size: int) -> Throughput:
        count, raw = _batch(size), self._ground.raw
        self._say(f"values of {size // KIB} KiB, {count} a batch")
        self._ground.memory[: size * count] = os.urandom(KIB) * (size // KIB * count)
        keys = [_key(i) for i in range(count)]
        rooms = [self._ground.memory[i * size : (i + 1) * size] for i in range(count)]
        puts = [Put(key, room) for key, room in zip(keys, rooms, strict=True)]
        gets = [Get(key, room) for key, room in zip(keys, rooms, strict=True)]

        def remove() -> None:
            self._client.delete_many(keys)

        def put() -> None:
            _expect(self._client.put_many(puts))

        def get() -> None:
            _expect(self._client.get_many_into(gets))

        def raw_put() -> float:
            return raw.put(size, count, self._seconds) if raw else 0.0

        def raw_get() -> float:
            return raw.get(size, count, self._seconds) if raw else 0.0

        names = "bytes_remote", "bytes_inline"
        before = [self._ground.counter(name) for name in names]
        total = size * count
        rates_put = self._pairs(put, total, raw_put, remove)
        rates_get = self._pairs(get, total, raw_get)
        remote, inline = (
            self._ground.counter(name) - counted
            for name, counted in zip(names, before, strict=True)
        )
        remove()
        self._check_way(inline)
        return Throughput(
            size=size,
            batch=count,
            get_gbps=rates_get[0],
            put_gbps=rates_put[0],
            raw_get_gbps=rates_get[1],
            raw_put_gbps=rates_put[1],
            get_ratio=rates_get[2],
            put_ratio=rates_put[2],
            bytes_remote=remote,
            bytes_inline=inline,
        )

    def lookups(self, engine: RawEngine | None) -> Lookups:
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
            if engine:
                raws.append(
                    engine.run(request // parts, reply // parts, parts, self._seconds)
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
        raw: Callable[[], float],
        before: Callable[[], None] = lambda: None,
    ) -> tuple[float, float | None, float | None]:
        """Ours, raw and the ratio: medians over the rounds."""
        before()
        work()
        ours, raws = [], []
        for _ in range(self._rounds):
            if self._ground.raw:
                raws.append(raw())
            ours.append(_timed(work, self._seconds, before).gbps(total))
        if not raws:
            return _rounded(ours), None, None
        ratios = [one / other for one, other in zip(ours, raws, strict=True)]
        return _rounded(ours), _rounded(raws), _rounded(ratios)

    def _check_way(self, inline: int) -> None:
        """What is called RDMA was RDMA."""
        if self._ground.device and inline > 0:
            state = self._client.state()[self._ground.server]
            raise error_for(
                Status.UNSUPPORTED,
                f"{inline} bytes travelled on the stream, so this would not be the "
                f"speed of RDMA; the server is {state}",
            )


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


def _batch(size: int) -> int:
    return max(1, min(_MAX_BATCH, _BATCH_BYTES // size))


def _key(number: int) -> bytes:
    """As long as an LMCache key of a usual model's name."""
    return b"meta-llama/Llama-3.1-8B-Instruct@1@0@%016x@bfloat16" % number


def _header(key: bytes) -> bytes:
    tensor = Tensor("bfloat16", (2, 32, 256, 1024))
    return pack(ShapeHeader(tensor.nbytes, 1, (tensor,), key.decode()), key)


def _rounded(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _expect(results: list[Result]) -> None:
    for result in results:
        if result.status is not Status.OK:
            raise error_for(result.status, f"the measured server: {result.status.name}")
