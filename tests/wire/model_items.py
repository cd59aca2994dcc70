"""The tables of requests and replies, written from sections 6 and 7 of docs/wire.md."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from wire.model import (
    DELETE,
    GET,
    HEADER,
    LEASED,
    LIST,
    MAX_BATCH,
    MAX_HEADER,
    MAX_ITEMS,
    MAX_KEY,
    MAX_LEASE_MS,
    MAX_VALUE,
    OK,
    PAYLOAD,
    PUT,
    REMOTE,
    STAT,
    TOO_SMALL,
    Frame,
    check,
    check_frame,
)

REQUEST_ROW = struct.Struct("<HHIIIQQQQQII")
REPLY_ROW = struct.Struct("<IiIHHQQQQ")


@dataclass(frozen=True)
class Request:
    """An item of a request; header_len is a capacity except for PUT."""

    key: bytes = b""
    header: bytes = b""
    header_len: int = 0
    flags: int = 0
    depth: int = 0
    rkey: int = 0
    group: int = 0
    length: int = 0
    checksum: int = 0
    generation: int = 0
    address: int = 0
    lease_ms: int = 0
    ttl_ms: int = 0


@dataclass(frozen=True)
class Reply:
    """An item of a reply."""

    index: int = 0
    status: int = 0
    flags: int = 0
    key: bytes = b""
    header: bytes = b""
    header_len: int = 0
    length: int = 0
    checksum: int = 0
    generation: int = 0
    idle_ms: int = 0


REQUEST_FIELDS = {
    STAT: {"header_len", "depth", "group", "lease_ms"},
    GET: {"header_len", "flags", "depth", "group", "length", "address", "rkey"},
    PUT: {"header_len", "flags", "depth", "group", "length", "address", "rkey"}
    | {"checksum", "ttl_ms"},
    DELETE: {"depth", "group", "generation"},
    LIST: {"header_len", "length", "generation"},
}
REPLY_FLAGS = {
    STAT: LEASED | HEADER,
    GET: HEADER | PAYLOAD | REMOTE,
    PUT: REMOTE,
    DELETE: 0,
    LIST: HEADER,
}
VALUE_FIELDS = {"header_len", "length", "checksum", "generation"}
REPLY_FIELDS = {
    STAT: VALUE_FIELDS,
    GET: VALUE_FIELDS,
    PUT: set[str](),
    DELETE: set[str](),
    LIST: VALUE_FIELDS | {"idle_ms"},
}


def check_request(kind: int, item: Request) -> None:
    """The rules of section 6 for one row."""
    check(1 <= len(item.key) <= MAX_KEY if kind != LIST else item.key == b"")
    check(item.header_len <= MAX_HEADER and item.length <= MAX_VALUE)
    check(item.lease_ms <= MAX_LEASE_MS and item.flags in (0, REMOTE))
    check(item.address + item.length <= 2**64 - 1)
    for name in set(Request.__dataclass_fields__) - {"key", "header"}:
        check(name in REQUEST_FIELDS[kind] or getattr(item, name) == 0)
    check(bool(item.flags) or item.address == item.rkey == 0)


def check_reply(kind: int, item: Reply) -> None:
    """The rules of section 7 for one row."""
    check(-99 <= item.status <= 0 and item.flags & ~REPLY_FLAGS[kind] == 0)
    check(item.header_len <= MAX_HEADER and item.length <= MAX_VALUE)
    if kind == LIST:
        check(item.status == OK and 1 <= len(item.key) <= MAX_KEY)
    else:
        check(item.index < MAX_ITEMS and item.key == b"")
    fields = REPLY_FIELDS[kind] if item.status in (OK, TOO_SMALL) else set()
    for name in VALUE_FIELDS | {"idle_ms"}:
        check(name in fields or getattr(item, name) == 0)
    if item.status != OK:
        check(item.flags & (LEASED | HEADER | PAYLOAD) == 0)
    if kind == GET and item.status == OK and item.length > 0:
        check((item.flags & PAYLOAD != 0) != (item.flags & REMOTE != 0))
    else:
        check(item.flags & PAYLOAD == 0)


def request_sums(kind: int, items: Sequence[Request]) -> tuple[int, int]:
    """All payload that a request moves, and the part of it in the body."""
    moved = sum(item.length for item in items) if kind in (GET, PUT) else 0
    inline = sum(item.length for item in items if item.flags & REMOTE == 0)
    return moved, inline if kind == PUT else 0


def reply_sum(items: Sequence[Reply]) -> int:
    """The payload in a reply's body."""
    return sum(item.length for item in items if item.flags & PAYLOAD)


