"""The C codec behind the same face as the model: plain values in and out.

``Refused`` stands for MEMKV_ERR_PROTOCOL when decoding and for MEMKV_ERR_INVALID when
encoding; any other failure is an assertion. Each source lies directly before a page
that must not be touched, and each output is filled with a pattern that a failure must
leave alone.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from memkv_lmcache._memkv import ffi, lib
from wire.model import (
    ClientHello,
    Frame,
    RdmaParams,
    Refused,
    ServerHello,
)
from wire.model_items import Reply, Request

PATTERN = b"\xa5"
C_TYPES = {
    Frame: "mkv_frame",
    Request: "mkv_request",
    Reply: "mkv_reply",
    ClientHello: "mkv_client_hello",
    ServerHello: "mkv_server_hello",
    RdmaParams: "mkv_rdma_params",
}
ARRAYS = ("tag", "nonce", "gid")
POINTERS = ("key", "name_space", "name")


class GuardedPages:
    """Memory that ends before a page whose use is a SIGSEGV."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.end = -(-size // page) * page
        self.pages = mmap.mmap(-1, self.end + page)
        self.memory = ffi.from_buffer("uint8_t[]", self.pages, require_writable=True)
        address = int(ffi.cast("uintptr_t", self.memory)) + self.end
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, data: bytes) -> Any:
        """A pointer to a copy of `data`, valid until the next one is placed."""
        start = self.memory + self.end - len(data)
        ffi.memmove(start, data, len(data))
        return start


SOURCE = GuardedPages(lib.MKV_MAX_TABLE + lib.MKV_REQUEST_ROW)


def fill(struct: Any, value: Any) -> list[Any]:
    """Copies a dataclass into its C struct; the result keeps its pointers alive."""
    kept = []
    for name in (field.name for field in fields(value)):
        content = getattr(value, name)
        if name in ARRAYS:
            ffi.memmove(getattr(struct, name), content, len(content))
        elif isinstance(content, bytes):
            kept.append(ffi.new("uint8_t[]", len(content)))
            ffi.memmove(kept[-1], content, len(content))
            setattr(struct, name, kept[-1] if content else ffi.NULL)
            if name in POINTERS:
                setattr(struct, name + "_len", len(content))
        else:
            setattr(struct, name, content)
    return kept


def read(struct: Any, kind: type) -> Any:
    """The dataclass for a C struct that was decoded."""
    content: dict[str, Any] = {}
    for name in (field.name for field in fields(kind)):
        value = getattr(struct, name)
        if name in ARRAYS:
            content[name] = bytes(ffi.buffer(value))
        elif name in (*POINTERS, "header"):
            length = getattr(struct, name + "_len")
            content[name] = b"" if value == ffi.NULL else ffi.buffer(value, length)[:]
        else:
            content[name] = value
    return kind(**content)


def pattern(c_type: str, size: int | None = None) -> Any:
    """An output nobody has written yet."""
    output = ffi.new(c_type) if size is None else ffi.new(c_type, size)
    ffi.buffer(output)[:] = PATTERN * len(ffi.buffer(output))
    return output


def judge(status: int, refusal: int, *outputs: Any) -> None:
    """Raises Refused for `refusal`, having seen that no output was written."""
    if status == lib.MEMKV_OK:
        return
    assert status == refusal
    for output in outputs:
        memory = ffi.buffer(output)[:]
        assert memory == PATTERN * len(memory)
    raise Refused


# ---- frames --------------------------------------------------------------------------


def encode_frame(frame: Frame) -> bytes:
    """mkv_frame_encode."""
    struct = ffi.new("mkv_frame *")
    fill(struct, frame)
    output = pattern("uint8_t[]", lib.MKV_PREFIX_LEN)
    judge(lib.mkv_frame_encode(struct, output), lib.MEMKV_ERR_INVALID, output)
    return bytes(ffi.buffer(output))


