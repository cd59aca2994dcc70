"""The bounded queue of puts: what it sends, what it drops, what it gives back."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import wait_until

from memkv_lmcache.errors import ConnectionLost, Status
from memkv_lmcache.landing import view
from memkv_lmcache.metrics import Counters
from memkv_lmcache.puts import PutQueue, PutTask

from .conftest import Arena, Make, drop, make_key, make_keys, store
from .fake import FakeClient, Fault, Fleet, Value

SIZE = 4096

MakeQueue = Callable[..., PutQueue]


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def queue(arena: Arena, counters: Counters) -> Iterator[MakeQueue]:
    """Makes queues on a fleet; ``fleet.faults`` are released at the end."""
    made: list[tuple[PutQueue, FakeClient]] = []

    def make(fleet: Fleet, max_bytes: int = 1 << 30, max_count: int = 1000) -> PutQueue:
        client = FakeClient(fleet)
        made.append(
            (
                PutQueue(
                    client,  # type: ignore[arg-type]
                    counters,
                    view,
                    max_bytes=max_bytes,
                    max_count=max_count,
                    timeout=10.0,
                ),
                client,
            )
        )
        return made[-1][0]

    yield make
    for one, client in made:
        client.close()
        assert one.close(10)


def tasks_of(objects: list[Any], first: int = 0) -> list[PutTask]:
    return [
        PutTask(key=b"key%d" % i, header=b"header", obj=obj, size=obj.get_size())
        for i, obj in enumerate(objects, start=first)
    ]


def test_what_is_absent_is_sent_with_its_header_and_hints(
    arena: Arena, queue: MakeQueue
) -> None:
    """Bytes, header, depth and group arrive as they were handed over."""
    fleet, [obj] = Fleet(), arena.objects(1)
    [task] = tasks_of([obj])
    task.depth, task.group = 3, 77
    [done] = queue(fleet).submit([task])
    assert done.result(10)
    assert fleet.values == {b"key0": Value(bytes(view(obj)), b"header", 3, 77)}
    drop([obj])


def test_what_is_present_with_this_header_moves_nothing(
    arena: Arena, queue: MakeQueue, counters: Counters
) -> None:
    """A stat batch comes first."""
    fleet, [obj] = Fleet(), arena.objects(1)
    fleet.values[b"key0"] = Value(b"old", b"header", 0, 0)
    [done] = queue(fleet).submit(tasks_of([obj]))
    assert done.result(10)
    assert fleet.calls == {"stat": 1}
    assert counters.snapshot()["put_present"] == 1
    drop([obj])


def test_another_header_replaces(arena: Arena, queue: MakeQueue) -> None:
    """Otherwise a changed layout would be a mismatch for ever."""
    fleet, [obj] = Fleet(), arena.objects(1)
    fleet.values[b"key0"] = Value(b"old", b"another", 0, 0)
    [done] = queue(fleet).submit(tasks_of([obj]))
    assert done.result(10)
    assert fleet.values[b"key0"].header == b"header"
    drop([obj])


@pytest.mark.parametrize("limit", ["bytes", "count"])
def test_a_full_queue_drops_and_never_waits(
    arena: Arena, queue: MakeQueue, counters: Counters, limit: str
) -> None:
    """Beyond its bound in bytes or in puts, a put is dropped and counted."""
    fleet, objects, gate = Fleet(), arena.objects(5), threading.Event()
    fleet.faults["stat"] = Fault(gate=gate)
    bound = {"max_bytes": 3 * SIZE} if limit == "bytes" else {"max_count": 3}
    puts = queue(fleet, **bound)
    begin = time.monotonic()
    futures = puts.submit(tasks_of(objects))
    assert time.monotonic() - begin < 5  # the gate is still closed
    assert [future.done() for future in futures] == [False] * 3 + [True] * 2
    assert [obj.get_ref_count() for obj in objects] == [2, 2, 2, 1, 1]
    gate.set()
    assert [future.result(10) for future in futures] == [True] * 3 + [False] * 2
    assert counters.snapshot()["put_dropped"] == 2
    assert puts.wait_idle(10)
    assert puts.submit(tasks_of(objects[3:], first=3))[0].result(10)
    drop(objects)


def test_a_put_under_way_is_not_queued_twice(arena: Arena, queue: MakeQueue) -> None:
    """The second caller hears of the first one's end."""
    fleet, objects, gate = Fleet(), arena.objects(2), threading.Event()
    fleet.faults["stat"] = Fault(gate=gate)
    puts = queue(fleet)
    [first] = puts.submit(tasks_of(objects[:1]))
    [second] = puts.submit(tasks_of(objects[1:]))
    assert second is first
    assert objects[1].get_ref_count() == 1
    gate.set()
    assert first.result(10)
    assert fleet.items["put"] == 1
    drop(objects)


