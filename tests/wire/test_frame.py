"""Prefixes of frames: C against the model."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import codec, model, strategies
from wire.agreement import REFUSED, agree
from wire.model import Frame, Refused

WILD_FRAMES = strategies.damaged(strategies.frames(), strategies.WILD_FRAME_FIELDS)


@given(strategies.frames())
def test_encoding_equals_the_model(frame: Frame) -> None:
    """Any valid frame has the bytes that the document gives it."""
    assert codec.encode_frame(frame) == model.encode_frame(frame)


@given(strategies.frames())
def test_decoding_inverts_encoding(frame: Frame) -> None:
    """All fields come back."""
    assert codec.decode_frame(codec.encode_frame(frame)) == frame


@given(WILD_FRAMES)
def test_the_encoder_refuses_what_the_document_forbids(frame: Frame) -> None:
    """A field out of its limits is never sent, and a sent one is right."""
    agree(codec.encode_frame, model.encode_frame, frame)


@given(WILD_FRAMES)
def test_the_decoder_refuses_what_the_document_forbids(frame: Frame) -> None:
    """A prefix with a wrong field and all else in order is refused as in the model."""
    data = model.PREFIX.pack(
        b"MEKV",
        1,
        frame.kind,
        frame.flags,
        0,
        frame.status,
        frame.items,
        frame.id,
        frame.budget_ms,
        frame.table_len,
        frame.body_len,
        frame.tag,
    )
    agree(codec.decode_frame, model.decode_frame, data)


@given(st.binary(min_size=56, max_size=56) | st.binary(min_size=51, max_size=51))
def test_decoding_is_total(noise: bytes) -> None:
    """Any bytes are a frame or refused, also behind a magic that is right."""
    data = noise if len(noise) == 56 else b"MEKV\x01" + noise
    agree(codec.decode_frame, model.decode_frame, data)


@given(strategies.frames().map(model.encode_frame).flatmap(strategies.damaged_bytes))
def test_what_decodes_encodes_to_the_same_bytes(data: bytes) -> None:
    """One value, one encoding: nothing is lost and there is no second spelling."""
    frame = agree(codec.decode_frame, model.decode_frame, data)
    if frame is not REFUSED:
        assert codec.encode_frame(frame) == data


@given(strategies.frames(), st.integers(0, 56 * 8 - 1))
def test_a_flipped_bit_is_refused_or_seen(frame: Frame, bit: int) -> None:
    """No bit of a prefix is without a meaning."""
    data = bytearray(codec.encode_frame(frame))
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(Refused):
        assert codec.decode_frame(bytes(data)) != frame


def still_needed(data: bytes) -> int:
    """How many bytes a reader must wait for, told by the bytes it has; 0: none."""
    if len(data) < 56:
        return 56 - len(data)
    frame = codec.decode_frame(data)
    return 56 + frame.table_len + frame.body_len - len(data)


@given(strategies.frames(), st.integers(0, 3000), st.data())
def test_a_strict_prefix_always_asks_for_more(
    frame: Frame, size: int, data: st.DataObject
) -> None:
    """A part of a frame says how much is missing; following it ends at the frame."""
    if frame.table_len + frame.body_len > 4096:
        frame = Frame(model.INFO, model.REPLY | model.LAST, table_len=size)
    whole = codec.encode_frame(frame) + bytes(frame.table_len + frame.body_len)
    have = data.draw(st.integers(0, len(whole) - 1))
    assert still_needed(whole[:have]) >= 1
    while needed := still_needed(whole[:have]):
        have += needed
    assert have == len(whole)


@pytest.mark.parametrize("kind", [0, *range(1, 11), 11, 255])
@pytest.mark.parametrize("flags", range(5))
@pytest.mark.parametrize("items", [0, 1, 2])
def test_each_kind_has_its_own_frames(kind: int, flags: int, items: int) -> None:
    """Kinds, flags and statuses go together as the document's table says."""
    for table_len in (0, 31, 32, 33, 64, 71, 72, 73, 200, 201):
        for status in (0, -3):
            for body_len in (0, 1):
                frame = Frame(kind, flags, status, items, 7, 0, table_len, body_len)
                agree(codec.encode_frame, model.encode_frame, frame)


PUT_ONE = Frame(model.PUT, items=1, table_len=64)
PUT_TWO = Frame(model.PUT, items=2, table_len=128)
LIMITS = {
    "items": (PUT_ONE, codec.lib.MKV_MAX_ITEMS),
    "table_len": (PUT_ONE, codec.lib.MKV_MAX_TABLE),
    "budget_ms": (PUT_ONE, codec.lib.MKV_MAX_BUDGET_MS),
    "body_len": (PUT_ONE, codec.lib.MEMKV_MAX_VALUE),
    "body_len of several": (PUT_TWO, codec.lib.MKV_MAX_BATCH),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_allowed_and_one_more_is_not(name: str) -> None:
    """Each constant of a frame is the last value accepted, both ways."""
    frame, limit = LIMITS[name]
    field = name.split()[0]
    at = codec.encode_frame(replace(frame, **{field: limit}))
    assert getattr(codec.decode_frame(at), field) == limit
    over = replace(frame, **{field: limit + 1})
    with pytest.raises(Refused):
        codec.encode_frame(over)
    offset, width = {
        "items": (12, 4),
        "table_len": (24, 4),
        "budget_ms": (20, 4),
        "body_len": (32, 8),
    }[field]
    forged = at[:offset] + (limit + 1).to_bytes(width, "little") + at[offset + width :]
    with pytest.raises(Refused):
        codec.decode_frame(forged)


def test_the_constants_are_those_of_the_document() -> None:
    """wire.h and the document name the same limits."""
    lib = codec.lib
    assert lib.MKV_PREFIX_LEN == model.PREFIX.size == 56
    assert lib.MKV_TAG_OFFSET == 40
    assert (lib.MKV_MAX_ITEMS, lib.MKV_MAX_TABLE) == (model.MAX_ITEMS, model.MAX_TABLE)
    assert (lib.MKV_MAX_BATCH, lib.MEMKV_MAX_VALUE) == (
        model.MAX_BATCH,
        model.MAX_VALUE,
    )
    assert lib.MKV_MAX_BUDGET_MS == model.MAX_BUDGET_MS
    assert lib.MKV_MAX_LEASE_MS == model.MAX_LEASE_MS
