"""The adapter as LMCache's controllers use it, on a real server."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch
from lmcache.v1.distributed.internal_api import L2AdapterListener

from memkv_lmcache import Client
from memkv_lmcache.l2_adapter import MemKVL2Adapter

from .conftest import (
    SIZE,
    Controller,
    Make,
    contents,
    make_keys,
    make_objects,
    timed,
    wait_readable,
)


class Listener(L2AdapterListener):  # type: ignore[misc]
    """Remembers what it hears, and may raise."""

    def __init__(self, raises: bool = False) -> None:
        self.heard: list[tuple[str, list[Any], list[int]]] = []
        self._raises = raises

    def on_l2_keys_stored(self, keys: list[Any], sizes: list[int]) -> None:
        self._hear("stored", keys, sizes)

    def on_l2_keys_accessed(self, keys: list[Any]) -> None:
        self._hear("accessed", keys, [])

    def on_l2_keys_deleted(self, keys: list[Any]) -> None:
        self._hear("deleted", keys, [])

    def _hear(self, what: str, keys: list[Any], sizes: list[int]) -> None:
        self.heard.append((what, keys, sizes))
        if self._raises:
            raise RuntimeError("a listener of LMCache")


# ---- the way there and back ----------------------------------------------------------


def test_what_was_stored_comes_back(make: Make) -> None:
    """Byte for byte, in tasks of several batches, through another adapter."""
    keys, objects, back = make_keys(12), make_objects(12, seed=1), make_objects(12)
    result = Controller(make(blocks_per_op=5)).store(keys, objects)
    assert result.is_successful()
    assert result.bytes_transferred() == 12 * SIZE
    other = Controller(make(blocks_per_op=5, num_workers=2))
    assert other.lookup(keys) == [True] * 12
    assert other.load(keys, back) == [True] * 12
    assert contents(back) == contents(objects)


def test_each_key_has_its_own_answer(control: Controller) -> None:
    """Keys that are absent leave holes in lookups and loads."""
    keys, objects = make_keys(8), make_objects(8, seed=1)
    control.store(keys[1::2], objects[1::2])
    wanted = [False, True] * 4
    assert control.lookup(keys) == wanted
    back = make_objects(8)
    assert control.load(keys, back) == wanted
    assert contents(back)[1::2] == contents(objects)[1::2]


def test_values_land_in_the_objects_own_memory(control: Controller) -> None:
    """No byte beside an object is touched: neighbours in the arena keep theirs."""
    keys, objects, back = make_keys(3), make_objects(3, seed=1), make_objects(3, seed=2)
    control.store(keys, objects)
    assert control.load(keys[1:2], back[1:2]) == [True]
    before = contents(make_objects(3, seed=2))
    assert contents(back) == [before[0], contents(objects)[1], before[2]]


def test_objects_of_one_task_may_differ_in_size(control: Controller) -> None:
    """As those of several groups do."""
    keys = make_keys(1) + make_keys(1, object_group_id=1)
    shapes = [(2, 8), (3, 5, 7)]
    objects = [make_objects(1, shape, seed=3)[0] for shape in shapes]
    back = [make_objects(1, shape)[0] for shape in shapes]
    assert control.store(keys, objects).is_successful()
    assert control.load(keys, back) == [True, True]
    assert contents(back) == contents(objects)


def test_an_empty_task_is_answered(control: Controller) -> None:
    """With nothing, but it is."""
    assert control.store([], []).is_successful()
    assert control.lookup([]) == []
    assert control.load([], []) == []


@pytest.mark.parametrize(
    "change",
    [
        {"cache_salt": "tenant-b"},
        {"kv_rank": 0x0101_0101},
        {"object_group_id": 1},
        {"model_name": "org/model-b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_objects_of_another_name_never_meet(
    control: Controller, change: dict[str, Any]
) -> None:
    """Two salts, ranks, groups or models have nothing in common."""
    control.store(make_keys(2), make_objects(2, seed=1))
    others = make_keys(2, **change)
    assert control.lookup(others, {}) == [False, False]
    assert control.load(others, make_objects(2)) == [False, False]
    control.store(others, make_objects(2, seed=2))
    back = make_objects(2)
    assert control.load(make_keys(2), back) == [True, True]
    assert contents(back) == contents(make_objects(2, seed=1))


def test_prefixes_never_meet(make: Make) -> None:
    """What one deployment stores, another does not see."""
    keys = make_keys(2)
    Controller(make(prefix="fleet-a")).store(keys, make_objects(2, seed=1))
    assert Controller(make(prefix="fleet-b")).lookup(keys) == [False, False]


def test_thousands_of_keys_are_one_lookup(control: Controller) -> None:
    """Rows of ranks come one behind the other; all are answered."""
    chunks, ranks = 1500, 8
    rows = [make_keys(chunks, kv_rank=(ranks << 24) | rank) for rank in range(ranks)]
    stored = [rows[0][0], rows[3][700], rows[7][1499]]
    control.store(stored, make_objects(3, seed=1))
    keys = [key for row in rows for key in row]
    found = control.lookup(keys)
    assert len(found) == chunks * ranks
    assert [key for key, hit in zip(keys, found, strict=True) if hit] == stored


# ---- stores --------------------------------------------------------------------------


def test_a_store_of_what_is_there_moves_nothing(make: Make) -> None:
    """It succeeds, and LMCache hears of an access, never of a store of no bytes."""
    keys, objects = make_keys(4), make_objects(4, seed=1)
    Controller(make()).store(keys[:3], objects[:3])
    control, listener = Controller(make()), Listener()
    control.adapter.register_listener(listener)
    result = control.store(keys, objects)
    assert result.is_successful()
    assert result.bytes_transferred() == SIZE
    control.adapter.close()
    assert listener.heard == [
        ("stored", keys[3:], [SIZE]),
        ("accessed", keys[:3], []),
    ]


def test_a_store_fails_if_one_object_is_not_stored(control: Controller) -> None:
    """A value that no server takes fails its task; the others are stored."""
    keys = make_keys(3)
    objects = make_objects(3, seed=1)
    # over a quarter of the server's memory
    objects[1] = make_objects(1, (80 << 20,), torch.uint8)[0]
    assert not control.store(keys, objects).is_successful()
    assert control.lookup(keys, {}) == [True, False, True]


def test_a_store_fails_without_a_layout_that_can_be_told(control: Controller) -> None:
    """An object that is none of LMCache's fails its task, and nothing raises."""
    assert not control.store(make_keys(1), [object()]).is_successful()
    assert control.load(make_keys(1), [object()]) == [False]


