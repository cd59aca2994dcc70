"""Loading into the engine's own memory, and giving all of it back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch

from memkv_lmcache import landing as landing_module
from memkv_lmcache.errors import ConnectionLost, Status
from memkv_lmcache.header import ShapeHeader, Tensor, pack

from .conftest import CHUNK, MODEL, Arena, Make, drop, make_keys, make_metadata, store
from .fake import Fault, Fleet

#: Every way a load can go wrong, with the reason it is counted for.
FAILURES: dict[str, tuple[Fault, str]] = {
    "absent": (Fault(Status.NOT_FOUND), "absent"),
    "timeout": (Fault(Status.TIMEOUT), "timeout"),
    "server_down": (Fault(Status.UNREACHABLE), "server_down"),
    "reset": (Fault(Status.DISCONNECTED), "server_down"),
    "checksum": (Fault(Status.CHECKSUM), "checksum"),
    "auth": (Fault(Status.AUTH), "auth"),
    "busy": (Fault(Status.BUSY), "server_busy"),
    "no header": (Fault(header=b""), "header_mismatch"),
    "noise for a header": (Fault(header=b"\xff" * 100), "header_mismatch"),
    "raises": (Fault(error=lambda: ValueError("boom")), "internal"),
    "raises ours": (
        Fault(error=lambda: ConnectionLost(Status.UNREACHABLE, "down")),
        "server_down",
    ),
}


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x.tensor, y.tensor) for x, y in zip(a, b, strict=True))


def test_full_chunks_load_in_one_round_trip(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """The shape of a full chunk is known, so nothing is asked before the get."""
    plugin, keys, objects = make(), make_keys(4), arena.objects(4)
    store(plugin, keys, objects)
    fleet.calls.clear()
    found = plugin.batched_get_blocking(keys)
    assert same(found, objects)
    assert fleet.calls == {"get": 1}
    drop(found + objects)


def test_a_partial_chunk_loads_by_its_header(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """The last chunk of a prompt is shorter, and comes back with its own shape."""
    plugin, keys = make(), make_keys(3)
    objects = arena.objects(2) + arena.objects(1, tokens=5)
    store(plugin, keys, objects)
    found = plugin.batched_get_blocking(keys)
    assert same(found, objects)
    assert found[2].get_shape() == MODEL.kv(5)
    drop(found + objects)


def test_several_tensors_per_chunk_come_back_as_stored(
    make: Make, arena: Arena
) -> None:
    """Shapes and dtypes are lists; groups of a hybrid model differ in both."""
    shapes = [torch.Size([2, 3, CHUNK, 8]), torch.Size([1, 2, CHUNK, 4])]
    dtypes = [torch.float16, torch.bfloat16]
    metadata = make_metadata()
    metadata.get_shapes = lambda tokens=None: shapes
    metadata.get_dtypes = lambda: dtypes
    plugin, [key] = make(metadata=metadata), make_keys(1)
    obj = arena.backend.allocate(shapes, dtypes, busy_loop=False)
    assert obj is not None
    obj.raw_tensor.random_()
    store(plugin, [key], [obj])
    found = plugin.get_blocking(key)
    assert found.get_shapes() == shapes
    assert found.get_dtypes() == dtypes
    assert torch.equal(found.raw_tensor, obj.raw_tensor)
    drop([found, obj])


def test_a_long_key_text_costs_a_round_trip_only(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """A header larger than the room of the first get is fetched by itself."""
    from lmcache.utils import CacheEngineKey

    plugin = make()
    key = CacheEngineKey("m" * 3000, 1, 0, 7, torch.float16)
    objects = arena.objects(1)
    store(plugin, [key], objects)
    found = plugin.get_blocking(key)
    assert same([found], objects)
    drop([found, *objects])


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_load_ends_at_its_first_gap(
    make: Make, arena: Arena, fleet: Fleet, at: int
) -> None:
    """Exactly len(keys) entries, None from the first that is missing: no holes."""
    plugin, keys, objects = make(), make_keys(4), arena.objects(4)
    store(plugin, keys, objects)
    del fleet.values[plugin._wire_key(keys[at])]
    free = arena.free()
    found = plugin.batched_get_blocking(keys)
    assert len(found) == 4
    assert same(found[:at], objects[:at])
    assert found[at:] == [None] * (4 - at)
    drop(found)
    assert arena.free() == free
    drop(objects)


def test_a_prefix_larger_than_the_arena_loads_as_far_as_it_fits(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """Allocation fails at some point; what came before it is the answer."""
    plugin, objects = make(), arena.objects(1)
    [key] = make_keys(1)
    store(plugin, [key], objects)
    drop(objects)
    value = fleet.values[plugin._wire_key(key)]
    count = arena.free() // 4096 + 50
    keys = make_keys(count)
    header = plugin_header(plugin)
    for each in keys:
        wire = plugin._wire_key(each)
        fleet.values[wire] = type(value)(value.data, pack(header, wire), 0, 0)
    free = arena.free()
    found = plugin.batched_get_blocking(keys)
    landed = [obj for obj in found if obj is not None]
    assert 0 < len(landed) < count
    assert found[len(landed) :] == [None] * (count - len(landed))
    assert plugin.counters.snapshot()["miss_no_memory"] == 1
    drop(found)
    assert arena.free() == free


def plugin_header(plugin: Any) -> ShapeHeader:
    shape = tuple(MODEL.kv(CHUNK))
    tensor = Tensor("float16", shape)
    return ShapeHeader(tensor.nbytes, 1, (tensor,), "")


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_leaks_memory(
    make: Make, arena: Arena, fleet: Fleet, name: str
) -> None:
    """Each failure a thousand times, and the allocator has every byte back."""
    fault, reason = FAILURES[name]
    plugin, keys, objects = make(), make_keys(3), arena.objects(3)
    store(plugin, keys, objects)
    drop(objects)
    free = arena.free()
    fault.key = plugin._wire_key(keys[1])
    fleet.faults["get"] = fault
    for _ in range(1000):
        found = plugin.batched_get_blocking(keys)
        drop(found)
        assert found[1:] == [None, None]
    assert arena.free() == free
    assert plugin.counters.snapshot()[f"miss_{reason}"] == 1000


def test_no_memory_leaks_none(make: Make, arena: Arena, monkeypatch: Any) -> None:
    """An allocator that refuses, or raises, at the second object of three."""
    plugin, keys, objects = make(), make_keys(3), arena.objects(3)
    store(plugin, keys, objects)
    drop(objects)
    free, allocate = arena.free(), arena.backend.allocate
    calls = 0

    def refusing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2:
            return allocate(*args, **kwargs)
        if calls % 4:
            raise ValueError("no such format")
        return None

    monkeypatch.setattr(arena.backend, "allocate", refusing)
    for _ in range(1000):
        drop(plugin.batched_get_blocking(keys))
    assert arena.free() == free


def test_a_batch_larger_than_the_arena_never_waits_in_the_allocator(
    make: Make, arena: Arena, monkeypatch: Any
) -> None:
    """LMCache's allocators wait for ever unless told not to."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    store(plugin, keys, objects)
    asked = []
    allocate = arena.backend.allocate

    def spy(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["busy_loop"])
        return allocate(*args, **kwargs)

    monkeypatch.setattr(arena.backend, "allocate", spy)
    drop(plugin.batched_get_blocking(keys) + objects)
    assert asked == [False, False]


