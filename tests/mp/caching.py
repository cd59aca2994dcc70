"""LMCache's own storage manager over the adapter: its L1, controllers and serdes."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    MemoryLayoutDesc,
    ObjectKey,
    PrefetchTaskSpec,
)
from lmcache.v1.distributed.config import (
    EvictionConfig,
    L1ManagerConfig,
    L1MemoryManagerConfig,
    StorageManagerConfig,
)
from lmcache.v1.distributed.l2_adapters.config import (
    parse_args_to_l2_adapters_config,
)
from lmcache.v1.distributed.storage_controllers import eviction_controller
from lmcache.v1.distributed.storage_manager import StorageManager
from support import wait_until

# It naps for a second at a time, and the end of a cache waits until it wakes.
eviction_controller.time = SimpleNamespace(
    **{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.02))}
)

MIB = 1 << 20
LAYOUT = MemoryLayoutDesc([torch.Size((2, 4, 16, 32))], [torch.float16])


def spec(params: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Our adapter as ``--l2-adapter`` names it."""
    return {
        "type": "plugin",
        "module_path": "memkv_lmcache.l2_adapter",
        "class_name": "MemKVL2Adapter",
        "adapter_params": params,
        **more,
    }


class Cache:
    """A cache with an empty L1, as one process of LMCache has it."""

    def __init__(self, manager: StorageManager, layout: MemoryLayoutDesc) -> None:
        self.manager = manager
        self.layout = layout

    def store(self, keys: Sequence[ObjectKey], fill: Sequence[torch.Tensor]) -> None:
        """Writes to L1, and waits until our adapter is through with it."""
        stored = self._stored()
        objects = self.manager.reserve_write(list(keys), self.layout)
        assert len(objects) == len(keys)
        for key, tensor in zip(keys, fill, strict=True):
            objects[key].tensor.copy_(tensor)
        self.manager.finish_write(list(keys))
        wait_until(lambda: self._stored() == stored + len(keys))

    def fetch(
        self, keys: Sequence[ObjectKey], timeout: float = 20.0
    ) -> list[torch.Tensor]:
        """The objects of the prefix of ``keys`` that the cache has."""
        row = GroupedObjectKeys(list(keys), 0, self.layout)
        handle = self.manager.submit_prefetch_task(PrefetchTaskSpec([row]))
        assert self.manager.wait_prefetch_status(handle, timeout), "no answer"
        result = self.manager.query_prefetch_status(handle)
        assert result is not None
        hits = [key for i, key in enumerate(keys) if result.hit_cells[0].test(i)]
        if not hits:
            return []
        with self.manager.read_prefetched_results(hits) as objects:
            assert objects is not None
            found = [obj.tensor.clone() for obj in objects]
        self.manager.finish_read_prefetched(hits)
        return found

    def _stored(self) -> int:
        adapters = self.manager.report_status()["l2_adapters"]
        [counters] = [each["counters"] for each in adapters if "counters" in each]
        return int(counters.get("put_stored", 0) + counters.get("put_present", 0))


@contextlib.contextmanager
def cache(
    *adapters: dict[str, Any], lazy: bool = False, layout: MemoryLayoutDesc = LAYOUT
) -> Iterator[Cache]:
    """A cache over ``adapters``; leaving it is the end of its process."""
    given = argparse.Namespace(l2_adapter=[json.dumps(adapter) for adapter in adapters])
    config = StorageManagerConfig(
        L1ManagerConfig(
            L1MemoryManagerConfig(
                16 * MIB, use_lazy=lazy, init_size_in_bytes=4 * MIB, shm_name=""
            )
        ),
        EvictionConfig("noop"),
        parse_args_to_l2_adapters_config(given),
    )
    manager = StorageManager(config)
    try:
        yield Cache(manager, layout)
    finally:
        begin = time.monotonic()
        manager.close()
        assert time.monotonic() - begin < 20
