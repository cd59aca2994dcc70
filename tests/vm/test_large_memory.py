"""Memory that is registered in several parts at both ends, on real RDMA devices."""

from __future__ import annotations

import mmap
import os

from client.serving import MIB, served
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.config import load

PART = 1024 * MIB  # slices of a region begin at its multiples, and MRs of a pool
REGION = PART + 512 * MIB
POOL = PART + 256 * MIB
FILLING = 255 * MIB  # four end shortly before the end of the pool's first MR
SIZE = 8 * MIB


def test_values_at_the_bounds_of_parts_travel_by_rdma() -> None:
    """Whole, none of their bytes inline: of a region's slices and of a pool's MRs."""
    memory = memoryview(mmap.mmap(-1, REGION))
    with served(memory=POOL, transport="rdma") as server:
        config = load({"servers": server.address, "transport": "rdma"})
        with Client(config=config, timeout=60) as client, client.register(memory):
            wait_until(lambda: client.registered_bytes() == REGION, 60)
            wait_until(lambda: client.state()[server.address].startswith("up: rdma"))
            for i in range(4):
                assert client.put(b"filling-%d" % i, memory[:FILLING])
            places = (PART - SIZE // 2, PART - 1, PART, PART + 60 * MIB, REGION - SIZE)
            for at in places:
                key, value, data = b"%d" % at, os.urandom(SIZE), memory[at : at + SIZE]
                data[:] = value
                assert client.put(key, data)
                data[:] = bytes(SIZE)
                assert client.get_into(key, data) == SIZE
                assert data == value
            [stats] = client.stats().values()
            moved = 4 * FILLING + 2 * SIZE * len(places)
            assert stats.counters["bytes_remote"] == moved
            assert stats.counters["bytes_inline"] == 0
