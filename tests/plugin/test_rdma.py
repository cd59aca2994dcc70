"""A real engine whose values travel by RDMA; on the fake verbs library.

The plugin registers the engine's arena and nothing else.  So what counts as moved by
RDMA lay in the arena, and on this side of it no CPU copied it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from client.serving import served
from fake_rdma import FakeVerbs, build_fake_verbs
from support import wait_until

from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.ways import moved, wait_for_rdma

from .conftest import (
    FULL,
    MODEL,
    TOKENS,
    Build,
    engines,
    plugin_of,
    random_kv,
    store_prompt,
)

#: Its chunks have 256 KiB: those under 64 KiB go inline.
WIDE = replace(MODEL, kv_heads=8, head_size=128)
PROMPT_BYTES = WIDE.kv(FULL).numel() * 2


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> FakeVerbs:
    return FakeVerbs(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


@pytest.fixture
def server(verbs: FakeVerbs) -> Iterator[NativeServer]:
    with served(transport="rdma", verbs_library=verbs.path) as server:
        yield server


@pytest.fixture
def build(server: NativeServer, verbs: FakeVerbs) -> Iterator[Build]:
    """Builds engines that use nothing but RDMA, with their arenas registered."""
    with engines(
        servers=server.address,
        transport="rdma",
        verbs_library=verbs.path,
        lookup_timeout_ms=5000,
    ) as build:

        def build_ready(**settings: Any) -> Any:
            engine = build(WIDE, **settings)
            arena = allocator_of(engine).buffer
            wait_for_rdma(plugin_of(engine).client, arena.numel())
            return engine

        yield build_ready


def allocator_of(engine: Any) -> Any:
    return engine.storage_manager.allocator_backend.memory_allocator


def test_an_engine_stores_and_starts_warm_without_a_copy(
    build: Build, server: NativeServer
) -> None:
    """Every byte of the prompt by RDMA, none inline, on both clients and the server."""
    kv, back = random_kv(WIDE), torch.zeros(WIDE.kv(len(TOKENS)), dtype=WIDE.dtype)
    first, second = build(), build()
    store_prompt(first, kv)
    assert second.lookup(TOKENS) == FULL
    mask = second.retrieve(TOKENS, kv=back)
    assert int(mask.sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    for engine in (first, second):
        assert moved(plugin_of(engine).client) == {
            "bytes_remote": PROMPT_BYTES,
            "bytes_inline": 0,
        }
    counted = server.stats()
    assert counted["bytes_remote"] == 2 * PROMPT_BYTES
    assert counted["bytes_inline"] == 0


def test_async_loading_copies_nothing_either(build: Build) -> None:
    """The way that vLLM takes with ``enable_async_loading``."""
    kv, back = random_kv(WIDE), torch.zeros(WIDE.kv(len(TOKENS)), dtype=WIDE.dtype)
    store_prompt(build(), kv)
    engine = build(enable_async_loading=True)
    replies: dict[str, int] = {}

    class Scheduler:
        send_response_to_scheduler = replies.__setitem__

    engine.storage_manager.async_lookup_server = Scheduler
    engine.async_lookup_and_prefetch("r1", TOKENS, pin=True)
    wait_until(lambda: replies)
    assert replies == {"r1": FULL}
    assert int(engine.retrieve(TOKENS, kv=back, req_id="r1").sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    assert moved(plugin_of(engine).client) == {
        "bytes_remote": PROMPT_BYTES,
        "bytes_inline": 0,
    }


def test_a_link_that_breaks_in_the_middle_costs_no_chunk(
    build: Build, verbs: FakeVerbs
) -> None:
    """The engine still gets all of its prompt, on a new link."""
    kv, back = random_kv(WIDE), torch.zeros(WIDE.kv(len(TOKENS)), dtype=WIDE.dtype)
    first, second = build(), build()
    store_prompt(first, kv)
    with verbs.scripted("break 1"):
        assert second.lookup(TOKENS) == FULL
        mask = second.retrieve(TOKENS, kv=back)
    assert int(mask.sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    [stats] = plugin_of(second).client.stats().values()
    assert stats.counters["links_broken"] == 1
    assert stats.counters["bytes_inline"] == 0


def test_no_device_holds_the_arena_when_lmcache_frees_it(
    build: Build, verbs: FakeVerbs
) -> None:
    """LMCache closes the arena before the plugin: its close ends the region first."""
    before = regions(verbs)
    allocator = allocator_of(build())
    held: list[int] = []
    free = allocator._memkv_arena_guard._close

    def freed() -> None:
        held.append(regions(verbs) - before)
        free()

    allocator._memkv_arena_guard._close = freed
    assert regions(verbs) > before
    allocator.close()
    assert held == [0]


class Counts(ctypes.Structure):
    """What tests/c/fake_verbs.h calls fake_verbs_counts."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("contexts", "pds", "regions")),
        *((name, ctypes.c_uint32) for name in ("channels", "cqs", "qps")),
        *((name, ctypes.c_uint64) for name in ("requests", "bytes")),
    ]


def regions(verbs: FakeVerbs) -> int:
    """How many there are on all devices."""
    counts = Counts()
    verbs._library.fake_verbs_count(ctypes.byref(counts))
    return counts.regions
