"""The checksum: C, in one go and in pieces, against the xxhash package."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache._memkv import ffi, lib
from wire import model_hashes

BLOCK = lib.MKV_CHECKSUM_BLOCK
SEEDS = st.sampled_from([0, 1, 2**64 - 2, 2**64 - 1]) | st.integers(0, 2**64 - 1)
SIZES = [0, 1, 240, 241, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7]
NOISE = bytes(i * i % 251 for i in range(2**12)) * (max(SIZES) // 2**12 + 1)


def whole(seed: int, payload: bytes) -> int:
    """mkv_checksum."""
    answer: int = lib.mkv_checksum(seed, ffi.from_buffer(payload), len(payload))
    return answer


def new_summer() -> tuple[Any, Any]:
    """An aligned mkv_summer, and the memory that holds it."""
    memory = ffi.new("uint8_t[]", lib.MKV_SUMMER_LEN + 64)
    address = int(ffi.cast("uintptr_t", memory))
    return ffi.cast("mkv_summer *", address + -address % 64), memory


def in_pieces(seed: int, payload: bytes, cuts: list[int]) -> int:
    """mkv_summer over the pieces between the cuts."""
    summer, _memory = new_summer()
    source = ffi.from_buffer("uint8_t[]", payload)
    lib.mkv_summer_begin(summer, seed)
    ends = [*sorted(cuts), len(payload)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        lib.mkv_summer_add(summer, source + start, end - start)
    answer: int = lib.mkv_summer_end(summer)
    return answer


@given(st.binary(max_size=128), st.binary(max_size=512), st.binary(max_size=600))
def test_a_seed_is_that_of_the_document(
    name_space: bytes, key: bytes, header: bytes
) -> None:
    """Namespace, key and header go in framed, so that no byte can change sides."""
    seed = lib.mkv_checksum_seed(
        ffi.from_buffer(name_space),
        len(name_space),
        ffi.from_buffer(key),
        len(key),
        ffi.from_buffer(header),
        len(header),
    )
    assert seed == model_hashes.checksum_seed(name_space, key, header)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 0x9E3779B97F4A7C15, 2**64 - 1])
def test_around_a_block_the_checksum_is_that_of_the_document(
    size: int, seed: int
) -> None:
    """Whole blocks, a byte more and a byte less, and seeds that wrap around."""
    assert whole(seed, NOISE[:size]) == model_hashes.checksum(seed, NOISE[:size])


@given(SEEDS, st.binary(max_size=1000))
def test_a_short_payload_has_the_checksum_of_the_document(
    seed: int, payload: bytes
) -> None:
    """Anything within one block."""
    assert whole(seed, payload) == model_hashes.checksum(seed, payload)


@given(SEEDS, st.binary(max_size=1000), st.data())
def test_pieces_make_the_same_sum(
    seed: int, payload: bytes, data: st.DataObject
) -> None:
    """However the bytes arrive, empty pieces included."""
    cuts = data.draw(st.lists(st.integers(0, len(payload)), max_size=8))
    assert in_pieces(seed, payload, cuts) == whole(seed, payload)


@given(
    st.lists(st.sampled_from([1, 255, 256, 257, BLOCK // 2, BLOCK - 1, BLOCK]))
    | st.lists(st.integers(0, BLOCK), max_size=6)
)
def test_pieces_across_blocks_make_the_same_sum(sizes: list[int]) -> None:
    """A cut before, at and behind the edge of a block."""
    payload = NOISE[: 2 * BLOCK + 300]
    cuts = []
    for size in sizes:
        cuts.append(min(size + (cuts[-1] if cuts else 0), len(payload)))
    assert in_pieces(7, payload, cuts) == WHOLE_OF_TWO_BLOCKS


WHOLE_OF_TWO_BLOCKS = model_hashes.checksum(7, NOISE[: 2 * BLOCK + 300])


@given(SEEDS, st.binary(min_size=1, max_size=600), st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_changes_the_sum(
    seed: int, payload: bytes, at: int, bit: int
) -> None:
    """A rotten payload does not pass."""
    changed = bytearray(payload)
    changed[at % len(payload)] ^= 1 << bit
    assert whole(seed, bytes(changed)) != whole(seed, payload)
