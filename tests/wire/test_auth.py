"""Proofs, session keys and tags: libcrypto in C against Python's hmac."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache._memkv import ffi, lib
from wire import model_hashes

KEYS = st.binary(min_size=32, max_size=32)
HELLOS = st.tuples(st.binary(max_size=512), st.binary(max_size=512))
SENDERS = {"client": lib.MKV_FROM_CLIENT, "server": lib.MKV_FROM_SERVER}
each_sender = pytest.mark.parametrize("sender", SENDERS)


def transcript_of(hellos: tuple[bytes, bytes]) -> tuple[Any, list[Any]]:
    """The C struct, and what must live as long as it."""
    kept = [ffi.from_buffer(hello) for hello in hellos]
    transcript = ffi.new(
        "mkv_transcript *",
        {
            "client_hello": kept[0],
            "client_hello_len": len(hellos[0]),
            "server_hello": kept[1],
            "server_hello_len": len(hellos[1]),
        },
    )
    return transcript, kept


@contextmanager
def open_tagger(key: bytes, sender: str, hellos: tuple[bytes, bytes]) -> Iterator[Any]:
    """A tagger of `sender`, closed again."""
    transcript, kept = transcript_of(hellos)
    out = ffi.new("mkv_tagger **")
    assert lib.mkv_tagger_open(key, SENDERS[sender], transcript, out) == lib.MEMKV_OK
    del kept
    try:
        yield out[0]
    finally:
        lib.mkv_tagger_close(out[0])


def next_tag(tagger: Any, prefix: bytes, table: bytes) -> bytes:
    """mkv_tagger_next."""
    out = ffi.new("uint8_t[]", lib.MKV_TAG_LEN)
    status = lib.mkv_tagger_next(
        tagger, prefix, len(prefix), ffi.from_buffer(table), len(table), out
    )
    assert status == lib.MEMKV_OK
    return bytes(ffi.buffer(out))


@given(KEYS)
def test_a_key_id_is_that_of_the_document(key: bytes) -> None:
    """Any other client computes the same name for a key."""
    out = ffi.new("uint64_t *")
    assert lib.mkv_key_id(key, out) == lib.MEMKV_OK
    assert out[0] == model_hashes.key_id(key)


@each_sender
@given(key=KEYS, hellos=HELLOS)
def test_a_proof_is_that_of_the_document(
    sender: str, key: bytes, hellos: tuple[bytes, bytes]
) -> None:
    """Any other end computes the same proof."""
    transcript, _kept = transcript_of(hellos)
    out = ffi.new("uint8_t[]", lib.MKV_PROOF_LEN)
    assert lib.mkv_proof(key, SENDERS[sender], transcript, out) == lib.MEMKV_OK
    assert bytes(ffi.buffer(out)) == model_hashes.proof(key, sender, hellos)


@each_sender
@given(
    key=KEYS,
    hellos=HELLOS,
    frames=st.lists(
        st.tuples(st.binary(min_size=40, max_size=40), st.binary(max_size=300)),
        max_size=5,
    ),
)
def test_tags_are_those_of_the_document(
    sender: str,
    key: bytes,
    hellos: tuple[bytes, bytes],
    frames: list[tuple[bytes, bytes]],
) -> None:
    """Each frame's tag, counted from 0, under the key of its direction."""
    session = model_hashes.session_key(key, sender, hellos)
    with open_tagger(key, sender, hellos) as tagger:
        for sequence, (head, table) in enumerate(frames):
            prefix = head + bytes(16)
            expected = model_hashes.tag(session, sequence, prefix, table)
            assert next_tag(tagger, prefix, table) == expected


@given(key=KEYS, hellos=HELLOS, table=st.binary(max_size=64))
def test_no_two_frames_share_a_tag(
    key: bytes, hellos: tuple[bytes, bytes], table: bytes
) -> None:
    """The same bytes sent twice, or the other way, are tagged otherwise: no replay."""
    prefix = bytes(56)
    with (
        open_tagger(key, "client", hellos) as client,
        open_tagger(key, "server", hellos) as server,
    ):
        tags = [next_tag(tagger, prefix, table) for tagger in (client, client, server)]
    assert len(set(tags)) == 3


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255), st.integers(1, 255))
def test_equal_sees_each_byte(digest: bytes, at: int, change: int) -> None:
    """mkv_equal differs from memcmp in time only."""
    other = bytearray(digest)
    assert lib.mkv_equal(digest, ffi.from_buffer(other), 32)
    other[at % 32] ^= change
    assert not lib.mkv_equal(digest, ffi.from_buffer(other), 32)