def finish(frame: Frame, table: bytes, n: int, moved: int, body: int) -> Frame:
    """The frame with its lengths, once they are held against the limits."""
    check(n <= 1 or moved <= MAX_BATCH)
    frame = replace(frame, items=n, table_len=len(table), body_len=body)
    check_frame(frame)
    return frame


def request_row(item: Request) -> bytes:
    """The 64 bytes of a row."""
    _, _, *rest = astuple(item)
    return REQUEST_ROW.pack(len(item.key), *rest)


def reply_row(item: Reply) -> bytes:
    """The 48 bytes of a row."""
    index, status, flags, key, _, *rest = astuple(item)
    return REPLY_ROW.pack(index, status, flags, len(key), *rest)


def encode_requests(frame: Frame, items: Sequence[Request]) -> tuple[Frame, bytes]:
    """The frame with its lengths set, and the table."""
    for item in items:
        check_request(frame.kind, item)
        check(len(item.header) == (item.header_len if frame.kind == PUT else 0))
    table = b"".join(map(request_row, items))
    table += b"".join(item.key for item in items)
    table += b"".join(item.header for item in items)
    return finish(frame, table, len(items), *request_sums(frame.kind, items)), table


def encode_replies(frame: Frame, items: Sequence[Reply]) -> tuple[Frame, bytes]:
    """The frame with its lengths set, and the table."""
    for item in items:
        check_reply(frame.kind, item)
        there = item.header_len if item.flags & HEADER else 0
        check(len(item.header) == there)
    table = b"".join(map(reply_row, items))
    table += b"".join(item.key for item in items)
    table += b"".join(item.header for item in items)
    body = reply_sum(items)
    return finish(frame, table, len(items), body, body), table


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """`data` in pieces of these lengths, which must use it up."""
    check(sum(lengths) == len(data))
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return pieces


def decode_requests(frame: Frame, table: bytes) -> list[Request]:
    """The items of a decoded frame."""
    size = frame.items * 64
    check(size <= len(table))
    rows = list(REQUEST_ROW.iter_unpack(table[:size]))
    keys = [row[0] for row in rows]
    headers = [row[1] if frame.kind == PUT else 0 for row in rows]
    pieces = cut(table[size:], keys + headers)
    items = [
        Request(key, header, *row[1:])
        for row, key, header in zip(
            rows, pieces[: len(rows)], pieces[len(rows) :], strict=True
        )
    ]
    for item in items:
        check_request(frame.kind, item)
    moved, body = request_sums(frame.kind, items)
    check(len(items) <= 1 or moved <= MAX_BATCH)
    check(body == frame.body_len)
    return items


def decode_replies(frame: Frame, table: bytes) -> list[Reply]:
    """The items of a decoded frame."""
    size = frame.items * 48
    check(size <= len(table))
    rows = list(REPLY_ROW.iter_unpack(table[:size]))
    keys = [row[3] for row in rows]
    headers = [row[4] if row[2] & HEADER else 0 for row in rows]
    pieces = cut(table[size:], keys + headers)
    items = [
        Reply(*row[:3], key, header, *row[4:])
        for row, key, header in zip(
            rows, pieces[: len(rows)], pieces[len(rows) :], strict=True
        )
    ]
    for item in items:
        check_reply(frame.kind, item)
    check(reply_sum(items) == frame.body_len)
    return items
