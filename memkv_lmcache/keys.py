# SPDX-License-Identifier: Apache-2.0
"""LMCache's keys as the wire carries them.  No torch, no lmcache, no I/O."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

import xxhash

MAX_KEY = 512
"""Bytes of a key on the wire (``MEMKV_MAX_KEY``)."""

MAX_TEXT = 480
"""Bytes of a key's text that still travels as it is."""


def wire_key(text: str) -> bytes:
    """The key of an LMCache key's text: 1 to 480 bytes of UTF-8.

    A longer text collapses to ``memkv-h2:`` and the BLAKE2b-256 of its UTF-8 in hex: 73
    bytes, equal in every process.  An empty text stays empty, which no server takes.
    """
    # LMCache may hand on names with lone surrogates; two of them must not meet in "?"
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= MAX_TEXT:
        return data
    return b"memkv-h2:" + hashlib.blake2b(data, digest_size=32).hexdigest().encode()


def group_hash(model: str, world_size: int, chunk_hash: int | bytes, dtype: str) -> int:
    """The eviction hint that all ranks and layers of one chunk share: 1 to 2**64 - 1.

    The parts are those of an LMCache key which do not name a rank or a layer.  Equal in
    every process; a hint only, so that a collision costs nothing but a worse eviction.
    """
    chunk = chunk_hash.hex() if isinstance(chunk_hash, bytes) else f"{chunk_hash:x}"
    text = f"{len(model)}:{model}@{world_size}@{chunk}@{dtype}"
    # 0 means "unknown" on the wire
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) or 1


# ---- the keys of LMCache's multi-process mode ----------------------------------------

_OBJECT = "mp"
_LENGTH = re.compile(r":([0-9]{1,6}):")
_REST = re.compile(r":([0-9a-f]{1,16}):([0-9a-f]{1,16}):((?:[0-9a-f]{2})*)")


class ObjectName(NamedTuple):
    """The parts of LMCache's ``ObjectKey``, called as they are there."""

    model_name: str
    cache_salt: str
    kv_rank: int
    object_group_id: int
    chunk_hash: bytes


def object_text(key: ObjectName) -> str:
    """The text of an object's key; ``key`` may be an ``ObjectKey`` as well.

    It is ``mp:<length>:<model>:<length>:<salt>:<rank>:<group>:<chunk hash>``: lengths
    in characters, the last three in hex.  Names are framed by their lengths, so that no
    two objects share a text, whatever stands in a name.
    """
    prefix = _object_prefix(
        key.model_name, key.cache_salt, key.kv_rank, key.object_group_id
    )
    return prefix + key.chunk_hash.hex()


def object_key(key: ObjectName) -> bytes:
    """The wire key of an object; ``key`` may be an ``ObjectKey`` as well."""
    return wire_key(object_text(key))


def object_group(key: ObjectName) -> int:
    """The eviction hint that ranks and groups of a chunk share; see ``group_hash``."""
    # the rank's first byte is the number of ranks
    world_size = key.kv_rank >> 24
    return group_hash(key.model_name, world_size, key.chunk_hash, key.cache_salt)


def parse_object_text(text: str) -> ObjectName | None:
    """What ``object_text`` was made from; None: it is the text of something else."""
    if not text.startswith(_OBJECT + ":"):
        return None
    names = []
    at = len(_OBJECT)
    for _ in range(2):
        length = _LENGTH.match(text, at)
        if length is None:
            return None
        at = length.end() + int(length[1])
        names.append(text[length.end() : at])
    rest = _REST.fullmatch(text, at)
    if rest is None:
        return None
    name = ObjectName(
        names[0], names[1], int(rest[1], 16), int(rest[2], 16), bytes.fromhex(rest[3])
    )
    return name if object_text(name) == text else None


# a lookup asks for thousands of chunks that differ in their hash only
@lru_cache(maxsize=4096)
def _object_prefix(model: str, salt: str, kv_rank: int, group: int) -> str:
    return f"{_OBJECT}:{len(model)}:{model}:{len(salt)}:{salt}:{kv_rank:x}:{group:x}:"
