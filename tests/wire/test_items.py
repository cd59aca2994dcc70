"""Tables of requests and replies: C against the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import codec, model, strategies
from wire.agreement import REFUSED, agree
from wire.model import GET, LIST, PUT, REMOTE, STAT, Frame, Refused
from wire.model_items import (
    Reply,
    Request,
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)

Encode = Callable[[Frame, Any], tuple[Frame, bytes]]
Decode = Callable[[Frame, bytes], list[Any]]


@dataclass(frozen=True)
class Side:
    """One of the two tables, with all that a test needs of it."""

    item: type
    tables: st.SearchStrategy[tuple[Frame, list[Any]]]
    wild: dict[str, st.SearchStrategy[Any]]
    model_encode: Encode
    model_decode: Decode

    def encode(self, frame: Frame, items: Any, cap: int | None = None) -> Any:
        """The C encoder."""
        return codec.encode_items(frame, items, self.item, cap)

    def decode(self, frame: Frame, table: bytes) -> list[Any]:
        """The C decoder."""
        return codec.decode_items(frame, table, self.item)


SIDES = {
    "request": Side(
        Request,
        strategies.request_tables(),
        strategies.WILD_REQUEST_FIELDS,
        encode_requests,
        decode_requests,
    ),
    "reply": Side(
        Reply,
        strategies.reply_tables(),
        strategies.WILD_REPLY_FIELDS,
        encode_replies,
        decode_replies,
    ),
}
both_sides = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES.keys())


@both_sides
@given(data=st.data())
def test_encoding_equals_the_model(side: Side, data: st.DataObject) -> None:
    """Any valid items have the table, and the lengths, that the document gives them."""
    frame, items = data.draw(side.tables)
    assert side.encode(frame, items) == side.model_encode(frame, items)


@both_sides
@given(data=st.data())
def test_decoding_inverts_encoding(side: Side, data: st.DataObject) -> None:
    """All items come back, with their keys and headers."""
    frame, items = data.draw(side.tables)
    frame, table = side.encode(frame, items)
    assert codec.decode_frame(codec.encode_frame(frame)) == frame
    assert side.decode(frame, table) == items


@both_sides
@given(data=st.data())
def test_the_encoder_refuses_what_the_document_forbids(
    side: Side, data: st.DataObject
) -> None:
    """One item with a wrong field spoils the table, and nothing is written."""
    frame, items = data.draw(side.tables)
    wild = data.draw(
        strategies.damaged(st.sampled_from(items or [side.item()]), side.wild)
    )
    at = data.draw(st.integers(0, len(items)))
    items = [*items[:at], with_header(frame, wild), *items[at + 1 :]]
    agree(side.encode, side.model_encode, frame, items)


def with_header(frame: Frame, item: Any) -> Any:
    """The item with as many bytes of a header as its row promises."""
    is_put = isinstance(item, Request) and frame.kind == PUT
    if is_put or (isinstance(item, Reply) and item.flags & model.HEADER):
        return replace(item, header=bytes(item.header_len))
    return replace(item, header=b"")


@both_sides
@given(data=st.data())
def test_what_decodes_encodes_to_the_same_bytes(
    side: Side, data: st.DataObject
) -> None:
    """Changed bytes are refused by both, or read alike and spelt in one way only."""
    frame, table = side.model_encode(*data.draw(side.tables))
    table = data.draw(strategies.damaged_bytes(table))
    items = agree(side.decode, side.model_decode, frame, table)
    if items is not REFUSED:
        assert side.encode(frame, items) == (frame, table)


@both_sides
@given(data=st.data())
def test_decoding_is_total(side: Side, data: st.DataObject) -> None:
    """Any bytes under any head are items or refused."""
    frame, items = data.draw(side.tables)
    table = data.draw(st.binary(max_size=400))
    frame = replace(
        frame,
        items=data.draw(strategies.around(len(items), model.MAX_ITEMS)),
        table_len=len(table),
        body_len=data.draw(st.just(0) | strategies.U64),
    )
    agree(side.decode, side.model_decode, frame, table)


@both_sides
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_seen(side: Side, data: st.DataObject) -> None:
    """No bit of a table is without a meaning."""
    frame, items = data.draw(side.tables)
    frame, table = side.encode(frame, items)
    if table == b"":
        return
    # Rows first: a search over all bits would mostly flip those of headers.
    rows = min(len(table), frame.items * 64) * 8
    bit = data.draw(st.integers(0, rows - 1) | st.integers(0, len(table) * 8 - 1))
    changed = bytearray(table)
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(Refused):
        assert side.decode(frame, bytes(changed)) != items


@both_sides
@given(data=st.data())
def test_a_table_ends_where_its_rows_say(side: Side, data: st.DataObject) -> None:
    """One byte more or less, of the table or of the body, is refused."""
    frame, table = side.encode(*data.draw(side.tables))
    wrong = [
        (replace(frame, table_len=len(table) + 1), table + b"\0"),
        (replace(frame, body_len=frame.body_len + 1), table),
    ]
    if table:
        wrong.append((replace(frame, table_len=len(table) - 1), table[:-1]))
    if frame.body_len:
        wrong.append((replace(frame, body_len=frame.body_len - 1), table))
    for head, content in wrong:
        with pytest.raises(Refused):
            side.decode(head, content)


@both_sides
@given(data=st.data())
def test_too_little_memory_writes_nothing(side: Side, data: st.DataObject) -> None:
    """One byte too few for the table: TOO_SMALL, and no output is touched."""
    frame, items = data.draw(side.tables)
    _, table = side.model_encode(frame, items)
    if table:
        cap = data.draw(st.integers(0, len(table) - 1))
        with pytest.raises(Refused):
            side.encode(frame, items, cap)


@pytest.mark.parametrize("kind", model.ITEM_KINDS)
@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("status", [0, -10, -12])
def test_flags_of_a_reply_go_with_kind_status_and_length(
    kind: int, status: int, length: int
) -> None:
    """Every set of flags is allowed or refused as the document says."""
    key = KEY if kind == LIST else b""
    for flags in range(32):
        item = with_header(
            Frame(kind), Reply(0, status, flags, key, header_len=length, length=length)
        )
        accepted(Frame(kind, REPLY_HEAD), [item])


@pytest.mark.parametrize("kind", model.ITEM_KINDS)
@both_sides
def test_a_kind_has_only_the_fields_of_its_own(side: Side, kind: int) -> None:
    """Each field alone is allowed or refused as the document's table says."""
    frame = Frame(kind, model.LAST if side.item is Request else REPLY_HEAD)
    for key in (b"", KEY):
        for flags in (0, REMOTE):
            item = replace(side.item(), key=key, flags=flags)
            accepted(frame, [item])
            for name in set(side.wild) - {"key", "status"}:
                accepted(frame, [with_header(frame, replace(item, **{name: 1}))])


