"""Counting prefixes: in one batch, within a budget, and never with an exception."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from memkv_lmcache.errors import Status
from memkv_lmcache.header import ShapeHeader, Tensor, pack

from .conftest import MODEL, Arena, Make, drop, make_key, make_keys, store
from .fake import Fault, Fleet, Value


def fill(plugin: Any, fleet: Fleet, keys: list[Any]) -> None:
    """Puts values under ``keys`` without moving any bytes."""
    tensor = Tensor("float16", tuple(MODEL.kv(16)))
    header = ShapeHeader(tensor.nbytes, 1, (tensor,), "")
    data = bytes(tensor.nbytes)
    for key in keys:
        wire = plugin._wire_key(key)
        fleet.values[wire] = Value(data, pack(header, wire), 0, 0)


def test_a_fresh_process_sees_everything(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """The fleet is asked, not a memory of one's own puts."""
    keys, objects = make_keys(3), arena.objects(3)
    store(make(), keys, objects)
    fresh = make()
    assert fresh.contains(keys[1])
    assert fresh.batched_contains(keys) == 3
    assert not fresh.contains(make_key(999))
    drop(objects)


@pytest.mark.parametrize("pin", [False, True])
def test_twelve_thousand_keys_are_one_call(make: Make, fleet: Fleet, pin: bool) -> None:
    """A long context with small chunks, as it happens."""
    plugin, keys = make(lookup_timeout_ms=5000), make_keys(12_000)
    fill(plugin, fleet, keys[:11_500])
    assert plugin.batched_contains(keys, pin) == 11_500
    assert fleet.calls == {"stat": 1}
    assert fleet.items == {"stat": 12_000}


@pytest.mark.parametrize("gap", [0, 1, 5])
def test_a_hit_is_a_prefix(make: Make, fleet: Fleet, gap: int) -> None:
    """What stands behind the first gap does not count."""
    plugin, keys = make(), make_keys(6)
    fill(plugin, fleet, keys[:gap] + keys[gap + 1 :])
    assert plugin.batched_contains(keys) == gap
    assert plugin.counters.snapshot() == {"lookup_hits": gap, "miss_absent": 1}


def test_long_headers_cost_a_round_trip_only(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """The room for each header is small, since there are thousands of them."""
    plugin, objects = make(), arena.objects(3)
    keys = [make_key(i, model="m" * 3000) for i in range(3)]
    store(plugin, keys, objects)
    drop(objects)
    fleet.calls.clear()
    assert plugin.batched_contains([*keys, make_key(9)]) == 3
    assert fleet.calls == {"stat": 2}


@pytest.mark.parametrize("damage", ["layout", "text", "another key's"])
def test_every_header_is_judged_by_itself(
    make: Make, fleet: Fleet, damage: str
) -> None:
    """Thousands are alike and only the first is unpacked; the odd one is found."""
    plugin, keys = make(), make_keys(6)
    fill(plugin, fleet, keys)
    wire = [plugin._wire_key(key) for key in keys]
    odd = fleet.values[wire[4]]
    if damage == "layout":
        turned = Tensor("float16", (2, 16, MODEL.layers, 16))
        odd.header = pack(ShapeHeader(turned.nbytes, 1, (turned,), ""), wire[4])
    elif damage == "text":
        odd.header = odd.header[:-9] + b"?" + odd.header[-8:]
    else:
        odd.header = fleet.values[wire[3]].header
    assert plugin.batched_contains(keys) == 4
    assert plugin.counters.snapshot()["miss_header_mismatch"] == 1


def test_no_keys_are_no_question(make: Make, fleet: Fleet) -> None:
    plugin = make()
    assert plugin.batched_contains([]) == 0
    assert plugin.batched_get_blocking([]) == []
    assert plugin.batched_submit_put_task([], []) == []
    assert plugin.batched_remove([]) == 0
    assert not fleet.items.total()


def test_only_a_lookup_with_pin_leases(make: Make, fleet: Fleet) -> None:
    """The lease runs out by itself: unpin asks nobody anything."""
    plugin, [key] = make(lease_ms=777), make_keys(1)
    fill(plugin, fleet, [key])
    value = fleet.values[plugin._wire_key(key)]
    plugin.contains(key)
    plugin.batched_contains([key])
    assert value.leased_ms == 0
    assert plugin.pin(key)
    assert value.leased_ms == 777
    fleet.calls.clear()
    assert plugin.unpin(key)
    assert not fleet.calls


def test_pin_of_an_absent_key_says_so(make: Make) -> None:
    assert not make().pin(make_key(1))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.UNREACHABLE, "server_down"),
        (Status.TIMEOUT, "timeout"),
        (Status.AUTH, "auth"),
        (Status.BUSY, "server_busy"),
    ],
)
def test_a_failed_lookup_is_a_miss_with_its_reason(
    make: Make, fleet: Fleet, status: Status, reason: str
) -> None:
    plugin, keys = make(), make_keys(3)
    fill(plugin, fleet, keys)
    fleet.faults["stat"] = Fault(status, key=plugin._wire_key(keys[1]))
    assert plugin.batched_contains(keys) == 1
    assert plugin.counters.snapshot()[f"miss_{reason}"] == 1


