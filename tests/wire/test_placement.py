"""Placement: C against the function of docs/wire.md, and what that promises."""

from __future__ import annotations

from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache._memkv import ffi, lib
from wire import model_hashes

KEYS = st.binary(min_size=1, max_size=512)
# no NUL: in C a name is a string
NAMES = st.binary(min_size=1, max_size=128).filter(lambda name: b"\0" not in name)
FLEET = [b"memkv-%d.memkv:9900" % i for i in range(64)]
SLOTS = range(0, 262_144, 8)


def score(name: bytes, slot: int) -> int:
    """mkv_placement_score."""
    answer: int = lib.mkv_placement_score(name, slot)
    return answer


def holders(names: list[bytes]) -> list[bytes]:
    """Which server holds each of SLOTS."""
    return [max(names, key=lambda name: score(name, slot)) for slot in SLOTS]


@given(KEYS)
def test_a_key_has_the_slot_of_the_document(key: bytes) -> None:
    """The slot follows from the key alone."""
    slot = lib.mkv_placement_slot(ffi.from_buffer(key), len(key))
    assert slot == model_hashes.slot(key)
    framed = bytes(4) + len(key).to_bytes(4, "little") + key + bytes(4)
    assert slot == xxhash.xxh3_64_intdigest(framed) % lib.MKV_SLOTS


@given(NAMES, st.integers(0, 2**18 - 1))
def test_a_server_has_the_score_of_the_document(name: bytes, slot: int) -> None:
    """The score follows from the name and the slot alone."""
    assert score(name, slot) == model_hashes.score(name, slot)


@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_servers_have_like_shares(count: int) -> None:
    """Nobody holds more than a quarter over the mean."""
    shares = Counter(holders(FLEET[:count]))
    assert len(shares) == count
    assert max(shares.values()) <= 1.25 * len(SLOTS) / count


@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_a_server_more_or_less_moves_its_own_keys_only(count: int) -> None:
    """What moves, moves to or from that server, and it is its share."""
    few, many = holders(FLEET[1:count]), holders(FLEET[:count])
    moved = [new for old, new in zip(few, many, strict=True) if old != new]
    assert set(moved) == {FLEET[0]}
    assert len(moved) <= 1.2 * len(SLOTS) / count


def test_the_keys_of_a_lost_server_spread_over_the_others() -> None:
    """The second choices are as even as the first: no neighbour takes it all."""
    names = FLEET[:8]
    lost = [
        s for s, name in zip(SLOTS, holders(names), strict=True) if name == FLEET[0]
    ]
    takers = Counter(
        max(names[1:], key=lambda name: score(name, slot)) for slot in lost
    )
    assert len(takers) == 7
    assert max(takers.values()) <= 1.25 * len(lost) / 7
