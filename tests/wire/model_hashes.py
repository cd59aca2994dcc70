"""What is hashed: sections 5, 10 and 11 of docs/wire.md, written from them alone."""

from __future__ import annotations

import hashlib
import hmac
import struct

import xxhash


def framed(*parts: bytes) -> bytes:
    """Each part behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def digest(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def key_id(key: bytes) -> int:
    """The number that names a key."""
    return int.from_bytes(digest(key, b"memkv-1 key id")[:8], "little") or 1


def proof(key: bytes, sender: str, hellos: tuple[bytes, bytes]) -> bytes:
    """The AUTH table of `sender`, which is "client" or "server"."""
    return digest(key, f"memkv-1 {sender} proof".encode(), framed(*hellos))


def session_key(key: bytes, sender: str, hellos: tuple[bytes, bytes]) -> bytes:
    """The key of the frames that `sender` sends."""
    return digest(key, f"memkv-1 {sender} frames".encode(), framed(*hellos))


def tag(session: bytes, sequence: int, prefix: bytes, table: bytes) -> bytes:
    """The tag of a frame; whatever tag `prefix` holds does not count."""
    zeroed = prefix[:40] + bytes(16)
    return digest(session, struct.pack("<Q", sequence), zeroed, table)[:16]


def checksum_seed(name_space: bytes, key: bytes, header: bytes) -> int:
    """The seed that binds a payload to its value."""
    return xxhash.xxh3_64_intdigest(framed(name_space, key, header))


def checksum(seed: int, payload: bytes) -> int:
    """The checksum of a payload."""
    hashes = b"".join(
        struct.pack("<Q", xxhash.xxh3_64_intdigest(payload[at : at + 2**20], seed=s))
        for at in range(0, len(payload), 2**20)
        for s in [(seed + at // 2**20) % 2**64]
    )
    return xxhash.xxh3_64_intdigest(hashes, seed=seed)


def slot(key: bytes) -> int:
    """The slot of a key."""
    return checksum_seed(b"", key, b"") % 262_144


def score(name: bytes, key_slot: int) -> int:
    """How much a server wants a slot."""
    return checksum_seed(name, struct.pack("<I", key_slot), b"")


def order(names: list[bytes], key: bytes) -> list[bytes]:
    """The servers of a key, the most preferred first."""
    return sorted(names, key=lambda name: (-score(name, slot(key)), name))
