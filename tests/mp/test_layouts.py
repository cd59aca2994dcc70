"""An object's key names no layout: what is stored in another one is a miss."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc
from lmcache.v1.memory_management import MemoryFormat

from memkv_lmcache import Client
from memkv_lmcache.keys import object_key

from .conftest import (
    DTYPE,
    SHAPE,
    Controller,
    Make,
    contents,
    layout,
    make_keys,
    make_objects,
)

LAYOUTS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "plain": (SHAPE, DTYPE),
    "other dtype": (SHAPE, torch.bfloat16),
    "other split": ((2, 8, 16, 16), DTYPE),
    "smaller": ((2, 4, 8, 32), DTYPE),
    "larger": ((2, 4, 32, 32), DTYPE),
    "flat": ((128,), torch.float32),
}
N = 3


def misses(control: Controller) -> Counter[str]:
    counters = control.adapter.counters.snapshot()
    return Counter({name: n for name, n in counters.items() if "miss_" in name})


@pytest.mark.parametrize("later", [name for name in LAYOUTS if name != "plain"])
@pytest.mark.parametrize("order", ["forth", "back"])
def test_a_changed_layout_is_a_miss_until_it_is_stored_anew(
    control: Controller, later: str, order: str
) -> None:
    """In both orders, and again when it changes back."""
    a, b = LAYOUTS["plain"], LAYOUTS[later]
    old, new = (a, b) if order == "forth" else (b, a)
    keys = make_keys(N)
    for stored, other, seed in ((old, new, 1), (new, old, 2), (old, new, 3)):
        objects = make_objects(N, *stored, seed=seed)
        assert control.store(keys, objects).is_successful()
        assert control.lookup(keys, layout(*stored)) == [True] * N
        back = make_objects(N, *stored)
        assert control.load(keys, back) == [True] * N
        assert contents(back) == contents(objects)
        before = misses(control)
        assert control.lookup(keys, layout(*other)) == [False] * N
        assert control.load(keys, make_objects(N, *other)) == [False] * N
        assert misses(control) - before == {"miss_header_mismatch": 2 * N}


def test_a_value_without_our_header_is_a_miss(control: Controller) -> None:
    """Whatever it is, it is none of LMCache's objects."""
    keys = make_keys(1)
    client = Client(config=control.adapter._client.config)
    client.put(object_key(keys[0]), b"data", b"some header")
    client.close()
    assert control.lookup(keys, {}) == [False]
    assert control.load(keys, make_objects(1)) == [False]
    assert misses(control) == {"miss_header_mismatch": 2}
    assert control.store(keys, make_objects(1, seed=1)).is_successful()
    assert control.lookup(keys) == [True]


def test_each_group_has_its_own_layout(control: Controller) -> None:
    """Of two groups with the layouts of each other, none is found."""
    keys = make_keys(1) + make_keys(1, object_group_id=1)
    objects = make_objects(1, (2, 8), seed=1) + make_objects(1, (3, 8), seed=2)
    control.store(keys, objects)
    right = {0: layout((2, 8))[0], 1: layout((3, 8))[0]}
    assert control.lookup(keys, right) == [True, True]
    assert control.lookup(keys, {0: right[1], 1: right[0]}) == [False, False]
    assert control.lookup(keys, {0: right[1]}) == [False, True]


@pytest.mark.parametrize(
    "descs",
    [(), ({},), (None,), ({0: MemoryLayoutDesc([], [])},)],
    ids=["none", "no group", "None", "empty"],
)
def test_without_a_layout_everything_is_taken(
    control: Controller, descs: tuple[Any, ...]
) -> None:
    """As LMCache's own checks and older versions ask."""
    adapter, keys = control.adapter, make_keys(2)
    control.store(keys, make_objects(2, seed=1))
    task = adapter.submit_lookup_and_lock_task(keys, *descs)
    bits = control._bits(
        adapter.get_lookup_and_lock_event_fd(),
        adapter.query_lookup_and_lock_result,
        task,
        2,
    )
    assert bits == [True, True]


def test_one_layout_may_stand_for_all_groups(control: Controller) -> None:
    """LMCache 0.5.0 to 0.5.2 hand over no more."""
    keys = make_keys(1) + make_keys(1, object_group_id=1)
    control.store(keys, make_objects(2, seed=1))
    assert control.lookup(keys, layout()[0]) == [True, True]
    assert control.lookup(keys, layout((1, 2))[0]) == [False, False]


def test_the_memory_format_does_not_matter(control: Controller) -> None:
    """LMCache's allocators of this mode give each another one to the same objects."""
    keys = make_keys(2)
    control.store(keys, make_objects(2, seed=1, fmt=MemoryFormat.KV_2LTD))
    again = make_objects(2, seed=1, fmt=MemoryFormat.UNDEFINED)
    assert control.store(keys, again).bytes_transferred() == 0
    assert control.load(keys, make_objects(2)) == [True, True]


# ---- serdes --------------------------------------------------------------------------


def serialized(count: int, size: int, seed: int | None = None) -> list[Any]:
    """What LMCache's serdes hand over: flat bytes."""
    return make_objects(count, (size,), torch.uint8, seed=seed)


def test_the_output_of_a_serde_is_judged_by_the_load(control: Controller) -> None:
    """A lookup takes it for what it may be; only a fitting object gets it."""
    keys = make_keys(1)
    control.store(keys, serialized(1, 1000, seed=1))
    assert control.lookup(keys, layout()) == [True]
    back = serialized(1, 1000)
    assert control.load(keys, back) == [True]
    assert contents(back) == contents(serialized(1, 1000, seed=1))
    assert control.load(keys, serialized(1, 999)) == [False]
    assert control.load(keys, make_objects(1)) == [False]
    same_bytes = make_objects(1, (500,), torch.float16)
    assert control.load(keys, same_bytes) == [False]


def test_a_serde_may_have_written_less_than_it_asked_for(control: Controller) -> None:
    """The value is what it wrote, and lands in an object with room for more."""
    keys, objects = make_keys(1), serialized(1, 1000, seed=1)
    objects[0].set_used_size(700)
    assert control.store(keys, objects).bytes_transferred() == 700
    back = serialized(1, 1000)
    assert control.load(keys, back) == [True]
    assert contents(back)[0][:700] == contents(objects)[0]
    assert contents(back)[0][700:] == bytes(300)


@pytest.mark.parametrize("serde_first", [True, False])
def test_a_serde_that_comes_or_goes_is_a_miss_until_stored_anew(
    make: Make, serde_first: bool
) -> None:
    """In both orders the next store replaces what the other cannot read."""
    keys, control = make_keys(2), Controller(make())
    plain, packed = make_objects(2, seed=1), serialized(2, 500, seed=2)
    old, new = (packed, plain) if serde_first else (plain, packed)
    back_old = serialized(2, 500) if serde_first else make_objects(2)
    back_new = make_objects(2) if serde_first else serialized(2, 500)
    control.store(keys, old)
    assert control.load(keys, back_new) == [False, False]
    assert misses(control) == {"miss_header_mismatch": 2}
    assert control.store(keys, new).is_successful()
    assert control.lookup(keys) == [True, True]
    assert control.load(keys, back_new) == [True, True]
    assert contents(back_new) == contents(new)
    assert control.load(keys, back_old) == [False, False]
