"""What the tests of the session draw: ends, and the frames that they exchange.

A session looks at a frame's kind and lengths, so that these vary and the rest is kept
short; what strategies.py draws of the rest is for the codec.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st

from wire import model, model_items
from wire.model import (
    GET,
    HEADER,
    INFO,
    ITEM_KINDS,
    LAST,
    LIST,
    PAYLOAD,
    PING,
    PUT,
    RDMA,
    REMOTE,
    REPLY,
    STAT,
    Frame,
)
from wire.model_items import Reply, Request
from wire.session_model import CLIENT, SERVER, Conversation, Identity, Message, last_of
from wire.strategies import MAX_REQUESTS, MAX_TABLES, NAMES, NONCES, STATUSES, U32, U64

ROLES = pytest.mark.parametrize("role", [CLIENT, SERVER], ids=["client", "server"])
CUTS = st.randoms(use_true_random=True)
KEYS = st.binary(min_size=32, max_size=32)
KEYS_OR_NONE = KEYS | st.none()
UNKNOWN_KINDS = st.sampled_from([11, 12, 255])
LENGTHS = st.sampled_from([0, 1, 300]) | st.integers(0, 40)
# 251 is prime, so that no block of it looks like its neighbour
CONTENT = bytes(i * i % 251 for i in range(251)) * 8


def content(length: int) -> bytes:
    """Bytes among which one out of place is seen."""
    return (CONTENT * (length // len(CONTENT) + 1))[:length]


# ---- ends ----------------------------------------------------------------------------


def clients(key: bytes | None) -> st.SearchStrategy[Identity]:
    """A client."""
    return st.builds(
        Identity,
        key=st.just(key),
        label=st.just(b"") | NAMES,
        id=U64,
        nonce=NONCES,
        max_requests=MAX_REQUESTS,
    )


def servers(key: bytes | None) -> st.SearchStrategy[Identity]:
    """A server."""
    return st.builds(
        Identity,
        key=st.just(key),
        label=NAMES,
        id=U64,
        nonce=NONCES,
        uptime_ms=U64,
        max_requests=MAX_REQUESTS,
    )


@st.composite
def conversations(
    draw: st.DrawFn, keys: st.SearchStrategy[bytes | None] = KEYS_OR_NONE
) -> Conversation:
    """Two ends that agree about the key."""
    key = draw(keys)
    return Conversation(draw(clients(key)), draw(servers(key)))


@st.composite
def with_another(draw: st.DrawFn, talk: Conversation, role: int) -> Conversation:
    """The same, with `role`'s other end being of another implementation."""
    ends = list(talk.ends)
    ends[1 - role] = replace(
        ends[1 - role], features=draw(U32), max_table=draw(MAX_TABLES)
    )
    return Conversation(*ends)


# ---- messages ------------------------------------------------------------------------


def request(kind: int, length: int, flags: int) -> Request:
    """An item of a request with a key and, of the kinds that have it, a payload."""
    if kind == LIST:
        return Request(length=length)
    item = Request(key=content(1 + length % 30))
    if kind in (GET, PUT):
        item = replace(item, length=length, flags=flags)
    if kind == PUT:
        header = content(length % 50)
        item = replace(item, header=header, header_len=len(header), checksum=length)
    return item


def reply(kind: int, index: int, length: int, flags: int) -> Reply:
    """An item of a reply; one in five has failed."""
    if length % 5 == 4 and kind != LIST:
        return Reply(index, -10)
    if kind not in (STAT, GET, LIST):
        return Reply(index)
    header = content(length % 50)
    item = Reply(index, flags=HEADER, header=header, header_len=len(header))
    if kind == LIST:
        item = replace(item, key=content(1 + length % 30))
    if kind == GET and length > 0:
        item = replace(item, flags=HEADER | (flags or PAYLOAD))
    return replace(item, length=length, generation=1)


REMOTE_OR_NOT = st.sampled_from([0, 0, REMOTE])


@st.composite
def requests(draw: st.DrawFn) -> Message:
    """A request with items."""
    kind = draw(st.sampled_from((*ITEM_KINDS, PUT)))
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=1 if kind == LIST else 4))
    flags = draw(REMOTE_OR_NOT)
    items = [request(kind, length, flags) for length in lengths]
    head = Frame(kind, id=draw(U32), budget_ms=max(lengths))
    frame, table = model_items.encode_requests(head, items)
    return Message(frame, table, content(frame.body_len))


@st.composite
def replies(draw: st.DrawFn) -> Message:
    """A reply with items, the last one of its request or not."""
    kind = draw(st.sampled_from((*ITEM_KINDS, GET)))
    lengths = draw(st.lists(LENGTHS, max_size=4))
    remote = draw(REMOTE_OR_NOT)
    items = [reply(kind, i, length, remote) for i, length in enumerate(lengths)]
    flags = REPLY if items and lengths[0] % 2 else REPLY | LAST
    frame, table = model_items.encode_replies(Frame(kind, flags, id=draw(U32)), items)
    return Message(frame, table, content(frame.body_len))


@st.composite
def unknown_requests(draw: st.DrawFn) -> Message:
    """A request of a kind that version 1 does not have."""
    table, body = content(draw(LENGTHS)), content(draw(LENGTHS))
    items = draw(st.sampled_from([0, 1, model.MAX_ITEMS]))
    lengths = (len(table), len(body))
    frame = Frame(draw(UNKNOWN_KINDS), LAST, 0, items, draw(U32), 0, *lengths)
    return Message(frame, table, body)


@st.composite
def plain_messages(draw: st.DrawFn, role: int) -> Message:
    """RDMA, INFO or PING."""
    kind = draw(st.sampled_from([RDMA, INFO, PING]))
    table = b""
    if kind == RDMA:
        params = model.RdmaParams(1, 2, bytes(16), 0, 3, 4, 5)
        table = model.encode_rdma_params(params)
    elif kind == INFO and role == SERVER:
        table = content(draw(LENGTHS))
    return Message(
        Frame(kind, last_of(role), id=draw(U32), table_len=len(table)), table
    )


def refusals() -> st.SearchStrategy[Message]:
    """A reply that refuses a request as a whole."""
    kinds, flags = st.integers(RDMA, PING), st.just(REPLY | LAST)
    return st.builds(Message, st.builds(Frame, kinds, flags, STATUSES, id=U32))


def messages(role: int) -> st.SearchStrategy[Message]:
    """Any frame that `role` may send once the connection is open."""
    if role == CLIENT:
        return requests() | unknown_requests() | plain_messages(CLIENT)
    return replies() | plain_messages(SERVER) | refusals()


def talks(role: int, min_size: int = 0) -> st.SearchStrategy[list[Message]]:
    """What `role` sends on one connection."""
    return st.lists(messages(role), min_size=min_size, max_size=5)
