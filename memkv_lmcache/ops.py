# SPDX-License-Identifier: Apache-2.0
"""What goes into a batch and what comes out of it, and its rows as C lays them out.

No CFFI here: a batch is packed with ``struct`` in one go, which takes a fraction of
setting the fields one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from memkv_lmcache.errors import Status, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# memkv_op: code, depth, group, key, header, data, data_len, key_len, header_len, then
# ttl_ms, and its outputs status, data_size, header_size, flags
OP: Final = struct.Struct("@IIQPPPQIIIiQII")
_OUTPUTS: Final = struct.Struct("@60xiQII")
_NO_OUTPUTS: Final = (repeat(0),) * 4
_STATUSES: Final = {int(status): status for status in Status}


class Get(NamedTuple):
    """One value to be read.

    ``into`` is a writable, contiguous buffer, lent until the call returns; its contents
    are undefined unless the result is OK.  ``header_room`` is how many bytes of header
    are wanted, 0 to 4,096.  ``depth`` (the key's place in its prefix, from 1) and
    ``group`` (equal for values of use only together) are hints for eviction.
    """

    key: bytes
    into: Buffer
    header_room: int = 0
    depth: int = 0
    group: int = 0


class Put(NamedTuple):
    """One value to be stored.

    ``data`` is any contiguous buffer, lent until the call returns.  ``ttl_ms`` is its
    time to live, 0 for the server's default.  ``depth`` and ``group`` are hints as in
    :class:`Get`.
    """

    key: bytes
    data: Buffer
    header: bytes = b""
    ttl_ms: int = 0
    depth: int = 0
    group: int = 0


class Result(NamedTuple):
    """What became of one operation of a batch.

    ``size`` is of the stored value in bytes, set with OK and TOO_SMALL; ``header`` is
    its header if it was asked for and the status is OK; ``leased`` says that the value
    stays for the lease.
    """

    status: Status
    size: int
    header: bytes
    leased: bool


class Stat(NamedTuple):
    """A stored value: ``size`` in bytes, its header, and whether it is leased to us."""

    size: int
    header: bytes
    leased: bool


class Entry(NamedTuple):
    """One value of a listing; ``idle_ms`` is the time since it was last used."""

    key: bytes
    header: bytes
    size: int
    idle_ms: int
    server: str


def pack_ops(n: int, *columns: Iterable[int]) -> bytearray:
    """``n`` rows of memkv_op from the columns of its inputs, outputs zero.

    The shortest column ends the table; UsageError if that is not at ``n`` rows, or if a
    number does not fit its field.
    """
    try:
        ops = bytearray().join(map(OP.pack, *columns, *_NO_OUTPUTS))
    except struct.error as error:
        text = f"a depth, group, lease or time to live is out of range: {error}"
        raise UsageError(Status.INVALID, text) from None
    if len(ops) != n * OP.size:
        text = f"{n} keys, but not as many of everything that goes with them"
        raise UsageError(Status.INVALID, text)
    return ops


def unpack_ops(
    ops: bytearray, room: bytearray, rooms: Sequence[int] | None
) -> list[Result]:
    """The results in ``ops``, with headers from ``room`` where ``rooms`` gave some."""
    outputs = _OUTPUTS.iter_unpack(ops)
    if not rooms:
        return [
            Result(_STATUSES[status], size, b"", flags != 0)
            for status, size, _, flags in outputs
        ]
    ok = Status.OK
    return [
        Result(
            _STATUSES[status],
            size,
            bytes(room[at : at + min(header_size, cap)]) if status == ok else b"",
            flags != 0,
        )
        for (status, size, header_size, flags), at, cap in zip(
            outputs, accumulate(rooms, initial=0), rooms, strict=False
        )
    ]