@pytest.mark.parametrize("operation", ["stat", "put"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(Status.UNREACHABLE), id="down"),
        pytest.param(Fault(Status.FULL), id="full"),
        pytest.param(Fault(Status.TOO_LARGE), id="too large"),
        pytest.param(Fault(error=lambda: ValueError("boom")), id="raises"),
        pytest.param(
            Fault(error=lambda: ConnectionLost(Status.UNREACHABLE, "down")),
            id="raises ours",
        ),
    ],
)
def test_no_failure_leaks_memory(
    arena: Arena, queue: MakeQueue, operation: str, fault: Fault
) -> None:
    """Each failure a thousand times: every reference is given back."""
    fleet = Fleet(faults={operation: fault})
    puts, free = queue(fleet), arena.free()
    for _ in range(1000):
        objects = arena.objects(1)
        [done] = puts.submit(tasks_of(objects))
        drop(objects)
        assert done.result(10) is False
    assert puts.wait_idle(10)
    assert arena.free() == free
    assert not fleet.values


def test_a_failed_stat_spares_the_payload(
    arena: Arena, queue: MakeQueue, counters: Counters
) -> None:
    """A server that did not answer the question is not sent megabytes."""
    fleet = Fleet(faults={"stat": Fault(Status.TIMEOUT, key=b"key1")})
    objects = arena.objects(3)
    futures = queue(fleet).submit(tasks_of(objects))
    assert [future.result(10) for future in futures] == [True, False, True]
    assert fleet.items["put"] == 2
    assert counters.snapshot()["put_failed"] == 1
    drop(objects)


def test_an_object_lives_until_its_put_is_over(arena: Arena, queue: MakeQueue) -> None:
    """LMCache frees an object's memory when Python forgets it, whatever its count."""
    fleet, gate, free = Fleet(), threading.Event(), arena.free()
    fleet.faults["stat"] = Fault(gate=gate)
    objects = arena.objects(1)
    expected = bytes(view(objects[0]))
    [done] = queue(fleet).submit(tasks_of(objects))
    drop(objects)
    objects.clear()
    gc.collect()
    assert arena.free() < free
    gate.set()
    assert done.result(10)
    assert fleet.values[b"key0"].data == expected
    wait_until(lambda: arena.free() == free)


