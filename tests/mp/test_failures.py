"""Servers that stop, die or never were: every task is answered in time."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from client.serving import MIB, process, served
from support import wait_until

from memkv_lmcache.client import Client

from .conftest import (
    Controller,
    Make,
    contents,
    layout,
    make_keys,
    make_objects,
    timed,
    wait_readable,
)

#: Seconds that a busy machine may add to any time-out.
SLACK = 1.0
GRACE = 1.0

Server = tuple[str, "subprocess.Popen[str]"]


@pytest.fixture
def other() -> Iterator[Server]:
    """A server in a process of its own, for one test to stop or to kill."""
    with process() as (address, child):
        yield address, child
        child.send_signal(signal.SIGCONT)


def big(count: int, seed: int | None = None) -> list[Any]:
    return make_objects(count, (MIB,), torch.uint8, seed=seed)


def missed(control: Controller, reason: str) -> int:
    return int(control.adapter.counters.snapshot().get(f"miss_{reason}", 0))


# ---- stopped -------------------------------------------------------------------------


def test_lookups_of_a_stopped_server_are_answered(make: Make, other: Server) -> None:
    """All at once and each in its time, though threads are few."""
    address, child = other
    control = Controller(make(servers=address, lookup_timeout_ms=50))
    keys = make_keys(4)
    control.store(keys, make_objects(4, seed=1))
    child.send_signal(signal.SIGSTOP)
    adapter = control.adapter

    def lookups() -> list[Any]:
        tasks = [adapter.submit_lookup_and_lock_task(keys, {}) for _ in range(20)]
        results: dict[int, Any] = {}
        while len(results) < len(tasks):
            wait_readable(adapter.get_lookup_and_lock_event_fd())
            for task in tasks:
                result = adapter.query_lookup_and_lock_result(task)
                if result is not None:
                    results[task] = result
        return list(results.values())

    results, took = timed(lookups)
    assert took < 0.05 + SLACK
    assert not any(result.popcount() for result in results)
    assert missed(control, "timeout") + missed(control, "server_down") == 80


def test_transfers_with_a_stopped_server_fail_in_time(
    make: Make, other: Server
) -> None:
    """Also those that wait in the queue.  Whatever the server sends when it goes on,
    nothing lands in an object whose load was reported."""
    address, child = other
    adapter = make(
        servers=address, load_failure_grace_s=GRACE, num_workers=1, blocks_per_op=2
    )
    control = Controller(adapter)
    keys = make_keys(8)
    assert control.store(keys, big(8, seed=1)).is_successful()
    child.send_signal(signal.SIGSTOP)
    back = big(8)
    new = make_keys(4, cache_salt="new")
    store = adapter.submit_store_task(new, big(4, seed=2))
    loaded, took = timed(lambda: control.load(keys, back))
    assert loaded == [False] * 8
    assert took < GRACE + SLACK
    wait_readable(adapter.get_store_event_fd(), timeout=SLACK)
    assert not adapter.pop_completed_store_tasks()[store].is_successful()
    reported = contents(back)
    child.send_signal(signal.SIGCONT)
    again = Controller(make(servers=address))
    last = big(8)
    assert again.load(keys, last) == [True] * 8
    assert contents(last) == contents(big(8, seed=1))
    assert contents(back) == reported


def test_a_close_does_not_wait_for_a_stopped_server(make: Make, other: Server) -> None:
    """And nothing lands after it: LMCache frees the memory next."""
    address, child = other
    adapter = make(servers=address, load_failure_grace_s=60)
    control = Controller(adapter)
    keys = make_keys(4)
    control.store(keys, big(4, seed=1))
    child.send_signal(signal.SIGSTOP)
    back = big(4)
    adapter.submit_load_task(keys, back)
    adapter.submit_store_task(make_keys(4, cache_salt="new"), big(4, seed=2))
    adapter.submit_lookup_and_lock_task(keys, {})
    _, took = timed(adapter.close)
    assert took < 5
    closed = contents(back)
    child.send_signal(signal.SIGCONT)
    assert Controller(make(servers=address)).load(keys, big(4)) == [True] * 4
    assert contents(back) == closed


# ---- killed --------------------------------------------------------------------------


def test_a_server_that_dies_between_lookup_and_load(make: Make, other: Server) -> None:
    """The load is a miss at once, and so is the next lookup."""
    address, child = other
    control = Controller(make(servers=address))
    keys = make_keys(4)
    control.store(keys, make_objects(4, seed=1))
    assert control.lookup(keys) == [True] * 4
    child.kill()
    child.wait()
    loaded, took = timed(lambda: control.load(keys, make_objects(4)))
    assert loaded == [False] * 4
    assert took < SLACK
    found, took = timed(lambda: control.lookup(keys))
    assert found == [False] * 4
    assert took < SLACK
    assert not control.store(keys, make_objects(4, seed=1)).is_successful()
    assert not control.adapter.report_status()["is_healthy"]


def test_a_server_that_dies_in_the_middle_of_loads(make: Make, other: Server) -> None:
    """Each load is answered, and what it says is loaded is right."""
    address, child = other
    adapter = make(servers=address, load_failure_grace_s=5, blocks_per_op=4)
    control = Controller(adapter)
    keys, wanted = make_keys(24), contents(big(24, seed=1))
    assert control.store(keys, big(24, seed=1)).is_successful()
    backs = [big(24) for _ in range(8)]
    tasks = [adapter.submit_load_task(keys, back) for back in backs]
    wait_until(lambda: adapter.counters.snapshot().get("get_hits", 0) >= 4)
    child.kill()

    def collect() -> list[list[bool]]:
        bits: dict[int, list[bool]] = {}
        while len(bits) < len(tasks):
            wait_readable(adapter.get_load_event_fd())
            for i, task in enumerate(tasks):
                bitmap = adapter.query_load_result(task)
                if bitmap is not None:
                    bits[i] = [bitmap.test(n) for n in range(24)]
        return [bits[i] for i in range(len(tasks))]

    results, took = timed(collect)
    assert took < 5 + SLACK
    assert not all(all(bits) for bits in results)
    for bits, back in zip(results, backs, strict=True):
        for hit, data, right in zip(bits, contents(back), wanted, strict=True):
            assert not hit or data == right


def test_a_fleet_that_is_down_fails_no_start_and_comes_back(
    make: Make, tmp_path: Path
) -> None:
    """Until there is a server everything is a miss; then it works by itself."""
    address = f"unix:{tmp_path}/s"
    control = Controller(make(servers=address))
    keys, objects = make_keys(2), make_objects(2, seed=1)
    assert control.lookup(keys) == [False, False]
    assert control.load(keys, make_objects(2)) == [False, False]
    assert not control.store(keys, objects).is_successful()
    with served(address):
        wait_until(lambda: control.store(keys, objects).is_successful(), timeout=20)
        assert control.lookup(keys) == [True, True]
        assert control.adapter.report_status()["is_healthy"]


# ---- late ----------------------------------------------------------------------------


def test_a_lookup_is_answered_even_if_the_library_hangs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a deadline of its own; what comes later changes nothing."""
    control = Controller(make(lookup_timeout_ms=50))
    gate = threading.Event()
    asked = Client.stat_many

    def hang(*args: Any, **named: Any) -> Any:
        gate.wait(20)
        return asked(*args, **named)

    monkeypatch.setattr(Client, "stat_many", hang)
    found, took = timed(lambda: control.lookup(make_keys(3)))
    assert found == [False] * 3
    assert took < 0.05 + SLACK
    gate.set()
    assert control.adapter._lookups.wait_idle(10)
    with pytest.raises(AssertionError, match="nothing reported"):
        wait_readable(control.adapter.get_lookup_and_lock_event_fd(), timeout=0.01)
    assert missed(control, "timeout") == 3