def test_a_lookup_that_raises_is_a_miss(make: Make, fleet: Fleet) -> None:
    plugin, [key] = make(), make_keys(1)
    fleet.faults["stat"] = Fault(error=lambda: ValueError("boom"))
    assert not plugin.contains(key)
    assert asyncio.run(plugin.batched_async_contains("id", [key])) == 0
    assert plugin.counters.snapshot()["miss_internal"] == 2


def test_a_lookup_keeps_its_budget(make: Make, fleet: Fleet) -> None:
    """A silent server costs lookup_timeout_ms, then it is a miss."""
    plugin, keys = make(lookup_timeout_ms=50), make_keys(3)
    fleet.faults["stat"] = Fault(gate=threading.Event())
    begin = time.monotonic()
    assert plugin.batched_contains(keys) == 0
    assert 0.04 < time.monotonic() - begin < 5
    assert plugin.counters.snapshot()["miss_timeout"] == 1


def test_a_lookup_waits_for_a_put_of_its_own_process(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """What was stored a moment ago is found, though puts are asynchronous."""
    plugin, keys, objects = (
        make(lookup_timeout_ms=10_000),
        make_keys(3),
        arena.objects(3),
    )
    gate = threading.Event()
    fleet.faults["put"] = Fault(gate=gate)
    plugin.batched_submit_put_task(keys, objects)
    drop(objects)
    threading.Timer(0.05, gate.set).start()
    assert plugin.batched_contains(keys) == 3
    # a server that takes no put: a miss when the put has failed, and no later
    fleet.values.clear()
    objects = arena.objects(3)
    fleet.faults["put"] = Fault(Status.FULL)
    plugin.batched_submit_put_task(keys, objects)
    drop(objects)
    assert plugin.batched_contains(keys) == 0


def test_an_async_lookup_does_not_hold_up_its_loop(make: Make, fleet: Fleet) -> None:
    """LMCache runs all requests on one event loop."""
    plugin, keys, gate = make(lookup_timeout_ms=10_000), make_keys(3), threading.Event()
    fill(plugin, fleet, keys)
    fleet.faults["stat"] = Fault(gate=gate)

    async def both() -> int:
        task = asyncio.create_task(plugin.batched_async_contains("id", keys, True))
        while not fleet.calls["stat"]:
            await asyncio.sleep(0.001)
        gate.set()  # runs only if the loop goes on meanwhile
        return await task

    assert asyncio.run(both()) == 3


@pytest.mark.parametrize(
    ("local_cpu", "pin", "known"),
    [(False, True, True), (False, False, False), (True, True, False)],
)
def test_depths_are_sent_only_where_they_are_true(
    make: Make, fleet: Fleet, local_cpu: bool, pin: bool, known: bool
) -> None:
    """Behind a hot cache, or in a retrieve, the first key may be any chunk."""
    plugin, keys = make(), make_keys(3)
    plugin.local_cpu_backend.use_hot = local_cpu
    plugin.batched_contains(keys, pin)
    assert fleet.depths == [range(1, 4) if known else None]


def test_nothing_is_asked_of_a_closed_plugin(make: Make, fleet: Fleet) -> None:
    """LMCache may still call it; every answer is a miss."""
    plugin, keys = make(), make_keys(2)
    fill(plugin, fleet, keys)
    plugin.close()
    plugin.close()
    assert plugin.batched_contains(keys) == 0
    assert plugin.batched_get_blocking(keys) == [None, None]
    assert asyncio.run(plugin.batched_async_contains("id", keys)) == 0
    assert asyncio.run(plugin.batched_get_non_blocking("id", keys)) == []
    assert not plugin.remove(keys[0])
