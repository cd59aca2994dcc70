"""A real mkv_session and its owner, who notes what happens and trusts nothing.

Tables, sinks and outgoing frames lie against guard pages. What the header promises of
each call is asserted in each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat
from random import Random
from typing import Any

from memkv_lmcache._memkv import ffi, lib
from wire.codec import read
from wire.model import Frame
from wire.session_memory import Guarded, Outgoing, in_chunks, in_pieces
from wire.session_model import (
    CLIENT,
    SERVER,
    Begin,
    Body,
    Closed,
    Conversation,
    End,
    Event,
    Identity,
    Message,
    Open,
)

MAX_IOV = 6


class Session:
    """A session of either role."""

    def __init__(self, role: int, identity: Identity, random: Random) -> None:
        self.role, self.random = role, random
        self.events: list[Event] = []
        self.c = ffi.gc(ffi.new("mkv_session *"), lib.mkv_session_fini)
        self.key = None if identity.key is None else Guarded(identity.key)
        label = Guarded(identity.label)
        own = ffi.new("mkv_identity *")
        own.key = ffi.NULL if self.key is None else self.key.start
        own.key_id, own.id = identity.key_id, identity.id
        own.uptime_ms, own.max_requests = identity.uptime_ms, identity.max_requests
        own.label, own.label_len = label.start, label.len
        ffi.memmove(own.nonce, identity.nonce, len(identity.nonce))
        assert lib.mkv_session_init(self.c, role, own) == lib.MEMKV_OK
        ffi.memmove(label.start, bytes(label.len), label.len)  # it has its own copy
        self.table: Guarded | None = None
        self.sinks: list[Guarded] = []
        self.sink: Any = None
        self.body = b""
        self.outgoing: list[Outgoing] = []
        self.returned = 0

    @property
    def is_closed(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Closed)

    @property
    def is_open(self) -> bool:
        return bool(lib.mkv_session_is_open(self.c))

    @property
    def is_quiet(self) -> bool:
        return bool(lib.mkv_session_is_quiet(self.c))

    # ---- in --------------------------------------------------------------------------

    def feed(self, data: bytes, sizes: Iterable[int] | None = None) -> list[Event]:
        """Lets `data` arrive in chunks of `sizes`, None: in one piece.

        Returns all events so far.
        """
        at = 0
        for size in [len(data)] if sizes is None else sizes:
            end = min(at + size, len(data))
            while at < end and not self.is_closed:
                at += self.read(data[at:end])
        assert at == len(data) or self.is_closed
        return self.events

    def feed_bytewise(self, data: bytes) -> list[Event]:
        """Lets `data` arrive byte by byte."""
        return self.feed(data, repeat(1, len(data)))

    def feed_at_random(self, data: bytes) -> list[Event]:
        """Lets `data` arrive in chunks of any size."""
        return self.feed(data, in_chunks(self.random, len(data)))

    def hang_up(self, reason: int) -> list[Event]:
        """The stream's end."""
        lib.mkv_session_hang_up(self.c, reason)
        self.drain()
        return self.events

    def read(self, data: bytes) -> int:
        """As recvmsg would: fills what is named, as far as `data` goes."""
        cap = self.random.randint(2, MAX_IOV)
        iov = ffi.new("struct iovec[]", cap)
        n = lib.mkv_session_want_read(self.c, iov, cap)
        assert 0 < n <= cap
        moved = 0
        for i in range(n):
            assert iov[i].iov_len > 0
            part = data[moved : moved + iov[i].iov_len]
            ffi.memmove(iov[i].iov_base, part, len(part))
            moved += len(part)
        lib.mkv_session_did_read(self.c, moved)
        self.drain()
        return moved

    def drain(self) -> None:
        """Answers events until there is none."""
        answers = {
            lib.MKV_EVENT_OPEN: self.on_open,
            lib.MKV_EVENT_TABLE: self.on_table,
            lib.MKV_EVENT_FRAME: self.on_frame,
            lib.MKV_EVENT_BODY: self.on_body,
            lib.MKV_EVENT_END: self.on_end,
            lib.MKV_EVENT_CLOSED: self.on_closed,
        }
        event = lib.mkv_session_next(self.c)
        while event != lib.MKV_EVENT_NONE and not self.is_closed:
            answers[event]()
            event = lib.mkv_session_next(self.c)
        if self.is_closed:
            assert event == lib.MKV_EVENT_CLOSED
            assert self.events[-1] == Closed(self.c.reason)
            assert not self.is_open
            assert lib.mkv_session_want_read(self.c, ffi.NULL, MAX_IOV) == 0

    def on_open(self) -> None:
        assert self.events == []
        assert self.is_open
        if self.key is not None:  # nor is the key read after the handshake
            ffi.memmove(self.key.start, bytes(32), 32)
        peer = self.c.peer
        label = bytes(ffi.buffer(peer.label, peer.label_len))
        numbers = (peer.id, peer.uptime_ms, peer.max_requests, peer.max_table)
        self.events.append(Open(label, *numbers))

    def on_table(self) -> None:
        assert self.c.frame.table_len > 0
        assert lib.mkv_session_want_read(self.c, ffi.NULL, MAX_IOV) == 0
        self.table = Guarded(bytes(self.c.frame.table_len))
        lib.mkv_session_give_table(self.c, self.table.start)

    def current(self) -> Begin:
        """The frame that is being read."""
        frame: Frame = read(self.c.frame, Frame)
        table = b"" if self.table is None else self.table.content()
        return Begin(replace(frame, tag=bytes(16)), table)

    def on_frame(self) -> None:
        self.body = b""
        self.events.append(self.current())

    def on_body(self) -> None:
        self.gather()
        assert len(self.body) + self.c.body_left == self.c.frame.body_len
        most = self.random.randint(1, min(self.c.body_left, 2**20))
        sizes = in_pieces(self.random, most, MAX_IOV + 2)
        self.sinks = [Guarded(bytes(size)) for size in sizes]
        self.sink = ffi.new("struct iovec[]", len(sizes))
        for i, sink in enumerate(self.sinks):
            self.sink[i].iov_base, self.sink[i].iov_len = sink.start, sink.len
        lib.mkv_session_give_sink(self.c, self.sink, len(sizes))

    def gather(self) -> None:
        """Takes what has come out of the sinks."""
        come = self.c.frame.body_len - self.c.body_left - len(self.body)
        self.body += b"".join(sink.content() for sink in self.sinks)[:come]
        self.sinks, self.sink = [], None

    def note_body(self) -> None:
        if self.events and isinstance(self.events[-1], Begin):
            self.gather()
            if self.body:
                self.events.append(Body(self.body))

    def on_end(self) -> None:
        assert self.c.body_left == 0
        assert self.events[-1] == self.current()  # valid until now
        self.note_body()
        self.events.append(End())
        self.table = None

    def on_closed(self) -> None:
        self.note_body()
        self.events.append(Closed(self.c.reason))

    # ---- out -------------------------------------------------------------------------

    def send(self, message: Message) -> int:
        """Queues a frame if the session takes it."""
        out = Outgoing(message, self.random)
        before = self.c.out_bytes
        status = lib.mkv_session_send(self.c, out.frame, out.node)
        if status == lib.MEMKV_OK:
            self.outgoing.append(out)
            before += 56 + len(message.table) + len(message.body)
        assert self.c.out_bytes == before
        return int(status)

    def write(self, most: int) -> bytes:
        """As sendmsg would: takes up to `most` bytes of what is named."""
        cap = self.random.randint(1, MAX_IOV)
        iov = ffi.new("struct iovec[]", cap)
        n = lib.mkv_session_want_write(self.c, iov, cap)
        assert n <= cap
        assert (n == 0) == (self.c.out_head == ffi.NULL) == (self.c.out_bytes == 0)
        named = [bytes(ffi.buffer(iov[i].iov_base, iov[i].iov_len)) for i in range(n)]
        data = b"".join(named)[:most]
        before = self.c.out_bytes
        self.take_back(lib.mkv_session_did_write(self.c, len(data)))
        assert self.c.out_bytes == before - len(data)
        return data

    def take_back(self, node: Any) -> None:
        """The oldest frames come back in order; their memory is gone at once."""
        while node != ffi.NULL:
            out = self.outgoing.pop(0)
            assert node == out.node
            assert node.left == 0
            node = node.next
            self.returned += 1

    def write_all(self, most: int | None = None) -> bytes:
        """All that is queued, in writes of up to `most` bytes each, None: any."""
        data = b""
        while self.c.out_head != ffi.NULL:
            data += self.write(most or self.random.choice([1, 55, 56, 300, 2**30]))
        return data


def session(talk: Conversation, role: int, cuts: Random) -> Session:
    """The end of that role."""
    return Session(role, talk.ends[role], cuts)


def opened(talk: Conversation, role: int, cuts: Random) -> Session:
    """The same after the handshake."""
    end = session(talk, role, cuts)
    end.feed(b"".join(talk.greeting(1 - role)))
    assert end.write_all() == b"".join(talk.greeting(role))
    assert end.events == [talk.opening(role)]
    return end


class Pair:
    """A client and a server with a stream between them that cuts as it likes."""

    def __init__(self, client: Identity, server: Identity, random: Random) -> None:
        self.random = random
        self.ends = (
            Session(CLIENT, client, random),
            Session(SERVER, server, random),
        )

    def step(self) -> None:
        """Moves some bytes one way."""
        role = self.random.choice([CLIENT, SERVER])
        data = self.ends[role].write(self.random.choice([1, 30, 56, 500, 2**30]))
        self.ends[1 - role].feed_at_random(data)

    def settle(self) -> None:
        """Moves bytes until both ends have nothing to say."""
        while any(end.c.out_head != ffi.NULL for end in self.ends):
            self.step()
