"""The wire format a second time, written from docs/wire.md and not from wire.c.

Two independent writings of one document disagree wherever one of them is wrong, or
the document is unclear. Plain values in, bytes out, and back; ``Refused`` is raised for
everything that the document forbids. Knows nothing of C. Here: frames and the tables
without items; model_items.py has the others, model_hashes.py what is hashed.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

HELLO, AUTH, RDMA, STAT, GET, PUT, DELETE, LIST, INFO, PING = range(1, 11)
ITEM_KINDS = (STAT, GET, PUT, DELETE, LIST)
REPLY, LAST = 1, 2
REMOTE, LEASED, HEADER, PAYLOAD = 1, 2, 4, 8
OK, TOO_SMALL = 0, -12

MAX_KEY, MAX_HEADER, MAX_NAMESPACE, MAX_NAME = 512, 4096, 128, 128
MAX_VALUE, MAX_BATCH = 2**32, 2**24
MAX_ITEMS, MAX_TABLE = 1024, 262_144
MAX_LEASE_MS, MAX_BUDGET_MS = 600_000, 86_400_000

PREFIX = struct.Struct("<4s4BiIIII4xQ16s")
HELLO_REQUEST = struct.Struct("<HHIB3xIIH2xQQ32s")
HELLO_REPLY = struct.Struct("<H2xIB3xIIH2xQQ32s")
RDMA_PARAMS = struct.Struct("<II16sHBBB3x")


class Refused(Exception):
    """The document forbids it."""


def check(rule: bool) -> None:
    """Refuses where the rule does not hold."""
    if not rule:
        raise Refused


@dataclass(frozen=True)
class Frame:
    """A prefix; the order of the fields is the order on the wire."""

    kind: int
    flags: int = LAST
    status: int = 0
    items: int = 0
    id: int = 0
    budget_ms: int = 0
    table_len: int = 0
    body_len: int = 0
    tag: bytes = bytes(16)


@dataclass(frozen=True)
class ClientHello:
    """The table of a HELLO request."""

    version_low: int
    version_high: int
    features: int
    suite: int
    max_requests: int
    max_table: int
    key_id: int
    client_id: int
    nonce: bytes
    name_space: bytes


@dataclass(frozen=True)
class ServerHello:
    """The table of a HELLO reply."""

    version: int
    features: int
    suite: int
    max_requests: int
    max_table: int
    boot_id: int
    uptime_ms: int
    nonce: bytes
    name: bytes


@dataclass(frozen=True)
class RdmaParams:
    """The table of an RDMA frame."""

    qpn: int
    psn: int
    gid: bytes
    lid: int
    mtu: int
    reads_in: int
    reads_out: int


# ---- section 3: frames ---------------------------------------------------------------

# kind: (items, table_len, body_len) as (lowest, highest)
ANY_TABLE, NONE, ANY_BODY = (0, MAX_TABLE), (0, 0), (0, MAX_VALUE)
ROWS, ANY_ROWS = (1, MAX_ITEMS), (0, MAX_ITEMS)
REQUEST_SHAPES = {
    HELLO: (NONE, (72, 200), NONE),
    AUTH: (NONE, (32, 32), NONE),
    RDMA: (NONE, (32, 32), NONE),
    STAT: (ROWS, (64, MAX_TABLE), NONE),
    GET: (ROWS, (64, MAX_TABLE), NONE),
    PUT: (ROWS, (64, MAX_TABLE), ANY_BODY),
    DELETE: (ROWS, (64, MAX_TABLE), NONE),
    LIST: ((1, 1), (64, 64), NONE),
    INFO: (NONE, NONE, NONE),
    PING: (NONE, NONE, NONE),
}
REPLY_SHAPES = {
    HELLO: (NONE, (73, 200), NONE),
    AUTH: (NONE, (32, 32), NONE),
    RDMA: (NONE, (32, 32), NONE),
    STAT: (ANY_ROWS, ANY_TABLE, NONE),
    GET: (ANY_ROWS, ANY_TABLE, ANY_BODY),
    PUT: (ANY_ROWS, ANY_TABLE, NONE),
    DELETE: (ANY_ROWS, ANY_TABLE, NONE),
    LIST: (ANY_ROWS, ANY_TABLE, NONE),
    INFO: (NONE, ANY_TABLE, NONE),
    PING: (NONE, NONE, NONE),
}
UNKNOWN_SHAPE = (ANY_ROWS, ANY_TABLE, ANY_BODY)


def check_frame(frame: Frame) -> None:
    """The rules of section 3."""
    check(1 <= frame.kind <= 255)
    check(frame.flags & ~(REPLY | LAST) == 0)
    last = bool(frame.flags & LAST)
    if not frame.flags & REPLY:
        check(last and frame.status == 0 and frame.budget_ms <= MAX_BUDGET_MS)
        shape = REQUEST_SHAPES.get(frame.kind, UNKNOWN_SHAPE)
    else:
        check(frame.budget_ms == 0 and -99 <= frame.status <= 0)
        shape = REPLY_SHAPES.get(frame.kind, UNKNOWN_SHAPE)
        if frame.status != OK:
            shape = (NONE, NONE, NONE)
            check(last)
        elif not last and frame.kind <= PING:
            check(frame.kind in ITEM_KINDS and frame.items > 0)
    lengths = (frame.items, frame.table_len, frame.body_len)
    for length, (lowest, highest) in zip(lengths, shape, strict=True):
        check(lowest <= length <= highest)
    check(frame.items <= 1 or frame.body_len <= MAX_BATCH)


def encode_frame(frame: Frame) -> bytes:
    """The 56 bytes of a prefix."""
    check_frame(frame)
    kind, flags, *rest = astuple(frame)
    return PREFIX.pack(b"MEKV", 1, kind, flags, 0, *rest)


def decode_frame(data: bytes) -> Frame:
    """The first 56 bytes of `data`."""
    magic, version, kind, flags, reserved, *rest = PREFIX.unpack(data[:56])
    check(magic == b"MEKV" and version == 1 and reserved == 0)
    check(data[28:32] == bytes(4))
    frame = Frame(kind, flags, *rest)
    check_frame(frame)
    return frame


# ---- sections 4 and 8: tables without items ------------------------------------------


def check_limits(hello: ClientHello | ServerHello) -> None:
    """What both HELLOs have in common."""
    check(1 <= hello.max_requests <= 65_535)
    check(65_536 <= hello.max_table <= MAX_TABLE)


def check_client_hello(hello: ClientHello) -> None:
    """The rules for a HELLO request."""
    check(1 <= hello.version_low <= hello.version_high)
    check_limits(hello)
    check(hello.suite != 0 or hello.key_id == 0)
    check(len(hello.name_space) <= MAX_NAMESPACE)


def encode_client_hello(hello: ClientHello) -> bytes:
    """The table of a HELLO request."""
    check_client_hello(hello)
    *head, key_id, client_id, nonce, name_space = astuple(hello)
    rest = (len(name_space), key_id, client_id, nonce)
    return HELLO_REQUEST.pack(*head, *rest) + name_space


def decode_client_hello(table: bytes) -> ClientHello:
    """The table of a HELLO request."""
    check(len(table) >= 72 and table[9:12] == bytes(3) and table[22:24] == bytes(2))
    *head, name_space_len, key_id, client_id, nonce = HELLO_REQUEST.unpack(table[:72])
    check(name_space_len == len(table) - 72)
    hello = ClientHello(*head, key_id, client_id, nonce, table[72:])
    check_client_hello(hello)
    return hello


def check_server_hello(hello: ServerHello) -> None:
    """The rules for a HELLO reply."""
    check(hello.version >= 1)
    check_limits(hello)
    check(1 <= len(hello.name) <= MAX_NAME)


def encode_server_hello(hello: ServerHello) -> bytes:
    """The table of a HELLO reply."""
    check_server_hello(hello)
    *head, boot_id, uptime_ms, nonce, name = astuple(hello)
    return HELLO_REPLY.pack(*head, len(name), boot_id, uptime_ms, nonce) + name


def decode_server_hello(table: bytes) -> ServerHello:
    """The table of a HELLO reply."""
    check(len(table) >= 72 and table[9:12] == bytes(3) and table[22:24] == bytes(2))
    check(table[2:4] == bytes(2))
    *head, name_len, boot_id, uptime_ms, nonce = HELLO_REPLY.unpack(table[:72])
    check(name_len == len(table) - 72)
    hello = ServerHello(*head, boot_id, uptime_ms, nonce, table[72:])
    check_server_hello(hello)
    return hello


def check_rdma_params(params: RdmaParams) -> None:
    """The rules for an RDMA table."""
    check(params.qpn < 2**24 and params.psn < 2**24 and 1 <= params.mtu <= 5)


def encode_rdma_params(params: RdmaParams) -> bytes:
    """The table of an RDMA frame."""
    check_rdma_params(params)
    return RDMA_PARAMS.pack(*astuple(params))


def decode_rdma_params(table: bytes) -> RdmaParams:
    """The table of an RDMA frame."""
    check(len(table) == 32 and table[29:] == bytes(3))
    params = RdmaParams(*RDMA_PARAMS.unpack(table))
    check_rdma_params(params)
    return params
