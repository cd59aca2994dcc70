"""Single values: what is put is what is got, within the documented limits."""

from __future__ import annotations

import random
from array import array

import pytest
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.client import Entry, Get, Put, Stat
from memkv_lmcache.errors import BufferTooSmall, Status, UsageError

from .conftest import Connect
from .serving import MIB

KIB = 1024
SIZES = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 17 * MIB]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 (test data)


@pytest.mark.parametrize("size", SIZES)
def test_a_value_survives(client: Client, size: int) -> None:
    """Every byte comes back, by each way to ask for it; header and size too."""
    data = noise(size)
    assert client.put(b"key", data, b"header") is True
    assert client.get(b"key") == data
    assert client.stat(b"key") == Stat(size, b"header", False)
    buffer = bytearray(b"\xaa" * (size + 3))
    assert client.get_into(b"key", buffer) == size
    assert buffer[:size] == data
    assert buffer[size:] == b"\xaa" * 3


def test_absence_is_an_answer(client: Client) -> None:
    """What is not there is None or False, never an error."""
    buffer = bytearray(b"\xaa" * 8)
    assert client.get(b"key") is None
    assert client.get_into(b"key", buffer) is None
    assert buffer == b"\xaa" * 8
    assert client.stat(b"key") is None
    assert client.delete(b"key") is False
    assert list(client.list()) == []


def test_a_deleted_value_is_gone(client: Client) -> None:
    """A key can be deleted once, and be stored again."""
    client.put(b"key", b"one")
    assert client.delete(b"key") is True
    assert client.get(b"key") is None
    assert client.delete(b"key") is False
    assert client.put(b"key", b"two") is True
    assert client.get(b"key") == b"two"


def test_the_same_header_exists_and_another_replaces(client: Client) -> None:
    """Values are immutable under their header; a new layout takes the old place."""
    assert client.put(b"key", b"one", b"layout 1") is True
    assert client.put(b"key", b"two", b"layout 1") is False
    assert client.get(b"key") == b"one"
    assert client.put(b"key", b"three", b"layout 2") is True
    assert client.get(b"key") == b"three"
    assert client.put(b"key", b"four", b"") is True
    assert client.stat(b"key") == Stat(4, b"", False)


def test_keys_of_every_allowed_length(client: Client) -> None:
    """1 and 512 bytes are keys, of any bytes; 0 and 513 are an error that says so."""
    for key in (b"\0", bytes(range(256)) * 2):
        assert client.put(key, key) is True
        assert client.get(key) == key
    for key in (b"", b"k" * 513):
        for call in (client.get, client.stat, client.delete):
            with pytest.raises(UsageError, match="1 to 512 bytes"):
                call(key)
        with pytest.raises(UsageError, match="1 to 512 bytes"):
            client.put(key, b"")
        [result] = client.stat_many([key])
        assert result.status is Status.INVALID


def test_headers_of_every_allowed_length(client: Client) -> None:
    """4,096 bytes are a header, 4,097 an error that says so."""
    header = noise(4096)
    assert client.put(b"key", b"value", header) is True
    assert client.stat(b"key") == Stat(5, header, False)
    with pytest.raises(UsageError, match="4096 bytes, not 4097"):
        client.put(b"other", b"value", header + b"x")
    [result] = client.put_many([Put(b"other", b"value", header + b"x")])
    assert result.status is Status.INVALID
    assert client.stat(b"other") is None


def test_a_buffer_too_small_is_left_alone(client: Client) -> None:
    """The error says what the value takes, and no byte of it arrives."""
    client.put(b"key", b"0123456789", b"header")
    buffer = bytearray(b"\xaa" * 9)
    with pytest.raises(BufferTooSmall, match="10 bytes"):
        client.get_into(b"key", buffer)
    assert buffer == b"\xaa" * 9
    [result] = client.get_many_into([Get(b"key", buffer, header_room=6)])
    assert (result.status, result.size) == (Status.TOO_SMALL, 10)
    [result] = client.get_many_into([Get(b"key", bytearray(10), header_room=5)])
    assert (result.status, result.header) == (Status.TOO_SMALL, b"")
    [result] = client.get_many_into([Get(b"key", bytearray(10), header_room=6)])
    assert (result.status, result.header) == (Status.OK, b"header")


def test_any_contiguous_buffer_will_do(client: Client) -> None:
    """Values go from and to whatever lends its memory, of any item size."""
    assert client.put(b"key", array("q", [1, 2, 3]))
    into = array("q", [0, 0, 0])
    assert client.get_into(b"key", memoryview(into)) == 24
    assert into == array("q", [1, 2, 3])


def test_memory_that_cannot_be_lent_is_named(client: Client) -> None:
    """Read-only, strided and other objects are errors that say what is wrong."""
    strided = memoryview(bytearray(8))[::2]
    with pytest.raises(UsageError, match="item 0: its data is no writable"):
        client.get_into(b"key", b"read-only")
    with pytest.raises(UsageError, match="item 0: its data is no writable"):
        client.get_into(b"key", strided)
    for data in (strided, "text", 5):
        with pytest.raises(UsageError, match="item 1: its data is no contiguous"):
            client.put_many([Put(b"a", b""), Put(b"b", data)])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a key is bytes, not str"):
        client.stat_many([b"a", "b"])  # type: ignore[list-item]
    assert client.stat(b"a") is None


def test_memory_is_pythons_again_after_a_call(client: Client) -> None:
    """Nothing keeps a buffer: it can be resized at once."""
    buffer = bytearray(8)
    client.put(b"key", buffer)
    client.get_into(b"key", buffer)
    buffer.extend(b"more")


def test_namespaces_never_meet(connect: Connect) -> None:
    """The same key in two namespaces is two values."""
    ours, theirs, none = connect(), connect(namespace="other"), connect(namespace="")
    assert ours.put(b"key", b"ours") is True
    assert theirs.put(b"key", b"theirs") is True
    assert none.get(b"key") is None
    assert theirs.delete(b"key") is True
    assert ours.get(b"key") == b"ours"
    assert [entry.key for entry in theirs.list()] == []


def test_a_listing_shows_everything(client: Client) -> None:
    """Each value stands there once, with its header and size, over several pages."""
    expected = {b"key-%d" % i: (bytes([i % 256]) * 200, i % 7) for i in range(3000)}
    client.put_many(
        [Put(key, b"v" * size, header) for key, (header, size) in expected.items()]
    )
    found = list(client.list())
    assert {entry.key: (entry.header, entry.size) for entry in found} == expected
    assert len(found) == len(expected)
    assert all(isinstance(entry, Entry) for entry in found)
    assert {entry.server for entry in found} == set(client.servers)


def test_a_time_to_live_ends(client: Client) -> None:
    """A value put for a millisecond is gone soon, one without a limit stays."""
    client.put(b"short", b"value", ttl_ms=1)
    client.put(b"long", b"value")
    wait_until(lambda: client.stat(b"short") is None)
    assert client.stat(b"long") is not None


def test_a_stat_takes_a_lease(client: Client) -> None:
    """A lookup that asks for it is told that the value stays."""
    client.put(b"key", b"value")
    assert client.stat(b"key", lease_ms=60_000) == Stat(5, b"", True)
    [absent] = client.stat_many([b"absent"], lease_ms=60_000)
    assert absent == (Status.NOT_FOUND, 0, b"", False)