def accepted(frame: Frame, items: list[Any]) -> bool:
    """Whether C encodes the items; the model must say the same."""
    side = SIDES["request" if isinstance(items[0], Request) else "reply"]
    answer = agree(side.encode, side.model_encode, frame, items)
    if answer is REFUSED:
        return False
    assert side.decode(*answer) == items
    return True


KEY = b"k"
REPLY_HEAD = model.REPLY | model.LAST
LIMITS: dict[str, tuple[int, Callable[[int], tuple[Frame, list[Any]]]]] = {
    "MEMKV_MAX_KEY": (
        512,
        lambda n: (Frame(STAT), [Request(bytes(n))]),
    ),
    "MEMKV_MAX_KEY in a listing": (
        512,
        lambda n: (Frame(LIST, REPLY_HEAD), [Reply(key=bytes(n))]),
    ),
    "MEMKV_MAX_HEADER": (
        4096,
        lambda n: (Frame(PUT), [Request(KEY, bytes(n), n)]),
    ),
    "MEMKV_MAX_HEADER as a capacity": (
        4096,
        lambda n: (Frame(STAT), [Request(KEY, header_len=n)]),
    ),
    "MEMKV_MAX_HEADER in a reply": (
        4096,
        lambda n: (Frame(STAT, REPLY_HEAD), [Reply(header_len=n)]),
    ),
    "MEMKV_MAX_VALUE": (
        2**32,
        lambda n: (Frame(PUT), [Request(KEY, length=n)]),
    ),
    "MEMKV_MAX_VALUE in a reply": (
        2**32,
        lambda n: (
            Frame(GET, REPLY_HEAD),
            [Reply(flags=model.PAYLOAD, length=n)],
        ),
    ),
    "MKV_MAX_ITEMS": (
        1024,
        lambda n: (Frame(STAT), [Request(KEY)] * n),
    ),
    "MKV_MAX_ITEMS in a reply": (
        1024,
        lambda n: (Frame(PUT, REPLY_HEAD), [Reply()] * n),
    ),
    "MKV_MAX_ITEMS as an index": (
        1023,
        lambda n: (Frame(PUT, REPLY_HEAD), [Reply(n)]),
    ),
    "MKV_MAX_BATCH of a PUT": (
        2**24,
        lambda n: (
            Frame(PUT),
            [Request(KEY, length=9, flags=REMOTE), Request(KEY, length=n - 9)],
        ),
    ),
    "MKV_MAX_BATCH of a GET": (
        2**24,
        lambda n: (Frame(GET), [Request(KEY, length=9), Request(KEY, length=n - 9)]),
    ),
    "MKV_MAX_BATCH of a reply": (
        2**24,
        lambda n: (
            Frame(GET, REPLY_HEAD),
            [Reply(0, flags=model.PAYLOAD, length=m) for m in (9, n - 9)],
        ),
    ),
    "MKV_MAX_TABLE": (
        262_144,
        lambda n: (
            Frame(PUT),
            [Request(bytes(512), bytes(m), m) for m in sizes_of_headers(n)],
        ),
    ),
    "MKV_MAX_LEASE_MS": (
        600_000,
        lambda n: (Frame(STAT), [Request(KEY, lease_ms=n)]),
    ),
    "the status of a row": (
        99,
        lambda n: (Frame(PUT, REPLY_HEAD), [Reply(status=-n)]),
    ),
    "the end of an address": (
        2**64 - 1,
        lambda n: (
            Frame(GET),
            [Request(KEY, flags=REMOTE, address=2**64 - 10, length=n - 2**64 + 10)],
        ),
    ),
}


def sizes_of_headers(table_len: int) -> list[int]:
    """Lengths of headers of PUT items with full keys that fill a table."""
    n = table_len // (64 + 512 + 4096) + 1
    left = table_len - n * (64 + 512)
    return [left // n + (i < left % n) for i in range(n)]


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_allowed_and_one_more_is_not(name: str) -> None:
    """Each constant of a table is the last value accepted."""
    limit, build = LIMITS[name]
    assert accepted(*build(limit))
    assert not accepted(*build(limit + 1))


@pytest.mark.parametrize("kind", [0, 1, 3, 9, 10, 11, 255])
@both_sides
def test_only_kinds_with_items_have_tables_of_items(side: Side, kind: int) -> None:
    """Asked for the items of another kind, the codec refuses."""
    with pytest.raises(Refused):
        side.encode(Frame(kind), [side.item()])
    with pytest.raises(Refused):
        side.decode(Frame(kind), b"")
