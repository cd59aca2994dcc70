# SPDX-License-Identifier: Apache-2.0
"""The shape header of a value: pack and unpack.  No torch, no I/O.

It says how the bytes of a value are to be read: their length, LMCache's memory format
and the tensors that lie in them one behind the other, so that a process which never saw
the value can rebuild it.  The layout is in ``docs/shape-header.md``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Final

import xxhash

MAX_HEADER: Final = 4096
MAX_RANK: Final = 8

_MAGIC: Final = b"MKSH"
_VERSION: Final = 1
_FIXED: Final = struct.Struct("<4sHHQHHI")
_TENSOR: Final = struct.Struct("<HBB")
_SUM: Final = struct.Struct("<Q")
_DIMS: Final = tuple(struct.Struct(f"<{rank}Q") for rank in range(MAX_RANK + 1))
_MAX_U64: Final = 2**64 - 1

# Name as torch prints it -> (code, bytes an element takes in memory).  The codes are on
# the wire: never change one, only add.
DTYPES: Final[dict[str, tuple[int, int]]] = {
    "bool": (1, 1),
    "uint8": (2, 1),
    "uint16": (3, 2),
    "uint32": (4, 4),
    "uint64": (5, 8),
    "int8": (6, 1),
    "int16": (7, 2),
    "int32": (8, 4),
    "int64": (9, 8),
    "float16": (16, 2),
    "bfloat16": (17, 2),
    "float32": (18, 4),
    "float64": (19, 8),
    "complex32": (20, 4),
    "complex64": (21, 8),
    "complex128": (22, 16),
    "float8_e4m3fn": (32, 1),
    "float8_e4m3fnuz": (33, 1),
    "float8_e5m2": (34, 1),
    "float8_e5m2fnuz": (35, 1),
    "float8_e8m0fnu": (36, 1),
    "float4_e2m1fn_x2": (37, 1),
    "uint1": (48, 1),
    "uint2": (49, 1),
    "uint3": (50, 1),
    "uint4": (51, 1),
    "uint5": (52, 1),
    "uint6": (53, 1),
    "uint7": (54, 1),
    "int1": (64, 1),
    "int2": (65, 1),
    "int3": (66, 1),
    "int4": (67, 1),
    "int5": (68, 1),
    "int6": (69, 1),
    "int7": (70, 1),
    "qint8": (80, 1),
    "quint8": (81, 1),
    "qint32": (82, 4),
    "quint4x2": (83, 1),
    "quint2x4": (84, 1),
    "bits1x8": (96, 1),
    "bits2x4": (97, 1),
    "bits4x2": (98, 1),
    "bits8": (99, 1),
    "bits16": (100, 2),
}
_NAMES: Final = {code: name for name, (code, _) in DTYPES.items()}


class HeaderError(ValueError):
    """The bytes are no header of ours for this key, or the layout cannot be packed."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ``dtype`` as torch names it ("bfloat16"), a shape of rank 0 to 8."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the value; every dtype is stored in whole bytes."""
        return prod(self.shape) * DTYPES[self.dtype][1]


@dataclass(frozen=True, slots=True)
class ShapeHeader:
    """How a value's bytes are to be read.

    ``length`` is the payload in bytes: the sum of the tensors, which lie in it one
    behind the other, or any number where there are none.  ``fmt`` is LMCache's
    MemoryFormat as a number.  ``key`` is the full text of the LMCache key, for humans
    and ``memkv ls``.
    """

    length: int
    fmt: int
    tensors: tuple[Tensor, ...]
    key: str


def pack(header: ShapeHeader, wire_key: bytes) -> bytes:
    """The header's bytes for the value stored under ``wire_key``: at most 4,096.

    The layout comes first and whole; the key's text last, cut between characters to
    what is left.  HeaderError: an unknown dtype, a rank over 8, a number out of range,
    a length that the tensors do not add up to, or more tensors than fit.
    """
    _check(header)
    parts = [b""]
    for tensor in header.tensors:
        rank = len(tensor.shape)
        parts.append(_TENSOR.pack(DTYPES[tensor.dtype][0], rank, 0))
        parts.append(_DIMS[rank].pack(*tensor.shape))
    layout = b"".join(parts)
    left = MAX_HEADER - _FIXED.size - len(layout) - _SUM.size
    if left < 0:
        raise HeaderError(
            f"{len(header.tensors)} tensors do not fit {MAX_HEADER} bytes"
        )
    text = _cut(header.key, left)
    fixed = _FIXED.pack(
        _MAGIC, _VERSION, header.fmt, header.length, len(header.tensors), len(text), 0
    )
    body = fixed + layout + text
    return body + _SUM.pack(_checksum(body, wire_key))


def unpack(data: bytes, wire_key: bytes) -> ShapeHeader:
    """What :func:`pack` made for ``wire_key``; ``data`` may be any bytes at all.

    Whatever it returns, :func:`pack` gives back the same bytes.  HeaderError: anything
    else, also a good header of another key.
    """
    if not _FIXED.size + _SUM.size <= len(data) <= MAX_HEADER:
        raise HeaderError(f"{len(data)} bytes is no length of a shape header")
    magic, version, fmt, length, n_tensors, text_len, reserved = _FIXED.unpack_from(
        data
    )
    if magic != _MAGIC:
        raise HeaderError("not a shape header")
    if version != _VERSION:
        raise HeaderError(
            f"shape header version {version}; this build reads {_VERSION}"
        )
    if not is_intact(data, wire_key):
        raise HeaderError("the shape header is damaged or belongs to another key")
    end = len(data) - _SUM.size
    if reserved:
        raise HeaderError("reserved bits are set")
    tensors = []
    at = _FIXED.size
    for _ in range(n_tensors):
        tensor, at = _unpack_tensor(data, at, end)
        tensors.append(tensor)
    if at + text_len != end:
        raise HeaderError("the lengths do not add up")
    try:
        key = data[at:end].decode()
    except UnicodeDecodeError:
        raise HeaderError("the key's text is not UTF-8") from None
    header = ShapeHeader(length, fmt, tuple(tensors), key)
    _check(header)
    return header


def is_intact(data: bytes, wire_key: bytes) -> bool:
    """Whether the checksum that ends ``data`` is that of a header of ``wire_key``."""
    end = len(data) - _SUM.size
    return end >= 0 and bool(
        _SUM.unpack_from(data, end)[0] == _checksum(data[:end], wire_key)
    )


def layout_part(data: bytes) -> bytes:
    """The beginning of an intact header, up to the key's text.

    It is equal for values of one layout whose keys' texts have one length, so that of
    thousands of headers only a few must be unpacked.
    """
    if len(data) < _FIXED.size + _SUM.size:
        return b""
    text_len = _FIXED.unpack_from(data)[5]
    return data[: max(0, len(data) - _SUM.size - text_len)]


def same_layout(a: ShapeHeader, b: ShapeHeader) -> bool:
    """Whether bytes written as ``a`` can be read as ``b``: all but the key's text."""
    return (a.length, a.fmt, a.tensors) == (b.length, b.fmt, b.tensors)