# ---- the interface -------------------------------------------------------------------


def test_three_descriptors_tell_of_three_kinds_of_tasks(control: Controller) -> None:
    """Each is readable after its own tasks only."""
    adapter = control.adapter
    fds = [
        adapter.get_store_event_fd(),
        adapter.get_lookup_and_lock_event_fd(),
        adapter.get_load_event_fd(),
    ]
    assert len(set(fds)) == 3
    control.store(make_keys(1), make_objects(1, seed=1))
    control.lookup(make_keys(1))
    control.load(make_keys(1), make_objects(1))
    for fd in fds:
        with pytest.raises(AssertionError, match="nothing reported"):
            wait_readable(fd, timeout=0.01)


def test_a_result_is_handed_out_once(control: Controller) -> None:
    """A second query, and one of an unknown task, find nothing."""
    adapter, keys = control.adapter, make_keys(1)
    tasks = [
        adapter.submit_lookup_and_lock_task(keys, {}),
        adapter.submit_load_task(keys, make_objects(1)),
        adapter.submit_store_task(keys, make_objects(1)),
    ]
    assert len(set(tasks)) == 3
    wait_readable(adapter.get_lookup_and_lock_event_fd())
    wait_readable(adapter.get_load_event_fd())
    wait_readable(adapter.get_store_event_fd())
    assert adapter.query_lookup_and_lock_result(tasks[0]) is not None
    assert adapter.query_load_result(tasks[1]) is not None
    assert list(adapter.pop_completed_store_tasks()) == [tasks[2]]
    for task in (*tasks, 12345):
        assert adapter.query_lookup_and_lock_result(task) is None
        assert adapter.query_load_result(task) is None
    assert adapter.pop_completed_store_tasks() == {}


def test_unlock_has_nothing_to_undo(control: Controller) -> None:
    """Locked or not, once or twice: the objects stay, and nothing raises."""
    keys = make_keys(2)
    control.store(keys, make_objects(2, seed=1))
    control.lookup(keys)
    for _ in range(3):
        control.adapter.submit_unlock(keys + make_keys(1, cache_salt="x"))
    assert control.load(keys, make_objects(2)) == [True, True]


def test_no_submit_raises(control: Controller) -> None:
    """Objects that do not match their keys fail the task and no more."""
    keys = make_keys(3)
    assert not control.store(keys, make_objects(2)).is_successful()
    assert control.load(keys, make_objects(2)) == [False] * 3
    nonsense: Any = {0: "no layout"}
    assert control.lookup(keys, nonsense) == [False] * 3


