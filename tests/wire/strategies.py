"""What the tests of the wire draw: valid values first, then damage to them.

Lengths are drawn at a limit and one past it by construction, since a search would not
find 512 or 2^24.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from wire import model
from wire.model import (
    DELETE,
    GET,
    HEADER,
    ITEM_KINDS,
    LAST,
    LEASED,
    LIST,
    PAYLOAD,
    PUT,
    REMOTE,
    REPLY,
    STAT,
)
from wire.model_items import REPLY_FIELDS, REQUEST_FIELDS, Reply, Request


def up_to(limit: int) -> st.SearchStrategy[int]:
    """Valid lengths: small ones, and those at the limit."""
    near = [n for n in (0, 1, limit - 1, limit) if 0 <= n <= limit]
    return st.sampled_from(near) | st.integers(0, min(limit, 64))


def around(limit: int, highest: int) -> st.SearchStrategy[int]:
    """Lengths on both sides of a limit, none over what the type holds."""
    near = {0, 1, limit - 1, limit, limit + 1, highest}
    valid = sorted(n for n in near if 0 <= n <= highest)
    return st.sampled_from(valid) | st.integers(0, highest)


def filled(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Byte strings of such lengths; long ones repeat one byte."""
    return st.builds(lambda n, byte: bytes([byte]) * n, lengths, st.integers(0, 255))


U8, U16, U32, U64 = (
    st.integers(0, 2**n - 1) | up_to(2**n - 1) for n in (8, 16, 32, 64)
)
STATUSES = st.sampled_from([-1, -3, -10, -12, -17, -18, -99])
KEYS = filled(up_to(model.MAX_KEY).filter(bool)) | st.binary(min_size=1, max_size=24)
HEADERS = filled(up_to(model.MAX_HEADER)) | st.binary(max_size=24)
TAGS = st.binary(min_size=16, max_size=16)
NONCES = st.binary(min_size=32, max_size=32)

# ---- frames --------------------------------------------------------------------------


@st.composite
def frames(draw: st.DrawFn) -> model.Frame:
    """A valid prefix of any kind, known or not."""
    kind = draw(st.integers(1, 12) | st.just(255))
    frame = model.Frame(kind, id=draw(U32), tag=draw(TAGS))
    if draw(st.booleans()):
        if draw(st.booleans()):
            return replace(frame, flags=REPLY | LAST, status=draw(STATUSES))
        shape = model.REPLY_SHAPES.get(kind, model.UNKNOWN_SHAPE)
        flags = REPLY | LAST
    else:
        budget_ms = draw(up_to(model.MAX_BUDGET_MS))
        frame = replace(frame, budget_ms=budget_ms)
        shape = model.REQUEST_SHAPES.get(kind, model.UNKNOWN_SHAPE)
        flags = LAST
    items, table_len, body_len = (
        draw(st.sampled_from([low, high]) | st.integers(low, high))
        for low, high in shape
    )
    if flags & REPLY and items > 0 and draw(st.booleans()):
        flags = REPLY
    if items > 1:
        body_len = min(body_len, model.MAX_BATCH)
    return replace(
        frame, flags=flags, items=items, table_len=table_len, body_len=body_len
    )


WILD_FRAME_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kind": U8,
    "flags": U8,
    "status": st.sampled_from([-(2**31), -100, -99, -1, 0, 1, 2**31 - 1]),
    "items": around(model.MAX_ITEMS, 2**32 - 1),
    "budget_ms": around(model.MAX_BUDGET_MS, 2**32 - 1),
    "table_len": around(model.MAX_TABLE, 2**32 - 1) | st.sampled_from([31, 32, 33, 63]),
    "body_len": around(model.MAX_VALUE, 2**64 - 1)
    | st.sampled_from([model.MAX_BATCH, model.MAX_BATCH + 1]),
}


