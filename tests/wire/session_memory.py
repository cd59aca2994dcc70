"""The memory that a session is lent, and how a stream cuts what it carries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from memkv_lmcache._memkv import ffi
from wire.codec import GuardedPages
from wire.session_model import Message


class Guarded:
    """Exactly n bytes before a page that must not be touched."""

    def __init__(self, data: bytes) -> None:
        self.pages = GuardedPages(len(data))
        self.start = self.pages.place(data)
        self.len = len(data)

    def content(self) -> bytes:
        return bytes(ffi.buffer(self.start, self.len))


def in_pieces(random: Random, length: int, most: int) -> list[int]:
    """`length` as a sum of one to `most` numbers, none of them 0."""
    cuts = random.sample(range(1, length), min(random.randrange(most), length - 1))
    edges = [0, *sorted(cuts), length]
    return [end - start for start, end in pairwise(edges)]


def in_chunks(random: Random, length: int) -> Iterator[int]:
    """Sizes of reads: some tiny, some longer than a frame."""
    while length > 0:
        size = random.choice([1, 7, 56, 57, 200, length])
        yield size
        length -= size


class Outgoing:
    """A frame on its way out, in the owner's memory."""

    def __init__(self, message: Message, random: Random) -> None:
        self.frame = ffi.new("mkv_frame *")
        for name in ("kind", "flags", "status", "items", "id", "budget_ms"):
            setattr(self.frame, name, getattr(message.frame, name))
        self.frame.table_len = len(message.table)
        self.frame.body_len = len(message.body)
        ffi.memmove(self.frame.tag, bytes([0xA5]) * 16, 16)  # not looked at
        self.control = Guarded(b"\xa5" * 56 + message.table)
        self.pieces, sizes = [], []
        if message.body:
            sizes = in_pieces(random, len(message.body), 4)
        self.body = ffi.new("struct iovec[]", len(sizes))
        at = 0
        for i, size in enumerate(sizes):
            self.pieces.append(Guarded(message.body[at : at + size]))
            self.body[i].iov_base, self.body[i].iov_len = self.pieces[-1].start, size
            at += size
        self.node = ffi.new("mkv_outgoing *")
        self.node.control = self.control.start
        self.node.body, self.node.n_body = self.body, len(sizes)
