#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a fleet costs: even shares, many servers at once, one that dies under load.

    python benchmarks/fleet.py [--json]

All on loopback, servers in processes of their own.  Times are medians of many lookups;
aims are printed beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import xxhash

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Get, Put

SLOTS = 262_144
KEYS = 1_000_000
SHARED_OUT = (2, 4, 8, 16, 32, 64)
LOOKUP_S = 0.05
SIDE_BY_SIDE_S = 2.0
AFTER_S = 3.0
MIB = 1024**2


# ---- placement, by the function of docs/wire.md --------------------------------------


def framed(*parts: bytes) -> bytes:
    """Each part behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def keys_of_slots() -> Counter[int]:
    """How many of KEYS keys have each slot."""
    keys = (
        b"vllm@model@1@0@%x" % (i * 0x9E3779B97F4A7C15 % 2**64) for i in range(KEYS)
    )
    return Counter(
        xxhash.xxh3_64_intdigest(framed(b"", key, b"")) % SLOTS for key in keys
    )


def placement() -> list[dict[str, float]]:
    """Servers are added one by one: how even the shares are, and what moves."""
    counts = keys_of_slots()
    tails = [struct.pack("<II", 4, slot) + bytes(4) for slot in range(SLOTS)]
    best = [-1] * SLOTS
    holder = [-1] * SLOTS
    rows = []
    for server in range(max(SHARED_OUT)):
        name = framed(b"memkv-%d.memkv:9900" % server)
        moved = 0
        for slot, tail in enumerate(tails):
            score = xxhash.xxh3_64_intdigest(name + tail)
            if score > best[slot]:
                best[slot], holder[slot] = score, server
                moved += counts[slot]
        n = server + 1
        if n in SHARED_OUT:
            held: Counter[int] = Counter()
            for slot, count in counts.items():
                held[holder[slot]] += count
            rows.append(
                {
                    "servers": n,
                    "max_over_mean": max(held.values()) * n / KEYS,
                    "moved_times_n": moved * n / KEYS,
                }
            )
    return rows


# ---- servers -------------------------------------------------------------------------


def serve(count: int) -> None:
    """Servers in this process until it is killed; says their addresses."""
    servers = [NativeServer("127.0.0.1:0", memory=64 * MIB) for _ in range(count)]
    print(json.dumps([server.address for server in servers]), flush=True)
    for server in servers[1:]:
        threading.Thread(target=server.run, daemon=True).start()
    servers[0].run()


class Servers:
    """A process that serves."""

    def __init__(self, count: int) -> None:
        self.process = subprocess.Popen(  # noqa: S603 this file
            [sys.executable, __file__, "--serve", str(count)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None  # noqa: S101 it was asked for
        self.addresses: list[str] = json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def processes(*counts: int) -> Iterator[list[Servers]]:
    """A process for each count, with so many servers."""
    found = [Servers(count) for count in counts]
    try:
        yield found
    finally:
        for one in found:
            one.process.kill()
            one.process.wait()


def named(addresses: Sequence[str]) -> list[str]:
    """Settings for servers s0, s1, ..."""
    return [f"s{i}={address}" for i, address in enumerate(addresses)]


# ---- lookups -------------------------------------------------------------------------


def lookup_ms(client: Client, keys: list[bytes], timeout: float) -> float:
    """Milliseconds that one batch took."""
    begin = time.perf_counter()
    client.stat_many(keys, timeout=timeout)
    return (time.perf_counter() - begin) * 1000


def many_servers() -> dict[str, float]:
    """1,000 keys in one batch, over 1 server and over 16, by turns."""
    keys = [b"chunk-%d" % i for i in range(1000)]
    found: dict[int, list[float]] = {1: [], 16: []}
    with contextlib.ExitStack() as stack:
        [one, many] = stack.enter_context(processes(1, 16))
        clients = {
            1: stack.enter_context(Client(named(one.addresses))),
            16: stack.enter_context(Client(named(many.addresses))),
        }
        for client in clients.values():
            client.put_many([Put(key, b"value") for key in keys])
        for _ in range(200):
            for n, client in clients.items():
                found[n].append(lookup_ms(client, keys, 5))
    one_ms, many_ms = (statistics.median(found[n]) for n in (1, 16))
    return {"one_ms": one_ms, "sixteen_ms": many_ms, "ratio": many_ms / one_ms}


class Load(threading.Thread):
    """Puts and gets beside the lookups that are measured."""

    def __init__(self, servers: list[str]) -> None:
        super().__init__(daemon=True)
        self._client = Client(servers)
        self._ending = threading.Event()
        self.longest_over_ms = 0.0

    def run(self) -> None:
        """Until :meth:`end`."""
        buffer, round_ = bytearray(256 * 1024), 0
        while not self._ending.is_set():
            keys = [b"load-%d" % ((round_ + i) % 64) for i in range(8)]
            round_ += 8
            begin = time.perf_counter()
            self._client.put_many([Put(key, buffer) for key in keys], timeout=1)
            self._note(begin, 1)
            begin = time.perf_counter()
            gets = [Get(key, bytearray(len(buffer))) for key in keys]
            self._client.get_many_into(gets, timeout=1)
            self._note(begin, 1)
            time.sleep(0.005)

    def _note(self, begin: float, timeout: float) -> None:
        over = (time.perf_counter() - begin - timeout) * 1000
        self.longest_over_ms = max(self.longest_over_ms, over)

    def end(self) -> None:
        """Waits for it."""
        self._ending.set()
        self.join()
        self._client.close()


def measured(client: Client, keys: list[bytes], seconds: float) -> list[float]:
    """Milliseconds of each lookup in so many seconds."""
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found.append(lookup_ms(client, keys, LOOKUP_S))
        time.sleep(0.001)
    return found


def death(number: int) -> dict[str, Any]:
    """One of four servers gets a signal under load; lookups of 64 keys go on."""
    keys = [b"prefix-%d" % i for i in range(64)]
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(processes(1, 1, 1, 1))
        servers = named([one.addresses[0] for one in fleet])
        client = stack.enter_context(Client(servers))
        client.put_many([Put(key, b"value") for key in keys])
        load = Load(servers)
        load.start()
        stack.callback(load.end)
        before = measured(client, keys, SIDE_BY_SIDE_S)
        begin = time.monotonic()
        fleet[2].process.send_signal(number)
        until_seen = []
        while not client.state()["s2"].startswith("down"):
            until_seen.append(lookup_ms(client, keys, LOOKUP_S))
        seen_s = time.monotonic() - begin
        after = measured(client, keys, AFTER_S)
        everything = before + until_seen + after
        over = max(*(ms - LOOKUP_S * 1000 for ms in everything), load.longest_over_ms)
    p50 = statistics.median(before), statistics.median(after)
    return {
        "before_p50_ms": p50[0],
        "before_p99_ms": statistics.quantiles(before, n=100)[98],
        "after_p50_ms": p50[1],
        "after_p99_ms": statistics.quantiles(after, n=100)[98],
        "more_ms": p50[1] - p50[0],
        "detected_after_ms": seen_s * 1000,
        "lookups_until_then": len(until_seen),
        "longest_over_deadline_ms": max(0.0, over),
    }


# ---- the report ----------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    """All of it as text."""
    print(f"{KEYS:,} keys by rendezvous hashing")
    print("  servers  max/mean  moved by the last one added (times 1/N)")
    for row in found["placement"]:
        print(
            f"  {row['servers']:>7}  {row['max_over_mean']:>8.3f}  "
            f"{row['moved_times_n']:.3f}"
        )
    print("  aims: 1.25 at 64, and 1.2")
    many = found["many_servers"]
    print("a lookup of 1,000 keys")
    print(f"  1 server   {many['one_ms']:.2f} ms")
    print(f"  16 servers {many['sixteen_ms']:.2f} ms, {many['ratio']:.2f} times")
    print("  aim: 1.5 times, or 2 ms")
    for what in ("killed", "stopped"):
        row = found[what]
        print(f"one of 4 servers {what} under load, lookups of 64 keys, 50 ms each")
        for when in ("before", "after"):
            p50, p99 = row[f"{when}_p50_ms"], row[f"{when}_p99_ms"]
            print(f"  {when:<7} p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        print(f"  more once it is noticed: {row['more_ms']:.2f} ms (aim: under 1)")
        print(
            f"  noticed after {row['detected_after_ms']:.0f} ms, "
            f"{row['lookups_until_then']} lookups"
        )
        longest = row["longest_over_deadline_ms"]
        print(f"  longest wait over its deadline: {longest:.1f} ms (aim: 100)")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    found: dict[str, Any] = {
        "placement": placement(),
        "many_servers": many_servers(),
        "killed": death(signal.SIGKILL),
        "stopped": death(signal.SIGSTOP),
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