@st.composite
def damaged(
    draw: st.DrawFn,
    values: st.SearchStrategy[Any],
    wild: dict[str, st.SearchStrategy[Any]],
) -> Any:
    """A valid value with one or two of its fields set to anything."""
    names = draw(st.lists(st.sampled_from(sorted(wild)), min_size=1, max_size=2))
    return replace(draw(values), **{name: draw(wild[name]) for name in names})


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed; the length stays."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(U8)
    return bytes(changed)


# ---- items ---------------------------------------------------------------------------

FIELD_VALUES: dict[str, st.SearchStrategy[int]] = {
    "header_len": up_to(model.MAX_HEADER),
    "depth": U32,
    "rkey": U32,
    "group": U64,
    "checksum": U64,
    "generation": U64,
    "address": st.integers(0, 2**64 - 1 - model.MAX_VALUE),
    "lease_ms": up_to(model.MAX_LEASE_MS),
    "ttl_ms": U32,
    "idle_ms": U64,
}
WILD_REQUEST_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "key": filled(around(model.MAX_KEY, model.MAX_KEY + 1)),
    "header_len": around(model.MAX_HEADER, 65_535),
    "flags": st.sampled_from([REMOTE, 2, 3, 2**31]),
    "depth": U32,
    "rkey": U32,
    "group": U64,
    "length": around(model.MAX_VALUE, 2**64 - 1),
    "checksum": U64,
    "generation": U64,
    "address": U64,
    "lease_ms": around(model.MAX_LEASE_MS, 2**32 - 1),
    "ttl_ms": U32,
}
WILD_REPLY_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "index": around(model.MAX_ITEMS - 1, 2**32 - 1),
    "status": WILD_FRAME_FIELDS["status"],
    "flags": st.integers(0, 16) | U32,
    "key": filled(around(model.MAX_KEY, model.MAX_KEY + 1)),
    "header_len": around(model.MAX_HEADER, 65_535),
    "length": around(model.MAX_VALUE, 2**64 - 1),
    "checksum": U64,
    "generation": U64,
    "idle_ms": U64,
}


