"""Whole conversations as bytes, written from sections 3 to 5 of docs/wire.md.

And the events that an end sees in them. Knows nothing of C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from wire import model, model_hashes
from wire.model import AUTH, HELLO, LAST, REPLY, Frame

CLIENT, SERVER = 0, 1
NAMES = ("client", "server")


@dataclass(frozen=True)
class Identity:
    """What an end says of itself; `label` is a namespace or a server's name."""

    key: bytes | None
    label: bytes
    id: int
    nonce: bytes
    uptime_ms: int = 0
    max_requests: int = 64
    max_table: int = model.MAX_TABLE
    features: int = 0
    claimed_key_id: int | None = None

    @property
    def suite(self) -> int:
        return 0 if self.key is None else 1

    @property
    def key_id(self) -> int:
        if self.claimed_key_id is not None:
            return self.claimed_key_id
        return 0 if self.key is None else model_hashes.key_id(self.key)


@dataclass(frozen=True)
class Message:
    """A frame whose lengths are those of its table and body; its tag is left zero."""

    frame: Frame
    table: bytes = b""
    body: bytes = b""


# ---- what an end sees ----------------------------------------------------------------


@dataclass(frozen=True)
class Open:
    """The handshake is over; what the other end said of itself."""

    label: bytes
    id: int
    uptime_ms: int
    max_requests: int
    max_table: int


@dataclass(frozen=True)
class Begin:
    """A frame and its table."""

    frame: Frame
    table: bytes


@dataclass(frozen=True)
class Body:
    """As much of a frame's body as came, if any."""

    data: bytes


@dataclass(frozen=True)
class End:
    """A frame's last byte."""


@dataclass(frozen=True)
class Closed:
    """The end of all."""

    reason: int


Event: TypeAlias = Open | Begin | Body | End | Closed


def seen(messages: Iterable[Message]) -> list[Event]:
    """The events of frames that arrive whole."""
    events: list[Event] = []
    for message in messages:
        events.append(Begin(message.frame, message.table))
        if message.body:
            events.append(Body(message.body))
        events.append(End())
    return events


# ---- what an end says ----------------------------------------------------------------


def last_of(role: int) -> int:
    """The flags of the last or only frame that `role` sends of a request."""
    return LAST | (REPLY if role == SERVER else 0)


def plain(
    role: int, kind: int, table: bytes = b"", id: int = 0, status: int = 0
) -> bytes:
    """A frame without items, body or tag, as `role` sends it."""
    frame = Frame(kind, last_of(role), status, id=id, table_len=len(table))
    return model.encode_frame(frame) + table


def client_hello(client: Identity) -> model.ClientHello:
    """What a client of version 1 says first."""
    return model.ClientHello(
        version_low=1,
        version_high=1,
        features=client.features,
        suite=client.suite,
        max_requests=client.max_requests,
        max_table=client.max_table,
        key_id=client.key_id,
        client_id=client.id,
        nonce=client.nonce,
        name_space=client.label,
    )


def server_hello(server: Identity) -> model.ServerHello:
    """What a server of version 1 answers."""
    return model.ServerHello(
        version=1,
        features=server.features,
        suite=server.suite,
        max_requests=server.max_requests,
        max_table=server.max_table,
        boot_id=server.id,
        uptime_ms=server.uptime_ms,
        nonce=server.nonce,
        name=server.label,
    )


@dataclass(frozen=True)
class Conversation:
    """All bytes of a connection whose ends hold the same key, or none."""

    client: Identity
    server: Identity

    @property
    def ends(self) -> tuple[Identity, Identity]:
        return self.client, self.server

    @cached_property
    def hellos(self) -> tuple[bytes, bytes]:
        """Both HELLO frames, whole."""
        return (
            plain(CLIENT, HELLO, model.encode_client_hello(client_hello(self.client))),
            plain(SERVER, HELLO, model.encode_server_hello(server_hello(self.server))),
        )

    def greeting(self, role: int) -> list[bytes]:
        """The frames that `role` sends before the connection is open."""
        if self.client.key is None:
            return [self.hellos[role]]
        proof = model_hashes.proof(self.client.key, NAMES[role], self.hellos)
        return [self.hellos[role], plain(role, AUTH, proof, id=1)]

    def seal(self, role: int, sequence: int, message: Message) -> bytes:
        """Prefix and table of the frame that `role` sends as its number `sequence`."""
        frame = message.frame
        if self.client.key is not None:
            key = model_hashes.session_key(self.client.key, NAMES[role], self.hellos)
            prefix = model.encode_frame(frame)
            tag = model_hashes.tag(key, sequence, prefix, message.table)
            frame = replace(frame, tag=tag)
        return model.encode_frame(frame) + message.table

    def frames(self, role: int, messages: Sequence[Message]) -> list[bytes]:
        """Each message as `role` sends it, body included."""
        return [
            self.seal(role, sequence, message) + message.body
            for sequence, message in enumerate(messages)
        ]

    def stream(self, role: int, messages: Sequence[Message]) -> bytes:
        """All that `role` sends."""
        return b"".join(self.greeting(role) + self.frames(role, messages))

    def opening(self, role: int) -> Open:
        """What `role` learns of the other end."""
        own, other = self.ends[role], self.ends[1 - role]
        return Open(
            other.label,
            other.id,
            other.uptime_ms if role == CLIENT else 0,
            min(own.max_requests, other.max_requests),
            other.max_table,
        )
