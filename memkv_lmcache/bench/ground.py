# SPDX-License-Identifier: Apache-2.0
"""What is measured on: a server of our own, a client, memory, and the raw limit.

The client has one connection, the server one worker; both have the keys and checksums
that they always have.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from memkv_lmcache.bench.perftest import Perftest, port_of
from memkv_lmcache.bench.raw import KIB, MIB, Raw, RawEngine, build
from memkv_lmcache.client import Client, Put
from memkv_lmcache.config import load
from memkv_lmcache.processes import Server
from memkv_lmcache.ways import no_rdma, wait_for_rdma

#: Of the server.  On TCP all of it is filled once: the first touch of a page is the
#: kernel's.  On RDMA the registration touches it.
_TCP_MEMORY, _RDMA_MEMORY = 512 * MIB, 160 * MIB
_MOST_OF_MEMORY = 5  # a value may be a quarter of it, and some is the index'
MIN_RDMA = 64 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``memory`` holds a batch's values; ``engine`` is ``raw`` if it does lookups."""

    server: str
    client: Client
    memory: memoryview
    raw: Raw | None
    engine: RawEngine | None = None
    device: str | None = None
    """How payload travels by RDMA."""

    def counter(self, name: str) -> int:
        """One of the client's."""
        return self.client.stats()[self.server].counters[name]


@contextmanager
def tcp_ground(room: int) -> Iterator[Ground]:
    """Over the loopback, with memory of ``room`` bytes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-memkv-bench")))
        program = build(folder)
        engine = stack.enter_context(RawEngine(program)) if program else None
        server = stack.enter_context(
            Server(folder, _TCP_MEMORY, workers=1, transport="tcp")
        )
        client = stack.enter_context(server.client(num_connections=1, transport="tcp"))
        _fill(client)
        yield Ground(
            server=server.address,
            client=client,
            memory=memoryview(bytearray(room)),
            raw=engine,
            engine=engine,
        )


@contextmanager
def rdma_ground(room: int, largest: int) -> Iterator[Ground]:
    """Over a device of this host, with registered memory of ``room`` bytes.

    The device and the verbs library may be set as everywhere, MEMKV_RDMA_DEVICES and
    MEMKV_VERBS_LIBRARY.  MemKVError with the reason: there is no RDMA here.
    """
    told = load()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("-memkv-bench")))
        server = stack.enter_context(
            Server(
                folder,
                max(_RDMA_MEMORY, _MOST_OF_MEMORY * largest),
                workers=1,
                rdma_devices=told.rdma_devices,
                verbs_library=told.verbs_library,
            )
        )
        if server.no_rdma:
            raise no_rdma(server.no_rdma)
        client = stack.enter_context(server.client(num_connections=1, transport="rdma"))
        memory = memoryview(mmap.mmap(-1, room))
        stack.enter_context(client.register(memory))
        wait_for_rdma(client, room)
        link = client.state()[server.address]
        yield Ground(
            server=server.address,
            client=client,
            memory=memory,
            raw=Perftest(port_of(link)) if Perftest.is_here() else None,
            device=link.removeprefix("up: rdma "),
        )


def _fill(client: Client) -> None:
    size = 4 * MIB
    block = bytes(size)
    keys = [b"fill-%d" % i for i in range(_TCP_MEMORY // size)]
    for first in range(0, len(keys), 8):
        client.put_many([Put(key, block) for key in keys[first : first + 8]])
    client.delete_many(keys)