def test_what_lands_too_late_goes_back_to_the_allocator(
    make: Make, arena: Arena, fleet: Fleet, monkeypatch: Any
) -> None:
    """The engine goes on at its deadline; the memory is free once the run returns."""
    monkeypatch.setattr(landing_module, "GRACE", 0.0)
    plugin, keys, objects = make(load_timeout_s=0.05), make_keys(2), arena.objects(2)
    store(plugin, keys, objects)
    drop(objects)
    free = arena.free()
    gate = threading.Event()
    fleet.faults["get"] = Fault(gate=gate, stubborn=True)
    assert plugin.batched_get_blocking(keys) == [None, None]
    assert arena.free() < free  # still lent to the run
    gate.set()
    assert plugin._loads.wait_idle(10)
    assert arena.free() == free
    assert plugin.counters.snapshot()["miss_timeout"] == 1


def test_a_load_that_waited_too_long_for_a_thread_is_not_begun(
    make: Make, arena: Arena, fleet: Fleet, monkeypatch: Any
) -> None:
    """Nobody waits for it any more, so it takes no memory and asks no server."""
    monkeypatch.setattr(landing_module, "GRACE", 0.0)
    plugin, keys, objects = make(load_timeout_s=0.05), make_keys(1), arena.objects(1)
    store(plugin, keys, objects)
    drop(objects)
    gate = threading.Event()
    fleet.faults["get"] = Fault(gate=gate, stubborn=True)
    for _ in range(3):  # one more than there are threads
        assert plugin.batched_get_blocking(keys) == [None]
    gate.set()
    assert plugin._loads.wait_idle(10)
    assert fleet.calls["get"] == 2


