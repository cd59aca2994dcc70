"""Real LMCache parts around the plugin; the fleet is a fake unless a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
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
    from lmcache.utils import CacheEngineKey
    from lmcache.v1.cache_engine import LMCacheEngineBuilder
    from lmcache.v1.memory_management import TensorMemoryObj
    from lmcache.v1.metadata import LMCacheMetadata
    from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

    from memkv_lmcache import backend as backend_module
    from memkv_lmcache.backend import MemKVStorageBackend
    from memkv_lmcache.demo.engine import ModelShape, build_engine, engine_config

from .fake import Fleet

HERE = Path(__file__).parent

CHUNK = 16
MODEL = ModelShape(name="org/model")
TOKENS = list(range(70))
FULL = 64  # of them in whole chunks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LMCache's modules, loaded when first used, set up logging in a deprecated way."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*LoggingHandler.*"))


def make_key(chunk: int, model: str = MODEL.name, worker: int = 0) -> CacheEngineKey:
    return CacheEngineKey(model, 1, worker, chunk, torch.float16)


def make_keys(count: int) -> list[CacheEngineKey]:
    return [make_key(-0x2EE + i) for i in range(count)]


def make_metadata(**changes: Any) -> LMCacheMetadata:
    values: dict[str, Any] = {
        "model_name": MODEL.name,
        "world_size": 1,
        "local_world_size": 1,
        "worker_id": 0,
        "local_worker_id": 0,
        "kv_dtype": MODEL.dtype,
        "kv_shape": (MODEL.layers, 2, CHUNK, MODEL.kv_heads, MODEL.head_size),
        "chunk_size": CHUNK,
    }
    return LMCacheMetadata(**(values | changes))


class Arena:
    """LMCache's real CPU backend over a small arena."""

    def __init__(self, config: Any, metadata: Any) -> None:
        self.backend = LocalCPUBackend(config, metadata, "cpu")
        self.allocator = self.backend.get_memory_allocator()

    def free(self) -> int:
        """Bytes that nobody holds."""
        size: int = self.allocator.pin_allocator.address_manager.get_free_size()
        return size

    def objects(self, count: int, tokens: int = CHUNK, seed: int = 0) -> list[Any]:
        """Chunks of random bytes, each with one reference."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(count):
            obj = self.backend.allocate(
                [MODEL.kv(tokens)], [MODEL.dtype], busy_loop=False
            )
            assert obj is not None
            obj.tensor.copy_(torch.randn(MODEL.kv(tokens), generator=generator))
            found.append(obj)
        return found


@pytest.fixture(autouse=True)
def _forgotten_objects_stay_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """LMCache frees an object that Python forgets: a missing release would not show."""
    monkeypatch.delattr(TensorMemoryObj, "__del__")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The fake fleet that every plugin made in this test talks to."""
    fleet = Fleet()
    monkeypatch.setattr(backend_module, "Client", fleet.client)
    return fleet


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A running event loop in its own thread, as the storage manager has one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(engine_config(CHUNK, 0.03125, {}), make_metadata())
    yield arena
    arena.backend.close()


Make = Callable[..., MemKVStorageBackend]


@pytest.fixture
def make(fleet: Fleet, arena: Arena) -> Iterator[Make]:
    """Makes plugins on ``arena``; keywords are settings of ours, or ``lmcache``,
    ``metadata`` and ``local_cpu_backend``."""
    made: list[MemKVStorageBackend] = []

    def make(
        metadata: Any = None,
        lmcache: dict[str, Any] | None = None,
        local_cpu_backend: Any = arena.backend,
        **settings: Any,
    ) -> MemKVStorageBackend:
        plugin = MemKVStorageBackend(
            config=engine_config(CHUNK, 0.03125, settings, **(lmcache or {})),
            dst_device="cpu",
            metadata=metadata or make_metadata(),
            local_cpu_backend=local_cpu_backend,
            loop=None,
        )
        made.append(plugin)
        return plugin

    yield make
    for plugin in made:
        plugin.close()


def store(plugin: MemKVStorageBackend, keys: list[Any], objects: list[Any]) -> None:
    """Puts ``objects`` and waits until they are there."""
    futures = plugin.batched_submit_put_task(keys, objects)
    assert futures is not None
    assert all(future.result(10) for future in futures)


Build = Callable[..., Any]

_instances = itertools.count()


@contextlib.contextmanager
def engines(**ours: Any) -> Iterator[Build]:
    """Builds real engines and ends them; ``ours`` are settings of all their plugins."""
    built: dict[str, Any] = {}

    def build(
        model: ModelShape = MODEL,
        plugin: dict[str, Any] | None = None,
        connector: Any = None,
        arena_gib: float = 0.03125,
        **settings: Any,
    ) -> Any:
        name = f"test-{next(_instances)}"
        config = engine_config(CHUNK, arena_gib, ours | (plugin or {}), **settings)
        built[name] = build_engine(name, config, model, connector)
        return built[name]

    yield build
    for name, engine in built.items():
        LMCacheEngineBuilder.destroy(name)
        engine.storage_manager.loop.close()  # LMCache only stops it


def random_kv(model: ModelShape = MODEL, tokens: int = len(TOKENS)) -> torch.Tensor:
    return torch.randn(model.kv(tokens)).to(model.dtype)


def plugin_of(engine: Any) -> MemKVStorageBackend:
    plugin: MemKVStorageBackend = engine.storage_manager.storage_backends["memkv"]
    return plugin


def store_prompt(engine: Any, kv: torch.Tensor, tokens: list[int] = TOKENS) -> None:
    """Stores and waits until the puts are over."""
    engine.store(tokens, kv=kv)
    assert plugin_of(engine)._puts.wait_idle(10)


def drop(objects: list[Any]) -> None:
    for obj in objects:
        if obj is not None:
            obj.ref_count_down()
