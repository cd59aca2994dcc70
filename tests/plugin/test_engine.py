"""The plugin inside a real LMCache engine; only the fleet is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import wait_until

from memkv_lmcache.backend import LayerLost
from memkv_lmcache.demo.engine import ModelShape
from memkv_lmcache.errors import Status

from .conftest import (
    CHUNK,
    FULL,
    MODEL,
    TOKENS,
    Build,
    engines,
    plugin_of,
    random_kv,
    store_prompt,
)
from .fake import Fault, Fleet


@pytest.fixture
def build(fleet: Fleet) -> Iterator[Build]:
    """Builds engines on the fake fleet; ``plugin`` are settings of ours."""
    with engines() as build:
        yield build


def free_bytes(engine: Any) -> int:
    allocator = engine.storage_manager.allocator_backend.memory_allocator
    size: int = allocator.pin_allocator.address_manager.get_free_size()
    return size


def test_a_second_engine_finds_what_the_first_stored(
    build: Build, fleet: Fleet
) -> None:
    """Nothing but the fleet connects the two, as after a restart."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    first, second = build(), build()
    free = free_bytes(second)
    store_prompt(first, kv)
    assert second.lookup(TOKENS) == FULL
    mask = second.retrieve(TOKENS, kv=back)
    assert int(mask.sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    assert not back[:, :, FULL:].any()
    assert free_bytes(second) == free


def test_a_partial_chunk_is_found_too(build: Build) -> None:
    """With save_unfull_chunk the whole prompt comes back."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    first, second = build(save_unfull_chunk=True), build(save_unfull_chunk=True)
    store_prompt(first, kv)
    assert second.lookup(TOKENS) == len(TOKENS)
    assert second.retrieve(TOKENS, kv=back).all()
    assert torch.equal(back, kv)


def test_a_store_of_what_is_there_moves_no_payload(build: Build, fleet: Fleet) -> None:
    """The fleet is asked first, and asked once."""
    kv = random_kv()
    store_prompt(build(), kv)
    fleet.items.clear()
    store_prompt(build(), kv)
    assert fleet.items["put"] == 0


def test_a_store_takes_no_reference_it_does_not_give_back(
    build: Build, fleet: Fleet
) -> None:
    """After the puts the whole arena is free again, dropped ones included."""
    engine = build(plugin={"put_queue_size": 4096})
    free = free_bytes(engine)
    store_prompt(engine, random_kv())
    assert plugin_of(engine).counters.snapshot()["put_dropped"] > 0
    assert free_bytes(engine) == free


def test_the_gap_ends_the_hit(build: Build, fleet: Fleet) -> None:
    """A hole in the middle of a prefix leaves what stands before it."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    engine = build()
    store_prompt(engine, kv)
    chunks = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    del fleet.values[plugin_of(engine)._wire_key(chunks[2])]
    assert engine.lookup(TOKENS) == 2 * CHUNK
    mask = engine.retrieve(TOKENS, kv=back)
    assert mask.tolist() == [True] * 32 + [False] * 38
    assert torch.equal(back[:, :, :32], kv[:, :, :32])


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(Status.UNREACHABLE), id="unreachable"),
        pytest.param(Fault(Status.TIMEOUT), id="timeout"),
        pytest.param(Fault(Status.AUTH), id="auth"),
        pytest.param(Fault(Status.CHECKSUM), id="checksum"),
        pytest.param(Fault(error=lambda: RuntimeError("broken")), id="raises"),
    ],
)
@pytest.mark.parametrize("operation", ["stat", "get", "put"])
def test_no_fault_reaches_the_engine(
    build: Build, fleet: Fleet, operation: str, fault: Fault
) -> None:
    """Lookup, retrieve and store return, whatever the fleet does."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    engine = build()
    free = free_bytes(engine)
    if operation != "put":
        store_prompt(engine, kv)
    fleet.faults[operation] = fault
    store_prompt(engine, kv)
    assert engine.lookup(TOKENS) == (FULL if operation == "get" else 0)
    assert not engine.retrieve(TOKENS, kv=back).any()
    assert not back.any()
    assert free_bytes(engine) == free


def test_a_get_that_fails_after_a_hit_gives_back_the_hit(
    build: Build, fleet: Fleet
) -> None:
    """A pinned lookup skips the second look: the retrieve alone decides."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    engine = build()
    store_prompt(engine, kv)
    assert engine.lookup(TOKENS, lookup_id="r1", pin=True) == FULL
    fleet.values.clear()
    fleet.calls.clear()
    assert not engine.retrieve(TOKENS, kv=back, req_id="r1").any()
    assert fleet.calls == {"get": 1}
    engine.lookup_unpin("r1")


