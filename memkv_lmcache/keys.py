# SPDX-License-Identifier: Apache-2.0
"""LMCache's keys as the wire carries them.  No torch, no lmcache, no I/O."""

from __future__ import annotations

import hashlib

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
