"""How LMCache makes, configures, asks and ends the plugin."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import logging
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1 import token_database
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.storage_backend import storage_plugin_launcher
from lmcache.v1.storage_backend.abstract_backend import (
    StorageBackendInterface,
    StoragePluginInterface,
)
from support import wait_until

from memkv_lmcache import backend as backend_module
from memkv_lmcache.backend import LayerLost, MemKVStorageBackend
from memkv_lmcache.demo.engine import engine_config
from memkv_lmcache.errors import ConfigError

from .conftest import Arena, Make, drop, make_key, make_keys, make_metadata, store
from .fake import Fault, Fleet

YAML = """
chunk_size: 16
local_cpu: true
max_local_cpu_size: 0.03125
storage_plugins: {plugins}
extra_config:
  storage_plugin.memkv.module_path: memkv_lmcache.backend
  storage_plugin.memkv.class_name: MemKVStorageBackend
  storage_plugin.memkv.lookup_timeout_ms: 71
"""


def launch(config: Any, arena: Arena) -> Any:
    """Loads plugins as LMCache does, and returns ours; None: it was not loaded."""
    found: OrderedDict[str, Any] = OrderedDict()
    storage_plugin_launcher(config, make_metadata(), None, arena.backend, "cpu", found)
    return found.get("memkv")


# ---- the interface -------------------------------------------------------------------


def test_every_method_of_the_interface_is_our_own() -> None:
    """The defaults loop key by key or raise; none of them is left."""
    methods = {
        name
        for name, _ in inspect.getmembers(StorageBackendInterface, inspect.isfunction)
        if not name.startswith("_")
    }
    assert len(methods) == 18
    assert methods <= set(vars(MemKVStorageBackend))


def test_signatures_are_those_that_lmcache_calls() -> None:
    """Same parameters, same order, same defaults."""
    for name, theirs in inspect.getmembers(StoragePluginInterface, inspect.isfunction):
        if name.startswith("_"):
            continue
        ours = inspect.signature(getattr(MemKVStorageBackend, name)).parameters
        expected = inspect.signature(theirs).parameters
        assert list(ours) == list(expected), name
        assert [p.default for p in ours.values()] == [
            p.default for p in expected.values()
        ], name
        assert inspect.iscoroutinefunction(
            getattr(MemKVStorageBackend, name)
        ) == inspect.iscoroutinefunction(theirs), name


def test_the_rest_of_the_interface(make: Make, arena: Arena, fleet: Fleet) -> None:
    """Removals, the asynchronous put and get, and the calls of no effect."""
    plugin, keys, objects = make(), make_keys(4), arena.objects(4)
    asyncio.run(plugin.async_batched_submit_put_task(keys, objects))
    assert plugin._puts.wait_idle(10)
    assert len(fleet.values) == 4
    found = plugin.get_non_blocking(keys[0]).result(10)
    assert torch.equal(found.tensor, objects[0].tensor)
    assert plugin.get_non_blocking(make_key(99)).result(10) is None
    assert plugin.remove(keys[0])
    assert not plugin.remove(keys[0])
    assert plugin.batched_remove(keys) == 3
    assert plugin.get_allocator_backend() is arena.backend
    assert str(plugin) == "MemKVStorageBackend"
    plugin.touch_cache()
    plugin.cancel_request("r1")
    drop([found, *objects])


def test_lmcaches_metrics_are_fed(make: Make, arena: Arena) -> None:
    """Its dashboards show our traffic as remote reads and writes."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    stats = plugin._stats
    written, read = (
        stats.interval_remote_write_bytes,
        stats.interval_remote_read_bytes,
    )
    store(plugin, keys, objects)
    drop(plugin.batched_get_blocking(keys))
    size = sum(obj.get_size() for obj in objects)
    assert stats.interval_remote_write_bytes - written == size
    assert stats.interval_remote_read_bytes - read == size
    drop(objects)


# ---- configuration -------------------------------------------------------------------


@pytest.mark.parametrize("plugins", ["memkv", '["memkv"]', "[memkv]"])
def test_lmcaches_yaml_loads_the_plugin(
    fleet: Fleet, arena: Arena, tmp_path: Path, plugins: str
) -> None:
    """The name as a bare string and as a list."""
    path = tmp_path / "lmcache.yaml"
    path.write_text(YAML.format(plugins=plugins), encoding="utf-8")
    plugin = launch(LMCacheEngineConfig.from_file(str(path)), arena)
    assert plugin._settings.lookup_timeout_ms == 71
    plugin.close()