def _unpack_tensor(data: bytes, at: int, end: int) -> tuple[Tensor, int]:
    if at + _TENSOR.size > end:
        raise HeaderError("a tensor is cut short")
    code, rank, reserved = _TENSOR.unpack_from(data, at)
    at += _TENSOR.size
    if rank > MAX_RANK:
        raise HeaderError(f"rank {rank} is over {MAX_RANK}")
    if reserved:
        raise HeaderError("reserved bits are set")
    if code not in _NAMES:
        raise HeaderError(f"unknown dtype code {code}")
    if at + 8 * rank > end:
        raise HeaderError("a tensor is cut short")
    return Tensor(_NAMES[code], _DIMS[rank].unpack_from(data, at)), at + 8 * rank


def _check(header: ShapeHeader) -> None:
    if not 0 <= header.fmt <= 0xFFFF:
        raise HeaderError(f"memory format {header.fmt} is not in 0..65535")
    if not 0 <= header.length <= _MAX_U64:
        raise HeaderError(f"length {header.length} is not in 0..2**64-1")
    for tensor in header.tensors:
        if tensor.dtype not in DTYPES:
            raise HeaderError(f"unknown dtype {tensor.dtype!r}")
        if len(tensor.shape) > MAX_RANK:
            raise HeaderError(f"rank {len(tensor.shape)} is over {MAX_RANK}")
        if not all(0 <= dim <= _MAX_U64 for dim in tensor.shape):
            raise HeaderError(f"shape {tensor.shape} has a size not in 0..2**64-1")
    total = sum(tensor.nbytes for tensor in header.tensors)
    if header.tensors and total != header.length:
        raise HeaderError(f"length is {header.length}, the tensors take {total}")


def _cut(text: str, room: int) -> bytes:
    data = text.encode("utf-8", "replace")[:room]
    # what stands behind the last whole character goes
    return data.decode("utf-8", "ignore").encode()


def _checksum(body: bytes, wire_key: bytes) -> int:
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(wire_key))