def test_what_is_known_in_time_is_answered(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many keys the first chunks of all ranks are asked for first, so that a slow
    answer is a shorter prefix and not none."""
    control = Controller(make())
    rows = [make_keys(1500, kv_rank=(2 << 24) | rank) for rank in range(2)]
    stored = [row[n] for n in (0, 700, 1400) for row in rows]
    control.store(stored, make_objects(6, seed=1))
    slow = Controller(make(lookup_timeout_ms=1000))
    gate, calls = threading.Event(), []
    asked = Client.stat_many

    def hang_later(*args: Any, **named: Any) -> Any:
        calls.append(args)
        if len(calls) > 1:
            gate.wait(20)
        return asked(*args, **named)

    monkeypatch.setattr(Client, "stat_many", hang_later)
    keys = rows[0] + rows[1]
    found = slow.lookup(keys)
    gate.set()
    hits = [key for key, hit in zip(keys, found, strict=True) if hit]
    assert hits == [rows[0][0], rows[0][700], rows[1][0], rows[1][700]]


def test_a_usual_request_fits_the_default_budget(make: Make) -> None:
    """Hundreds of objects are looked up in less than 50 ms."""
    control = Controller(make(lookup_timeout_ms=50))
    keys = make_keys(256)
    control.store(keys, make_objects(256, seed=1))
    # not at the first try on a busy machine
    wait_until(lambda: control.lookup(keys, layout()) == [True] * 256)


# ---- leases --------------------------------------------------------------------------


@pytest.mark.parametrize("lease_ms", [60_000, 1, 0])
def test_a_lock_is_a_lease(make: Make, lease_ms: int) -> None:
    """What a lookup found outlives a flood of stores, until the lease has run out: a
    client that died holds nothing for ever."""
    with served(memory=16 * MIB) as server:
        control = Controller(make(servers=server.address, lease_ms=lease_ms))
        keys = make_keys(3)
        control.store(keys, big(3, seed=1))
        assert control.lookup(keys, {}) == [True] * 3
        for i in range(8):
            control.store(make_keys(4, cache_salt=f"flood-{i}"), big(4, seed=2))
        back = big(3)
        assert control.load(keys, back) == [lease_ms > 1] * 3
        if lease_ms > 1:
            assert contents(back) == contents(big(3, seed=1))