def test_pending_is_exact_under_concurrency(arena: Arena, queue: MakeQueue) -> None:
    """A key is pending from its submit to its future's end, and never longer."""
    fleet, objects = Fleet(), arena.objects(64)
    puts = queue(fleet)
    wrong: list[str] = []

    def put(first: int) -> None:
        for round_ in range(20):
            tasks = tasks_of(objects[first : first + 8], first=first)
            for task, done in zip(tasks, puts.submit(tasks), strict=True):
                done.result(10)
                if puts.pending(task.key) is not None:
                    wrong.append(f"{task.key!r} in round {round_}")

    threads = [threading.Thread(target=put, args=(first,)) for first in range(0, 64, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert puts.wait_idle(10)
    assert [obj.get_ref_count() for obj in objects] == [1] * 64
    drop(objects)


def test_close_sends_what_is_queued(arena: Arena) -> None:
    """What the engine stored before its end is not lost."""
    fleet, objects = Fleet(), arena.objects(100)
    client = FakeClient(fleet)
    puts = PutQueue(
        client,  # type: ignore[arg-type]
        Counters(),
        view,
        max_bytes=1 << 30,
        max_count=1000,
        timeout=10.0,
    )
    puts.submit(tasks_of(objects))
    assert puts.close(10)
    assert len(fleet.values) == 100
    assert puts.submit(tasks_of(objects[:1], first=200))[0].result(0) is False
    assert [obj.get_ref_count() for obj in objects] == [1] * 100
    drop(objects)


def test_close_gives_up_on_a_server_that_hangs(arena: Arena) -> None:
    """It is bounded; what was only queued is released, what is running is not."""
    gate = threading.Event()
    fleet = Fleet(faults={"stat": Fault(gate=gate, stubborn=True)})
    objects = arena.objects(100)
    puts = PutQueue(
        FakeClient(fleet),  # type: ignore[arg-type]
        Counters(),
        view,
        max_bytes=1 << 30,
        max_count=1000,
        timeout=10.0,
    )
    puts.submit(tasks_of(objects))
    wait_until(lambda: fleet.calls["stat"])
    assert not puts.close(0.05)
    assert {obj.get_ref_count() for obj in objects} == {1, 2}
    gate.set()
    assert puts.wait_idle(10)
    assert [obj.get_ref_count() for obj in objects] == [1] * 100
    drop(objects)


def test_the_plugin_answers_for_puts_under_way(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """exists_in_put_tasks is true exactly between submit and the end."""
    plugin, keys, objects = make(), make_keys(2), arena.objects(2)
    gate = threading.Event()
    fleet.faults["stat"] = Fault(gate=gate)
    assert not plugin.exists_in_put_tasks(keys[0])
    futures = plugin.batched_submit_put_task(keys[:1], objects[:1])
    assert futures is not None
    assert plugin.exists_in_put_tasks(keys[0])
    assert not plugin.exists_in_put_tasks(keys[1])
    gate.set()
    assert futures[0].result(10)
    assert not plugin.exists_in_put_tasks(keys[0])
    drop(objects)


def test_completion_is_told_for_each_key_that_is_stored(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """Once a key, not for failures, and a callback that raises harms nobody."""
    plugin, keys, objects = make(), make_keys(3), arena.objects(3)
    fleet.faults["put"] = Fault(Status.FULL, key=plugin._wire_key(keys[1]))
    told: list[Any] = []

    def complete(key: Any) -> None:
        told.append(key)
        raise RuntimeError("not ours")

    plugin.batched_submit_put_task(keys, objects, on_complete_callback=complete)
    assert plugin._puts.wait_idle(10)
    assert told == [keys[0], keys[2]]
    drop(objects)


def test_an_object_outside_the_arena_is_not_stored(
    make: Make, fleet: Fleet, arena: Arena
) -> None:
    """Compressed objects are plain bytes; no layout describes them."""
    from lmcache.v1.memory_management import BytesBufferMemoryObj

    plugin, keys, objects = make(), make_keys(2), arena.objects(1)
    futures = plugin.batched_submit_put_task(
        keys, [BytesBufferMemoryObj(b"abc"), *objects]
    )
    assert futures is not None
    assert [future.result(10) for future in futures] == [True]
    assert list(fleet.values) == [plugin._wire_key(keys[1])]
    assert plugin.counters.snapshot()["put_unsupported"] == 1
    drop(objects)


def test_depth_and_group_are_given_where_they_are_known(
    make: Make, arena: Arena, fleet: Fleet
) -> None:
    """Depth from the lookup before, 0 without one; all ranks share a group."""
    plugin, keys, objects = make(), make_keys(3), arena.objects(3)
    plugin.batched_contains(keys[:2], pin=True)
    store(plugin, keys, objects)
    values = [fleet.values[plugin._wire_key(key)] for key in keys]
    assert [value.depth for value in values] == [1, 2, 0]
    other_rank = make_key(keys[0].chunk_hash, worker=1)
    store(plugin, [other_rank], objects[:1])
    assert fleet.values[plugin._wire_key(other_rank)].group == values[0].group != 0
    assert values[0].group != values[1].group
    drop(objects)
