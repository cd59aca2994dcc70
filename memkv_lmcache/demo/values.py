# SPDX-License-Identifier: Apache-2.0
"""The demo's workers for ``memkv demo --bytes``: neither torch nor LMCache.

One stores values that look like KV chunks, the other knows only the server: it lists
what is there, makes room by the shape headers, reads everything and checks every byte.
"""

from __future__ import annotations

import json
import mmap
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from memkv_lmcache.client import Client, Get, Put
from memkv_lmcache.errors import Status, error_for
from memkv_lmcache.header import ShapeHeader, Tensor, pack, unpack
from memkv_lmcache.keys import wire_key
from memkv_lmcache.processes import report_to
from memkv_lmcache.ways import answer_of, moved, standing, wait_for_rdma

#: LMCache's format of a chunk: keys and values, layers, tokens, width.
KV_2LTD = 1
LAYERS, TOKENS, WIDTH = 8, 256, 256
BATCH = 16


def main() -> None:
    """``store COUNT`` stores and then waits to be killed; ``load`` reads all of it."""
    report = report_to()
    role, *arguments = sys.argv[1:]
    with Client(timeout=30) as client:

        def run() -> dict[str, float]:
            wait_for_rdma(client, 0)
            done = _load(client) if role == "load" else _store(client, int(*arguments))
            return done | moved(client)

        print(json.dumps(answer_of(run)), file=report, flush=True)
        if role == "store":
            signal.pause()


def _chunk(number: int) -> tuple[ShapeHeader, bytes]:
    """A value anybody can make again from its number."""
    tensor = Tensor("bfloat16", (2, LAYERS, TOKENS, WIDTH))
    text = f"memkv-demo@1@0@{number:x}@bfloat16"
    data = random.Random(number).randbytes(tensor.nbytes)  # noqa: S311 not a secret
    return ShapeHeader(len(data), KV_2LTD, (tensor,), text), data


def _number(header: ShapeHeader) -> int:
    return int(header.key.split("@")[3], 16)


def _memory(client: Client, size: int) -> memoryview:
    """Registered memory, which the client keeps."""
    memory = memoryview(mmap.mmap(-1, size))
    client.register(memory)
    wait_for_rdma(client, size)
    return memory


def _cut(memory: memoryview, sizes: Iterable[int]) -> Iterator[memoryview]:
    """Rooms of these sizes, side by side."""
    for size in sizes:
        yield memory[:size]
        memory = memory[size:]


def _store(client: Client, count: int) -> dict[str, float]:
    seconds, size = 0.0, 0
    memory = _memory(client, min(BATCH, count) * _chunk(0)[0].length)
    for first in range(0, count, BATCH):
        chunks = [_chunk(i) for i in range(first, min(first + BATCH, count))]
        rooms = _cut(memory, (header.length for header, _ in chunks))
        items = []
        for (header, data), room in zip(chunks, rooms, strict=True):
            key = wire_key(header.key)
            room[:] = data
            items.append(Put(key, room, pack(header, key)))
            size += len(data)
        begin = time.perf_counter()
        results = client.put_many(items)
        seconds += time.perf_counter() - begin
        for result in results:
            if result.status is not Status.OK:
                raise error_for(result.status, f"a put failed: {standing(client)}")
    return {"chunks": count, "bytes": size, "put_s": seconds}


def _load(client: Client) -> dict[str, float]:
    found = [(entry.key, unpack(entry.header, entry.key)) for entry in client.list()]
    batches = [found[first : first + BATCH] for first in range(0, len(found), BATCH)]
    sizes = [[header.length for _, header in batch] for batch in batches]
    memory = _memory(client, max(map(sum, sizes)))
    seconds, size, hits, right = 0.0, 0, 0, 0
    for batch, lengths in zip(batches, sizes, strict=True):
        rooms = _cut(memory, lengths)
        items = [Get(key, into) for (key, _), into in zip(batch, rooms, strict=True)]
        begin = time.perf_counter()
        results = client.get_many_into(items)
        seconds += time.perf_counter() - begin
        for (_, header), item, result in zip(batch, items, results, strict=True):
            if result.status is Status.OK:
                hits += 1
                size += result.size
                right += item.into == _chunk(_number(header))[1]
    return {"chunks": hits, "bytes": size, "get_s": seconds, "right": right}


if __name__ == "__main__":
    main()