def test_lmcaches_environment_loads_the_plugin(
    fleet: Fleet, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMCACHE_STORAGE_PLUGINS, and LMCACHE_EXTRA_CONFIG as JSON."""
    monkeypatch.setenv("LMCACHE_STORAGE_PLUGINS", "memkv")
    monkeypatch.setenv(
        "LMCACHE_EXTRA_CONFIG",
        '{"storage_plugin.memkv.module_path": "memkv_lmcache.backend",'
        ' "storage_plugin.memkv.class_name": "MemKVStorageBackend",'
        ' "storage_plugin.memkv.servers": "10.0.0.1:9900,10.0.0.2:9900"}',
    )
    plugin = launch(LMCacheEngineConfig.from_env(), arena)
    assert [server.name for server in plugin._settings.servers] == [
        "10.0.0.1:9900",
        "10.0.0.2:9900",
    ]
    plugin.close()


def test_lmcaches_settings_win_over_the_chain(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then come the variables, then the defaults."""
    monkeypatch.setenv("MEMKV_LOOKUP_TIMEOUT_MS", "60")
    monkeypatch.setenv("MEMKV_NAMESPACE", "fleet-a")
    settings = make(lookup_timeout_ms=70)._settings
    assert settings.lookup_timeout_ms == 70
    assert settings.namespace == "fleet-a"
    assert settings.servers[0].address == "127.0.0.1:9900"


def test_the_plugins_name_is_free(fleet: Fleet, arena: Arena) -> None:
    """Settings stand under the name that LMCache loads our class by."""
    prefix = "storage_plugin.fleet-b."
    config = engine_config(
        16,
        0.03125,
        {"lease_ms": 1},
        storage_plugins=["fleet-b"],
        extra_config={
            f"{prefix}module_path": "memkv_lmcache.backend",
            f"{prefix}class_name": "MemKVStorageBackend",
            f"{prefix}lease_ms": 2,
        },
    )
    plugin = MemKVStorageBackend(config=config, metadata=make_metadata())
    assert plugin._settings.lease_ms == 2
    plugin.close()


def test_two_plugins_of_our_class_must_agree(fleet: Fleet) -> None:
    """LMCache does not tell a plugin its name."""
    config = engine_config(
        16,
        0.03125,
        {"lease_ms": 1},
        storage_plugins=["memkv", "other"],
        extra_config={
            "storage_plugin.other.module_path": "memkv_lmcache.backend",
            "storage_plugin.other.class_name": "MemKVStorageBackend",
        },
    )
    with pytest.raises(ConfigError, match="memkv, other all load"):
        MemKVStorageBackend(config=config, metadata=make_metadata())


def test_the_shorter_of_the_two_patiences_counts(make: Make) -> None:
    """LMCache's blocking_timeout_secs bounds a load as well as our own setting."""
    assert make(lmcache={"blocking_timeout_secs": 3})._load_timeout == 3
    assert make(load_timeout_s=2)._load_timeout == 2


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("lookup_timeout", 5, "lookup_timeout_ms"),
        ("auth_key", "abc", "64 hex"),
        ("servers", "nowhere", "nowhere"),
        ("layerwise", "perhaps", "layerwise"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    fleet: Fleet,
    arena: Arena,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    value: object,
    words: str,
) -> None:
    """LMCache swallows the exception and goes on without us, so we say it first."""
    with caplog.at_level(logging.WARNING, logger="memkv_lmcache"):
        assert launch(engine_config(16, 0.03125, {setting: value}), arena) is None
    [record] = [r for r in caplog.records if r.name.startswith("memkv_lmcache")]
    assert record.levelno == logging.ERROR
    assert words in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not fleet.clients


def test_the_start_asks_nobody_and_allocates_nothing(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """A fleet that is down fails no start."""
    free, threads = arena.free(), threading.active_count()
    make()
    assert not fleet.calls
    assert arena.free() == free
    assert threading.active_count() == threads


def test_without_a_cpu_backend_lookups_work(make: Make, fleet: Fleet) -> None:
    """The scheduler has none: it looks up and unpins, and never gets."""
    plugin, keys = make(local_cpu_backend=None), make_keys(2)
    assert not plugin.contains(keys[0])
    assert plugin.batched_contains(keys, pin=True) == 0
    assert plugin.unpin(keys[0])
    assert plugin.batched_get_blocking(keys) == [None, None]
    assert fleet.calls == {"stat": 2}
    with pytest.raises(RuntimeError, match="max_local_cpu_size"):
        plugin.get_allocator_backend()


# ---- keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("none_hash", "seed", "algorithm", "warned"),
    [
        (123, None, "builtin", True),
        (123, "random", "builtin", True),
        (123, "0", "builtin", False),
        (123, None, "sha256_cbor", False),
        (0, None, "builtin", False),
    ],
)
def test_hashes_of_one_process_only_are_warned_about(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    none_hash: int,
    seed: str | None,
    algorithm: str,
    warned: bool,
) -> None:
    """Such a process will never share a key with another."""
    monkeypatch.setattr(token_database, "NONE_HASH", none_hash)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    make(lmcache={"pre_caching_hash_algorithm": algorithm})
    assert ("RANDOM" in caplog.text) == warned
    assert ("PYTHONHASHSEED=0" in caplog.text) == warned


@pytest.mark.parametrize(
    ("dtype", "namespace", "warned"),
    [
        (torch.uint8, "", True),
        (torch.uint8, "fp8-e4m3", False),
        (torch.bfloat16, "", False),
    ],
)
def test_fp8_without_a_namespace_is_warned_about(
    make: Make,
    caplog: pytest.LogCaptureFixture,
    dtype: torch.dtype,
    namespace: str,
    warned: bool,
) -> None:
    """All its flavours are uint8 in a key."""
    make(metadata=make_metadata(kv_dtype=dtype), namespace=namespace)
    assert ("uint8" in caplog.text) == warned


@pytest.mark.parametrize(
    ("policy", "loads_async", "warned"),
    [("fail", False, True), ("fail", True, False), ("recompute", False, False)],
)
def test_a_vllm_that_fails_lost_loads_is_warned_about(
    make: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    loads_async: bool,
    warned: bool,
) -> None:
    """Its default ends a request whose chunk is lost between lookup and load."""
    transfer = SimpleNamespace(kv_load_failure_policy=policy)
    current = SimpleNamespace(kv_transfer_config=transfer)
    vllm = SimpleNamespace(get_current_vllm_config_or_none=lambda: current)
    monkeypatch.setitem(sys.modules, "vllm.config", vllm)
    make(lmcache={"enable_async_loading": loads_async})
    assert ("kv_load_failure_policy" in caplog.text) == warned


def mla_metadata(worker: int) -> Any:
    return make_metadata(use_mla=True, world_size=2, worker_id=worker)


def mla_key(chunk: int, worker: int) -> CacheEngineKey:
    return CacheEngineKey("org/model", 2, worker, chunk, torch.float16)


def test_with_mla_all_ranks_share_what_rank_0_stores(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """They hold the same bytes: rank 1 reads rank 0's keys and stores none."""
    off = {"extra_config": {"save_only_first_rank": False}}
    rank0 = make(metadata=mla_metadata(0), lmcache=off)
    rank1 = make(metadata=mla_metadata(1), lmcache=off)
    [obj] = arena.objects(1)
    assert rank1.batched_submit_put_task([mla_key(7, 1)], [obj]) is None
    assert obj.get_ref_count() == 1
    rank0.batched_submit_put_task([mla_key(7, 0)], [obj])
    assert rank0._puts.wait_idle(10)
    [wire] = fleet.values
    assert rank1._wire_key(mla_key(7, 1)) == wire
    layers = mla_key(7, 1).split_layers(2)
    assert [rank1._text(key) for key in layers] == [
        key.to_string() for key in mla_key(7, 0).split_layers(2)
    ]
    drop([obj])


def test_mla_ranks_keep_apart_where_lmcache_is_told_so(make: Make) -> None:
    """remote_enable_mla_worker_id_as0 means the same as for LMCache's own backends."""
    apart = {"extra_config": {"remote_enable_mla_worker_id_as0": False}}
    plugin = make(metadata=mla_metadata(1), lmcache=apart)
    assert plugin._text(mla_key(7, 1)) == mla_key(7, 1).to_string()


def test_tags_and_slashes_of_a_key_reach_the_wire(make: Make) -> None:
    """The key is LMCache's text, whatever stands in a model's name."""
    key = CacheEngineKey(
        "org/model", 1, 0, -0x2EE, torch.bfloat16, {"lmcache.tag.tenant": "a"}
    )
    assert make()._wire_key(key) == b"org/model@1@0@-2ee@bfloat16@tenant%a"


# ---- the end -------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "DRAIN_TIMEOUT", 0.05)
    monkeypatch.setattr(backend_module, "QUIET_TIMEOUT", 0.05)


def test_the_plugin_is_quiet_before_the_arena_goes(
    make: Make, arena: Arena, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMCache frees the arena first and closes the plugin afterwards."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    gate = threading.Event()
    fleet.faults["put"] = Fault(gate=gate)
    plugin.batched_submit_put_task(keys, objects)
    drop(objects)
    inside: list[int] = []
    guard = arena.allocator._memkv_arena_guard
    close = guard._close
    monkeypatch.setattr(
        guard,
        "_close",
        lambda: (inside.append(sum(c.inside for c in fleet.clients)), close()),
    )
    threading.Timer(0.05, gate.set).start()
    arena.backend.close()
    assert inside == [0]
    assert len(fleet.values) == 2  # what was queued had been sent


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", ["get", "put"])
def test_the_arena_is_kept_while_a_transfer_hangs(
    make: Make,
    arena: Arena,
    fleet: Fleet,
    caplog: pytest.LogCaptureFixture,
    operation: str,
) -> None:
    """Memory that a NIC may still write is never freed; that is said, and bounded."""
    plugin, keys, objects = make(load_timeout_s=0.05), make_keys(2), arena.objects(2)
    gate = threading.Event()
    if operation == "get":
        store(plugin, keys, objects)
    fleet.faults[operation] = Fault(gate=gate, stubborn=True)
    if operation == "get":
        assert plugin.batched_get_blocking(keys) == [None, None]
    else:
        plugin.batched_submit_put_task(keys, objects)
        wait_until(lambda: fleet.calls["put"])
    arena.backend.close()
    assert not arena.allocator._unregistered
    assert "the CPU arena is kept" in caplog.text
    gate.set()
    assert plugin._loads.wait_idle(10)
    assert plugin._puts.wait_idle(10)
    drop(objects)


@pytest.mark.usefixtures("impatient")
def test_close_is_bounded_when_a_transfer_hangs(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """It joins nothing that may hang."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    gate = threading.Event()
    fleet.faults["stat"] = Fault(gate=gate, stubborn=True)
    plugin.batched_submit_put_task(keys, objects)
    wait_until(lambda: fleet.calls["stat"])
    plugin.close()
    assert not gate.is_set()
    gate.set()
    assert plugin._puts.wait_idle(10)
    drop(objects)


def test_the_arena_is_registered_whole(make: Make, arena: Arena, fleet: Fleet) -> None:
    """Once, with every object in it: what RDMA needs to move them without a copy."""
    make()
    [client] = fleet.clients
    [memory] = client.registered
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    objects = arena.objects(3)
    for obj in objects:
        assert first <= obj.tensor.data_ptr() < first + len(memory)
    assert len(memory) == arena.allocator.buffer.numel()
    drop(objects)


def test_a_closed_plugin_leaves_the_arena_alone(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """And one more on the same arena is not disturbed by its end."""
    first, second, keys = make(), make(), make_keys(2)
    objects = arena.objects(2)
    store(first, keys, objects)
    first.close()
    found = second.batched_get_blocking(keys)
    assert None not in found
    drop(found + objects)
    arena.backend.close()
    assert arena.allocator._unregistered


def test_layer_keys_raise_when_layerwise_is_off(make: Make, fleet: Fleet) -> None:
    """They were never promised, so a get of them is a mistake that must not pass."""
    plugin = make()
    layers = make_key(1).split_layers(2)
    with pytest.raises(LayerLost):
        asyncio.run(plugin.batched_get_non_blocking("fake_lookup_id", layers))
    assert plugin.batched_get_blocking(layers) == [None, None]
    assert not fleet.calls
