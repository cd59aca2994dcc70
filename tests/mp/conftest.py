"""Real LMCache parts around the adapter, and real servers behind it."""

from __future__ import annotations

import itertools
import os
import select
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# LMCache reads them when it is imported.
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_DISABLE_BANNER", "1")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import pytest

with warnings.catch_warnings():
    # not ours to mend, and an error only while tests are collected
    warnings.simplefilter("ignore")
    import torch
    from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
    from lmcache.v1.distributed.l2_adapters.factory import ensure_adapter_loaded
    from lmcache.v1.distributed.storage_manager import StorageManager  # noqa: F401
    from lmcache.v1.memory_management import (
        MemoryFormat,
        MemoryObjMetadata,
        TensorMemoryObj,
    )

    from memkv_lmcache.l2_adapter import MemKVL2Adapter

    for name in ("plugin", "fault_inject", "mock"):
        ensure_adapter_loaded(name)

from client.serving import MIB, served

from memkv_lmcache._ffi import NativeServer

SHAPE = (2, 4, 16, 32)
DTYPE = torch.float16
SIZE = 2 * 4 * 16 * 32 * 2

_names = itertools.count()


def fresh_prefix() -> str:
    return f"test-{next(_names)}"


def make_keys(count: int, **changes: Any) -> list[ObjectKey]:
    parts = {"model_name": "org/model", "kv_rank": 0x0100_0100, **changes}
    return [ObjectKey(chunk_hash=i.to_bytes(32, "big"), **parts) for i in range(count)]


def layout(
    shape: Sequence[int] = SHAPE, dtype: torch.dtype = DTYPE
) -> dict[int, MemoryLayoutDesc]:
    return {0: MemoryLayoutDesc([torch.Size(shape)], [dtype])}


def make_objects(
    count: int,
    shape: Sequence[int] = SHAPE,
    dtype: torch.dtype = DTYPE,
    seed: int | None = None,
    fmt: MemoryFormat = MemoryFormat.UNDEFINED,
) -> list[TensorMemoryObj]:
    """Objects side by side in one arena: random bytes, or zeros without ``seed``."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if seed is None:
        arena = torch.zeros(count * size, dtype=torch.uint8)
    else:
        generator = torch.Generator().manual_seed(seed)
        arena = torch.randint(
            256, (count * size,), dtype=torch.uint8, generator=generator
        )
    return [
        TensorMemoryObj(
            arena[i * size : (i + 1) * size],
            MemoryObjMetadata(
                shape=torch.Size(shape),
                dtype=dtype,
                address=i * size,
                phy_size=size,
                fmt=fmt,
                ref_count=1,
                shapes=[torch.Size(shape)],
                dtypes=[dtype],
            ),
            parent_allocator=None,
        )
        for i in range(count)
    ]


def contents(objects: Sequence[Any]) -> list[bytes]:
    return [bytes(memoryview(obj.byte_array).cast("B")) for obj in objects]


def wait_readable(fd: int, timeout: float = 20.0) -> None:
    """Waits for a descriptor as LMCache's controllers do, and consumes it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(timeout * 1000), f"nothing reported within {timeout} s"
    os.eventfd_read(fd)


class Controller:
    """Does with an adapter what LMCache's controllers do, one task at a time."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def store(self, keys: Sequence[ObjectKey], objects: Sequence[Any]) -> Any:
        """The result of a store."""
        task = self.adapter.submit_store_task(list(keys), list(objects))
        wait_readable(self.adapter.get_store_event_fd())
        results = self.adapter.pop_completed_store_tasks()
        assert list(results) == [task]
        return results[task]

    def lookup(self, keys: Sequence[ObjectKey], *descs: Any) -> list[bool]:
        fd = self.adapter.get_lookup_and_lock_event_fd()
        task = self.adapter.submit_lookup_and_lock_task(
            list(keys), *(descs or (layout(),))
        )
        return self._bits(
            fd, self.adapter.query_lookup_and_lock_result, task, len(keys)
        )

    def load(self, keys: Sequence[ObjectKey], objects: Sequence[Any]) -> list[bool]:
        task = self.adapter.submit_load_task(list(keys), list(objects))
        fd = self.adapter.get_load_event_fd()
        return self._bits(fd, self.adapter.query_load_result, task, len(keys))

    @staticmethod
    def _bits(
        fd: int, query: Callable[[int], Any], task: int, count: int
    ) -> list[bool]:
        wait_readable(fd)
        bitmap = query(task)
        assert bitmap is not None
        return [bitmap.test(i) for i in range(count)]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds that it took."""
    begin = time.monotonic()
    return call(), time.monotonic() - begin


@pytest.fixture(scope="session")
def server() -> Iterator[NativeServer]:
    """A server for all tests that only use one; 8 KiB pages, so that many fit."""
    with served(page_size=8 * 1024, memory=256 * MIB) as found:
        yield found


Make = Callable[..., MemKVL2Adapter]


@pytest.fixture
def make(server: NativeServer) -> Iterator[Make]:
    """Makes adapters; keywords are ``adapter_params``.

    All of a test have one prefix, and a lookup has time enough on a busy machine.
    """
    prefix = fresh_prefix()
    made: list[MemKVL2Adapter] = []

    def make(**params: Any) -> MemKVL2Adapter:
        given = {"prefix": prefix, "servers": server.address}
        given |= {"lookup_timeout_ms": 10_000}
        made.append(MemKVL2Adapter({**given, **params}))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def control(make: Make) -> Controller:
    return Controller(make())