def lengths(n: int) -> st.SearchStrategy[int]:
    """Payload lengths of which n fit one frame."""
    return up_to(model.MAX_VALUE if n == 1 else model.MAX_BATCH // n)


@st.composite
def requests(draw: st.DrawFn, kind: int, n: int) -> Request:
    """A valid item, one of n."""
    used = REQUEST_FIELDS[kind]
    item = Request(b"" if kind == LIST else draw(KEYS))
    if kind in (GET, PUT) and draw(st.booleans()):
        item = replace(item, flags=REMOTE)
    else:
        used = used - {"address", "rkey"}
    item = replace(
        item, **{name: draw(FIELD_VALUES[name]) for name in used & set(FIELD_VALUES)}
    )
    if "length" in used:
        item = replace(item, length=draw(lengths(n)))
    if kind == PUT:
        header = draw(HEADERS)
        item = replace(item, header=header, header_len=len(header))
    return item


@st.composite
def replies(draw: st.DrawFn, kind: int, n: int) -> Reply:
    """A valid item, one of n."""
    status = 0 if kind == LIST else draw(st.just(0) | STATUSES)
    index = draw(U32 if kind == LIST else up_to(model.MAX_ITEMS - 1))
    item = Reply(index, status)
    if kind == LIST:
        item = replace(item, key=draw(KEYS))
    if kind in (GET, PUT) and draw(st.booleans()):
        item = replace(item, flags=REMOTE)
    if status in (model.OK, model.TOO_SMALL):
        used = REPLY_FIELDS[kind] & set(FIELD_VALUES)
        item = replace(item, **{name: draw(FIELD_VALUES[name]) for name in used})
        if "length" in REPLY_FIELDS[kind]:
            item = replace(item, length=draw(lengths(n)))
    if status != model.OK:
        return item
    flags = item.flags
    if kind == GET and item.length > 0 and flags == 0:
        flags = PAYLOAD
    if kind == STAT and draw(st.booleans()):
        flags |= LEASED
    if kind in (STAT, GET, LIST) and draw(st.booleans()):
        flags |= HEADER
        item = replace(item, header=draw(filled(st.just(item.header_len))))
    return replace(item, flags=flags)


@st.composite
def request_tables(draw: st.DrawFn) -> tuple[model.Frame, list[Request]]:
    """The head of a request and its items, all valid."""
    kind = draw(st.sampled_from(ITEM_KINDS))
    n = 1 if kind == LIST else draw(st.integers(1, 6))
    head = model.Frame(kind, LAST, id=draw(U32))
    return head, [draw(requests(kind, n)) for _ in range(n)]


@st.composite
def reply_tables(draw: st.DrawFn) -> tuple[model.Frame, list[Reply]]:
    """The head of a reply and its items, all valid."""
    kind = draw(st.sampled_from((*ITEM_KINDS, GET, DELETE)))
    n = draw(st.integers(0, 6))
    head = model.Frame(kind, REPLY | LAST, id=draw(U32))
    return head, [draw(replies(kind, n)) for _ in range(n)]


# ---- tables without items ------------------------------------------------------------

MAX_REQUESTS = st.sampled_from([1, 2, 65_535])
MAX_TABLES = st.sampled_from([65_536, 65_537, model.MAX_TABLE])
NAMES = filled(st.sampled_from([1, 2, model.MAX_NAME])) | st.binary(
    min_size=1, max_size=8
)


@st.composite
def client_hellos(draw: st.DrawFn) -> model.ClientHello:
    """A valid HELLO request."""
    low, high = sorted((draw(U16.filter(bool)), draw(U16.filter(bool))))
    suite = draw(st.sampled_from([0, 1, 2, 255]))
    return model.ClientHello(
        version_low=low,
        version_high=high,
        features=draw(U32),
        suite=suite,
        max_requests=draw(MAX_REQUESTS),
        max_table=draw(MAX_TABLES),
        key_id=draw(U64) if suite else 0,
        client_id=draw(U64),
        nonce=draw(NONCES),
        name_space=draw(st.just(b"") | NAMES),
    )


def server_hellos() -> st.SearchStrategy[model.ServerHello]:
    """A valid HELLO reply."""
    return st.builds(
        model.ServerHello,
        version=U16.filter(bool),
        features=U32,
        suite=U8,
        max_requests=MAX_REQUESTS,
        max_table=MAX_TABLES,
        boot_id=U64,
        uptime_ms=U64,
        nonce=NONCES,
        name=NAMES,
    )


def rdma_params() -> st.SearchStrategy[model.RdmaParams]:
    """Valid parameters of a queue pair."""
    return st.builds(
        model.RdmaParams,
        qpn=up_to(2**24 - 1),
        psn=up_to(2**24 - 1),
        gid=st.binary(min_size=16, max_size=16),
        lid=U16,
        mtu=st.integers(1, 5),
        reads_in=U8,
        reads_out=U8,
    )


WILD_LIMITS = {
    "max_requests": around(65_535, 2**32 - 1),
    "max_table": around(model.MAX_TABLE, 2**32 - 1) | st.just(65_535),
}
WILD_TABLE_FIELDS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    model.ClientHello: WILD_LIMITS
    | {
        "version_low": U16,
        "version_high": U16,
        "suite": U8,
        "key_id": U64,
        "name_space": filled(around(model.MAX_NAMESPACE, 200)),
    },
    model.ServerHello: WILD_LIMITS
    | {"version": U16, "name": filled(around(model.MAX_NAME, 200))},
    model.RdmaParams: {
        "qpn": around(2**24 - 1, 2**32 - 1),
        "psn": around(2**24 - 1, 2**32 - 1),
        "mtu": st.integers(0, 6) | U8,
    },
}