def test_both_controllers_may_call_at_once(control: Controller) -> None:
    """Stores from one thread, lookups and loads from another; a listener raises."""
    control.adapter.register_listener(Listener(raises=True))
    shared = make_keys(4, cache_salt="shared")
    control.store(shared, make_objects(4, seed=1))
    failures: list[str] = []

    def store() -> None:
        for i in range(20):
            keys = make_keys(4, cache_salt=f"own-{i}")
            if not control.store(keys, make_objects(4, seed=i)).is_successful():
                failures.append(f"store {i}")

    def fetch() -> None:
        for i in range(20):
            back = make_objects(4)
            if not all(control.lookup(shared) + control.load(shared, back)):
                failures.append(f"fetch {i}")
            elif contents(back) != contents(make_objects(4, seed=1)):
                failures.append(f"bytes {i}")

    threads = [threading.Thread(target=call) for call in (store, fetch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_after_the_close_everything_fails_at_once(make: Make) -> None:
    """Nothing raises, nothing hangs, and a second close does nothing."""
    adapter, keys = make(), make_keys(2)
    _, took = timed(adapter.close)
    assert took < 2
    adapter.close()
    adapter.submit_store_task(keys, make_objects(2))
    lookup = adapter.submit_lookup_and_lock_task(keys, {})
    load = adapter.submit_load_task(keys, make_objects(2))
    adapter.submit_unlock(keys)
    assert adapter.query_lookup_and_lock_result(lookup) is None
    assert adapter.query_load_result(load) is None
    assert adapter.pop_completed_store_tasks() == {}
    assert not adapter.report_status()["is_healthy"]


# ---- what administrators see and do --------------------------------------------------


def test_lmcache_deletes_only_when_it_may(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """By default the objects stay, and a line says why."""
    keys = make_keys(3)
    shy, bold = Controller(make()), Controller(make(lmcache_eviction=True))
    listener = Listener()
    bold.adapter.register_listener(listener)
    shy.store(keys, make_objects(3, seed=1))
    with caplog.at_level(logging.WARNING):
        shy.adapter.delete(keys)
    assert "lmcache_eviction is off" in caplog.text
    assert shy.lookup(keys) == [True] * 3
    bold.adapter.delete(keys[:2] + make_keys(1, cache_salt="absent"))
    assert shy.lookup(keys) == [False, False, True]
    assert listener.heard == [("deleted", keys[:2], [])]


def test_lmcache_sees_no_usage_that_it_could_evict(control: Controller) -> None:
    """Its quotas by salt, and its watermark, find nothing to work on."""
    control.store(make_keys(2, cache_salt="tenant"), make_objects(2, seed=1))
    control.adapter.close()
    usage = control.adapter.get_usage()
    assert not control.adapter.supports_global_eviction
    assert usage.usage_fraction == -1.0
    assert dict(usage.bytes_by_cache_salt) == {}
    assert usage.total_bytes_used == 2 * SIZE


def test_all_objects_can_be_listed_page_by_page(make: Make) -> None:
    """Whoever stored them; other values of the namespace are left out."""
    keys = make_keys(7) + make_keys(4, model_name="org/b", cache_salt="s", kv_rank=7)
    keys += make_keys(2, model_name="org/" + "long" * 200)
    control = Controller(make())
    control.store(keys, make_objects(13, seed=1))
    client = Client(config=control.adapter._client.config)
    client.put(b"something else", b"data", b"no header of ours")
    client.close()

    def pages(adapter: MemKVL2Adapter, size: int, **named: Any) -> list[Any]:
        found, token = [], None
        while True:
            page = adapter.list_l2_keys(page_size=size, cursor=token, **named)
            assert len(page.entries) <= size
            found += page.entries
            token = page.next_page_token
            if token is None:
                return found

    other = make()
    for size in (1, 3, 100):
        entries = pages(other, size)
        assert {entry.size_bytes for entry in entries} == {SIZE}
        assert len(entries) == 13
        assert {entry.key.to_object_key() for entry in entries} == set(keys)
    named = pages(other, 3, model_name="org/b")
    assert {entry.key.to_object_key() for entry in named} == set(keys[7:11])


@pytest.mark.parametrize("token", ["", "x", "0", "1-0", "-1-0", f"0-{2**64}"])
def test_a_listing_takes_its_own_tokens_only(control: Controller, token: str) -> None:
    """Anything else is a ValueError, as LMCache wants it."""
    with pytest.raises(ValueError, match="token"):
        control.adapter.list_l2_keys(cursor=token or "nothing")
    with pytest.raises(ValueError, match="page_size"):
        control.adapter.list_l2_keys(page_size=0)


def test_the_status_counts_and_names_the_servers(control: Controller) -> None:
    """``/status`` shows it."""
    control.store(make_keys(2), make_objects(2, seed=1))
    control.lookup(make_keys(3))
    status = control.adapter.report_status()
    assert status["is_healthy"] is True
    [state] = status["servers"].values()
    assert state.startswith("up")
    assert status["counters"]["put_stored"] == 2
    assert status["counters"]["lookup_hits"] == 2
    assert status["counters"]["miss_absent"] == 1