def decode_frame(data: bytes) -> Frame:
    """mkv_frame_decode."""
    output = pattern("mkv_frame *")
    status = lib.mkv_frame_decode(SOURCE.place(data[:56]), output)
    judge(status, lib.MEMKV_ERR_PROTOCOL, output)
    frame: Frame = read(output, Frame)
    return frame


# ---- tables of items -----------------------------------------------------------------


def encode_items(
    frame: Frame, items: Sequence[Any], kind: type, cap: int | None
) -> tuple[Frame, bytes]:
    """mkv_requests_encode or mkv_replies_encode; cap None: as large as it takes."""
    array = ffi.new(f"{C_TYPES[kind]}[]", len(items))
    kept = [fill(array[i], item) for i, item in enumerate(items)]
    head = ffi.new("mkv_frame *")
    fill(head, frame)
    before = ffi.buffer(head)[:]
    if kind is Request:
        size = lib.mkv_requests_size(frame.kind, array, len(items))
        encode = lib.mkv_requests_encode
    else:
        size = lib.mkv_replies_size(array, len(items))
        encode = lib.mkv_replies_encode
    table = pattern("uint8_t[]", size if cap is None else cap)
    status = encode(head, array, len(items), table, len(table))
    if status != lib.MEMKV_OK:
        assert ffi.buffer(head)[:] == before
    if status == lib.MEMKV_ERR_TOO_SMALL and size > len(table):
        judge(status, status, table)
    judge(status, lib.MEMKV_ERR_INVALID, table)
    assert len(kept) == len(items)
    result: Frame = read(head, Frame)
    assert result.table_len == size
    return result, ffi.buffer(table)[:size]


def decode_items(frame: Frame, table: bytes, kind: type) -> list[Any]:
    """mkv_requests_begin and _next, or mkv_replies_begin and _next."""
    assert frame.table_len == len(table)
    head = ffi.new("mkv_frame *")
    fill(head, frame)
    cursor = pattern("mkv_cursor *")
    source = SOURCE.place(table)
    if kind is Request:
        status, step = (
            lib.mkv_requests_begin(head, source, cursor),
            (lib.mkv_requests_next),
        )
    else:
        status, step = lib.mkv_replies_begin(head, source, cursor), lib.mkv_replies_next
    judge(status, lib.MEMKV_ERR_PROTOCOL, cursor)
    items = []
    struct = ffi.new(f"{C_TYPES[kind]} *")
    while step(cursor, struct):
        items.append(read(struct, kind))
    assert len(items) == frame.items
    last = ffi.buffer(struct)[:]
    assert not step(cursor, struct)
    assert ffi.buffer(struct)[:] == last
    return items


# ---- tables without items ------------------------------------------------------------


def encode_table(value: Any, cap: int | None = None) -> bytes:
    """mkv_client_hello_encode, mkv_server_hello_encode or mkv_rdma_params_encode."""
    c_type = C_TYPES[type(value)]
    struct = ffi.new(f"{c_type} *")
    kept = fill(struct, value)
    table = pattern("uint8_t[]", 1024 if cap is None else cap)
    written = pattern("size_t *")
    encode = getattr(lib, f"{c_type}_encode")
    status = encode(struct, table, len(table), written)
    if status == lib.MEMKV_ERR_TOO_SMALL and cap is not None:
        judge(status, status, table, written)
    judge(status, lib.MEMKV_ERR_INVALID, table, written)
    assert len(kept) <= 1
    return ffi.buffer(table)[: written[0]]


def decode_table(table: bytes, kind: type) -> Any:
    """mkv_client_hello_decode, mkv_server_hello_decode or mkv_rdma_params_decode."""
    c_type = C_TYPES[kind]
    output = pattern(f"{c_type} *")
    decode = getattr(lib, f"{c_type}_decode")
    status = decode(SOURCE.place(table), len(table), output)
    judge(status, lib.MEMKV_ERR_PROTOCOL, output)
    return read(output, kind)