def test_a_cancelled_wait_gives_the_memory_back(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """An event loop that shuts down cancels the task that waits for the load."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    store(plugin, keys, objects)
    drop(objects)
    free = arena.free()
    gate = threading.Event()
    fleet.faults["get"] = Fault(gate=gate, stubborn=True)

    async def cancel() -> None:
        task = asyncio.create_task(plugin.batched_get_non_blocking("id", keys, {}))
        while not fleet.calls["get"]:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    gate.set()
    assert plugin._loads.wait_idle(10)
    assert arena.free() == free


def test_a_value_of_another_layout_is_a_miss(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """The same bytes under another shape would be wrong KV."""
    plugin, [key], objects = make(), make_keys(1), arena.objects(1)
    store(plugin, [key], objects)
    wire = plugin._wire_key(key)
    value = fleet.values[wire]
    turned = Tensor("float16", (2, CHUNK, MODEL.layers, 16))
    value.header = pack(ShapeHeader(turned.nbytes, 1, (turned,), ""), wire)
    free = arena.free()
    assert plugin.get_blocking(key) is None
    assert not plugin.contains(key)
    assert arena.free() == free
    assert plugin.counters.snapshot()["miss_header_mismatch"] == 2
    drop(objects)


def test_a_value_replaced_between_two_gets_is_a_miss(
    make: Make, arena: Arena, fleet: Fleet, monkeypatch: Any
) -> None:
    """The memory was laid out for what the first get found."""
    plugin, [key] = make(), make_keys(1)
    objects = arena.objects(1, tokens=5) + arena.objects(1, tokens=4)
    wire = plugin._wire_key(key)
    store(plugin, [key], objects[1:])
    shorter = fleet.values.pop(wire)
    store(plugin, [key], objects[:1])
    free, get = arena.free(), plugin._client.get_many_into

    def replacing(*args: Any, **kwargs: Any) -> Any:
        results = get(*args, **kwargs)
        fleet.values[wire] = shorter
        return results

    monkeypatch.setattr(plugin._client, "get_many_into", replacing)
    assert plugin.get_blocking(key) is None
    assert plugin.counters.snapshot()["miss_header_mismatch"] == 1
    assert arena.free() == free
    drop(objects)


def test_a_header_that_lies_about_the_length_is_a_miss(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """Its tensors need more bytes than the value has."""
    plugin, [key], objects = make(), make_keys(1), arena.objects(1)
    store(plugin, [key], objects)
    value = fleet.values[plugin._wire_key(key)]
    value.data = value.data[:-2]
    free = arena.free()
    assert plugin.get_blocking(key) is None
    assert arena.free() == free
    drop(objects)