def test_a_pinned_lookup_leases(build: Build, fleet: Fleet) -> None:
    """What was promised stays for as long as the request may queue."""
    engine = build(plugin={"lease_ms": 12345})
    store_prompt(engine, random_kv())
    assert {value.leased_ms for value in fleet.values.values()} == {0}
    engine.lookup(TOKENS, lookup_id="r1", pin=True)
    assert {value.leased_ms for value in fleet.values.values()} == {12345}


@pytest.mark.parametrize("old_first", [True, False])
def test_a_changed_layout_is_a_miss_until_it_is_stored_anew(
    build: Build, fleet: Fleet, old_first: bool
) -> None:
    """The same keys under another shape, in both orders: the last store wins."""
    small = ModelShape(MODEL.name, layers=2)
    first, second = (MODEL, small) if old_first else (small, MODEL)
    a, b = build(first), build(second)
    store_prompt(a, random_kv(first))
    kv, back = random_kv(second), torch.zeros(second.kv(70)).to(second.dtype)
    assert b.lookup(TOKENS) == 0
    assert not b.retrieve(TOKENS, kv=back).any()
    assert plugin_of(b).counters.snapshot()["miss_header_mismatch"] == 2
    store_prompt(b, kv)
    assert b.lookup(TOKENS) == FULL
    assert int(b.retrieve(TOKENS, kv=back).sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    assert a.lookup(TOKENS) == 0


@pytest.mark.parametrize("save_unfull_chunk", [False, True])
def test_a_full_hot_cache_leaks_nothing_and_still_serves(
    build: Build, fleet: Fleet, save_unfull_chunk: bool
) -> None:
    """Allocations evict the CPU cache one object at a time."""
    tokens = list(range(CHUNK * 256))
    kv = random_kv(tokens=len(tokens))
    store_prompt(build(arena_gib=0.03125), kv, tokens)
    engine = build(
        arena_gib=0.0009765625,  # 1 MiB: 256 chunks of 4 KiB
        local_cpu=True,
        save_unfull_chunk=save_unfull_chunk,
    )
    filler = [-token for token in tokens]
    engine.store(filler, kv=kv)
    assert plugin_of(engine)._puts.wait_idle(10)
    assert free_bytes(engine) == 0
    back = torch.zeros_like(kv)
    assert engine.lookup(tokens) == len(tokens)
    assert engine.retrieve(tokens, kv=back).all()
    assert torch.equal(back, kv)
    engine.storage_manager.clear(["LocalCPUBackend"])
    assert free_bytes(engine) == 1 << 20


def test_a_prefix_larger_than_the_arena_is_retrieved_in_part(
    build: Build, fleet: Fleet
) -> None:
    """It neither hangs nor fails: what fits is there, the rest is recomputed."""
    tokens = list(range(CHUNK * 300))
    kv = random_kv(tokens=len(tokens))
    store_prompt(build(), kv, tokens)
    engine = build(arena_gib=0.0009765625)
    back = torch.zeros_like(kv)
    mask = engine.retrieve(tokens, kv=back)
    hit = int(mask.sum())
    assert hit == CHUNK * 256
    assert mask[:hit].all()
    assert torch.equal(back[:, :, :hit], kv[:, :, :hit])
    assert free_bytes(engine) == 1 << 20


def test_create_backends_makes_a_second_plugin_that_works(
    build: Build, fleet: Fleet
) -> None:
    """LMCache replaces the first without closing it; both end when the arena does."""
    engine, kv = build(), random_kv()
    first = plugin_of(engine)
    engine.storage_manager.create_backends()
    second = plugin_of(engine)
    assert second is not first
    store_prompt(engine, kv)
    assert engine.lookup(TOKENS) == FULL
    assert first.batched_contains([]) == 0
    engine.storage_manager.allocator_backend.close()
    assert [client.closed.is_set() for client in fleet.clients] == [True, True]


def test_recreate_backend_makes_a_plugin_that_works(build: Build) -> None:
    """Closed and made anew on the same arena, as LMCache's HTTP API does it."""
    engine, kv = build(), random_kv()
    store_prompt(engine, kv)
    engine.storage_manager.recreate_backend("memkv")
    assert engine.lookup(TOKENS) == FULL


def test_clear_spares_the_fleet_unless_allowed(build: Build, fleet: Fleet) -> None:
    """/cache/clear calls it on every backend; the servers are everybody's."""
    careful = build()
    store_prompt(careful, random_kv())
    careful.storage_manager.clear()
    assert len(fleet.values) == 4
    allowed = build(plugin={"allow_clear": True})
    assert allowed.storage_manager.clear(["memkv"]) == FULL
    assert not fleet.values


def test_the_audit_wrapper_changes_nothing(build: Build) -> None:
    """It hides batched_contains, so that each chunk is asked for by itself."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    engine = build(extra_config={"audit_backend_enabled": True})
    engine.store(TOKENS, kv=kv)
    wrapper = engine.storage_manager.storage_backends["memkv"]
    assert wrapper.real_backend._puts.wait_idle(10)
    assert engine.lookup(TOKENS) == FULL
    assert int(engine.retrieve(TOKENS, kv=back).sum()) == FULL
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])


# ---- async loading -------------------------------------------------------------------


class Replies:
    """Stands where vLLM's scheduler would hear how much was loaded."""

    def __init__(self) -> None:
        self.loaded: dict[str, int] = {}

    def send_response_to_scheduler(self, lookup_id: str, length: int) -> None:
        self.loaded[lookup_id] = length


@pytest.mark.parametrize("gone", [None, 0, 2])
def test_async_loading_replies_with_what_it_loaded(
    build: Build, fleet: Fleet, gone: int | None
) -> None:
    """A get that comes short after a hit is a true miss there, and always answered."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    engine = build(enable_async_loading=True)
    replies = engine.storage_manager.async_lookup_server = Replies()
    free = free_bytes(engine)
    store_prompt(engine, kv)
    chunks = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    expected = FULL
    if gone is not None:
        wire = plugin_of(engine)._wire_key(chunks[gone])
        fleet.faults["get"] = Fault(Status.CHECKSUM, key=wire)
        expected = gone * CHUNK
    engine.async_lookup_and_prefetch("r1", TOKENS, pin=True)
    wait_until(lambda: "r1" in replies.loaded)
    assert replies.loaded == {"r1": expected}
    mask = engine.retrieve(TOKENS, kv=back, req_id="r1")
    assert int(mask.sum()) == expected
    assert torch.equal(back[:, :, :expected], kv[:, :, :expected])
    assert free_bytes(engine) == free


@pytest.mark.parametrize("operation", ["stat", "get"])
def test_async_loading_replies_when_everything_raises(
    build: Build, fleet: Fleet, operation: str
) -> None:
    """An exception there leaves vLLM waiting for its whole lookup time-out."""
    engine = build(enable_async_loading=True)
    replies = engine.storage_manager.async_lookup_server = Replies()
    store_prompt(engine, random_kv())
    fleet.faults[operation] = Fault(error=lambda: RuntimeError("broken"))
    engine.async_lookup_and_prefetch("r1", TOKENS, pin=True)
    wait_until(lambda: "r1" in replies.loaded)
    assert replies.loaded == {"r1": 0}


def test_an_aborted_async_load_gives_its_memory_back(
    build: Build, fleet: Fleet
) -> None:
    """LMCache cleans up by itself; our objects must be in the state it expects."""
    engine = build(enable_async_loading=True)
    replies = engine.storage_manager.async_lookup_server = Replies()
    free = free_bytes(engine)
    store_prompt(engine, random_kv())
    engine.async_lookup_and_prefetch("r1", TOKENS, pin=True)
    wait_until(lambda: "r1" in replies.loaded)
    assert free_bytes(engine) < free
    engine.lookup_unpin("r1")
    assert free_bytes(engine) == free


# ---- layer by layer ------------------------------------------------------------------


class LayerConnector:
    """Moves KV layer by layer as LMCache's layerwise connectors do: [T, 2, D] each."""

    def __init__(self, model: ModelShape) -> None:
        self.model = model

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size([num_tokens, 2, self.model.kv_heads * self.model.head_size])

    def batched_from_gpu(
        self, objs: Any, starts: Any, ends: Any, **kwargs: Any
    ) -> Iterator[None]:
        yield
        for layer, row in enumerate(objs):
            for obj, start, end in zip(row, starts, ends, strict=True):
                part = kwargs["kv"][:, layer, start:end]
                obj.tensor.copy_(part.transpose(0, 1))
            yield

    def batched_to_gpu(self, starts: Any, ends: Any, **kwargs: Any) -> Any:
        objs = yield
        for layer in range(self.model.layers):
            for obj, start, end in zip(objs, starts, ends, strict=False):
                part = kwargs["kv"][:, layer, start:end]
                part.copy_(obj.tensor.transpose(0, 1))
            objs = yield
        yield


@pytest.fixture
def build_layered(build: Build, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds engines that work layer by layer."""
    from lmcache.v1 import cache_engine

    monkeypatch.setattr(cache_engine, "assert_layerwise_gpu_connector", lambda _: None)

    def build_layered(**plugin: Any) -> Any:
        return build(plugin=plugin, connector=LayerConnector(MODEL), use_layerwise=True)

    return build_layered


def store_layers(engine: Any, kv: torch.Tensor) -> None:
    for _ in engine.store_layer(TOKENS, kv=kv):
        pass
    assert plugin_of(engine)._puts.wait_idle(10)


def retrieve_layers(engine: Any, kv: torch.Tensor) -> torch.Tensor:
    *_, mask = engine.retrieve_layer(TOKENS, kv=kv)
    return mask


def test_layers_come_back_where_asked_for(build_layered: Build, fleet: Fleet) -> None:
    """With ``layerwise: true`` every layer is loaded, each in one round trip."""
    kv, back = random_kv(), torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    first, second = build_layered(layerwise=True), build_layered(layerwise=True)
    free = free_bytes(second)
    store_layers(first, kv)
    assert len(fleet.values) == MODEL.layers * FULL // CHUNK
    assert second.lookup(TOKENS) == FULL
    fleet.calls.clear()
    assert int(retrieve_layers(second, back).sum()) == FULL
    assert fleet.calls["get"] == MODEL.layers
    assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])
    assert free_bytes(second) == free


def test_layers_are_absent_unless_asked_for(build_layered: Build, fleet: Fleet) -> None:
    """LMCache has no miss layer by layer, so that is off by default."""
    store_layers(build_layered(layerwise=True), random_kv())
    engine = build_layered()
    assert engine.lookup(TOKENS) == 0
    keys = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    assert not plugin_of(engine).contains(keys[0].split_layers(MODEL.layers)[0])
    assert plugin_of(engine).counters.snapshot()["miss_layerwise_disabled"] >= 2
    fleet.items.clear()
    store_layers(engine, random_kv())
    assert not fleet.items


def test_a_lost_layer_raises_and_never_comes_short(
    build_layered: Build, fleet: Fleet
) -> None:
    """Two objects of four would be wrong KV under a mask that says all is well."""
    engine = build_layered(layerwise=True)
    free = free_bytes(engine)
    store_layers(engine, random_kv())
    keys = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    lost = plugin_of(engine)._wire_key(keys[2].split_layers(MODEL.layers)[1])
    fleet.faults["get"] = Fault(Status.CHECKSUM, key=lost)
    back = torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    with pytest.raises(LayerLost, match="2 of 4 chunks of layer 1"):
        retrieve_layers(engine, back)
    held = MODEL.kv(CHUNK).numel() * 2 // MODEL.layers * 4  # layer 0, LMCache's to free
    assert free - free_bytes(engine) <= max(held, 4 * 4096)


def test_the_first_layer_counts_with_its_siblings(
    build_layered: Build, fleet: Fleet
) -> None:
    """LMCache asks for layer 0 alone before it takes all of them for granted."""
    engine = build_layered(layerwise=True)
    store_layers(engine, random_kv())
    keys = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    layers = keys[1].split_layers(MODEL.layers)
    plugin = plugin_of(engine)
    assert plugin.contains(layers[0])
    del fleet.values[plugin._wire_key(layers[3])]
    assert not plugin.contains(layers[0])
    back = torch.zeros(MODEL.kv(len(TOKENS))).to(MODEL.dtype)
    assert int(retrieve_layers(engine, back).sum()) == CHUNK


def test_async_layers_come_short_instead_of_raising(
    build_layered: Build, fleet: Fleet
) -> None:
    """A prefetch of layer keys has a miss path: a shorter prefix."""
    engine = build_layered(layerwise=True)
    store_layers(engine, random_kv())
    plugin = plugin_of(engine)
    [_, _, key], *_ = engine.token_database.process_tokens(TOKENS)
    layers = key.split_layers(MODEL.layers)
    del fleet.values[plugin._wire_key(layers[2])]
    coro = plugin.batched_get_non_blocking("r1", layers, {"cum_chunk_lengths": [0, 16]})
    found = asyncio.run_coroutine_threadsafe(coro, engine.storage_manager.loop).result(
        10
    )
    assert len(found) == 2
    for obj in found:
        obj.ref_count_down()
