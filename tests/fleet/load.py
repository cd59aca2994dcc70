"""A client that behaves like an engine, in a process of its own; see ``fleet.Load``.

Looks prefixes up, loads what is there, checks every byte, stores what is missing.  To
each line on stdin it answers with the part of chunks found of late and the servers that
it takes for up; when stdin ends, with what it saw.  All answers are lines of JSON.

    python load.py SERVERS NAMESPACE SEED
"""

from __future__ import annotations

import hashlib
import json
import random
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from memkv_lmcache import Client
from memkv_lmcache.client import Get, Put
from memkv_lmcache.errors import Status

PREFIXES = 24
CHUNKS = 16
LOOKUP_S = 0.05
LOAD_S = 1.0
HANG_S = 5.0
RECENT_S = 1.5


def value_of(key: bytes) -> bytes:
    """The bytes that belong to a key: 4 to 67 KiB."""
    digest = hashlib.sha256(key).digest()
    return digest * (128 + digest[0] * 8)


class Engine:
    """The loop and what it has seen."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._random = random.Random(seed)  # noqa: S311 no secret
        self._values = {
            key: value_of(key)
            for prefix in range(PREFIXES)
            for key in self._keys(prefix)
        }
        self._recent: list[tuple[float, int]] = []
        self.seen: dict[str, Any] = {
            **{"calls": 0, "hits": 0, "misses": 0, "wrong": 0, "hangs": 0},
            **{"exceptions": [], "longest_over_ms": 0.0, "stored": 0},
        }

    def _keys(self, prefix: int) -> list[bytes]:
        return [b"prefix-%d/%d" % (prefix, i) for i in range(CHUNKS)]

    def _call(self, call: Callable[..., Any], items: Any, timeout: float) -> list[Any]:
        begin = time.monotonic()
        self.seen["calls"] += 1
        try:
            results: list[Any] = call(items, timeout=timeout)
        except Exception as error:
            self.seen["exceptions"].append(f"{type(error).__name__}: {error}")
            results = []
        over = time.monotonic() - begin - timeout
        self.seen["hangs"] += over > HANG_S
        over_ms = max(self.seen["longest_over_ms"], over * 1000)
        self.seen["longest_over_ms"] = over_ms
        return results

    def step(self) -> None:
        """One request of the engine."""
        keys = self._keys(self._random.randrange(PREFIXES))
        found = self._call(self._client.stat_many, keys, LOOKUP_S)
        hits = 0
        while hits < len(found) and found[hits].status is Status.OK:
            hits += 1
        self._load(keys[:hits])
        self._recent.append((time.monotonic(), hits))
        self.seen["hits"] += hits
        self.seen["misses"] += CHUNKS - hits
        absent = [
            key
            for key, result in zip(keys, found, strict=False)
            if result.status is Status.NOT_FOUND
        ]
        if absent:
            puts = [Put(key, self._values[key]) for key in absent]
            results = self._call(self._client.put_many, puts, LOAD_S)
            self.seen["stored"] += sum(r.status is Status.OK for r in results)

    def _load(self, keys: list[bytes]) -> None:
        if not keys:
            return
        gets = [Get(key, bytearray(len(self._values[key]))) for key in keys]
        results = self._call(self._client.get_many_into, gets, LOAD_S)
        for get, result in zip(gets, results, strict=False):
            if result.status is Status.OK:
                self.seen["wrong"] += get.into != self._values[get.key]

    def recent_hits(self) -> float:
        """The part of chunks found of late, 0 to 1."""
        since = time.monotonic() - RECENT_S
        recent = [hits for at, hits in self._recent if at >= since]
        return sum(recent) / (len(recent) * CHUNKS) if recent else 0.0


def main() -> None:
    """Runs until stdin ends."""
    servers, namespace, seed = sys.argv[1:]
    with Client(servers, namespace=namespace) as client:
        engine = Engine(client, int(seed))
        print("ready", flush=True)
        while True:
            engine.step()
            time.sleep(0.002)
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.readline():
                    break
                up = [
                    name
                    for name, state in client.state().items()
                    if state.startswith("up")
                ]
                print(json.dumps([engine.recent_hits(), up]), flush=True)
        misses: dict[str, int] = {}
        for stats in client.stats().values():
            for reason, n in stats.misses.items():
                misses[reason] = misses.get(reason, 0) + n
        seen = {**engine.seen, "recent": engine.recent_hits(), "reasons": misses}
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
