"""When things go wrong: an error or a miss within the deadline, never wrong bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from peer import Peer, relay, say, stall
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Get, Put
from memkv_lmcache.errors import (
    AuthError,
    BadChecksum,
    ConnectionLost,
    MemKVError,
    Status,
    Timeout,
    ValueTooLarge,
)

from .serving import MIB, process, served
from .test_values import noise

KEY = b"\x01" * 32
GRACE_S = 1.0
"""How late a call may return on a busy machine."""


@pytest.fixture(scope="module")
def backing() -> Iterator[NativeServer]:
    """A server behind the scripted peers."""
    with served() as server:
        yield server


def test_a_deadline_holds_against_a_silent_peer() -> None:
    """A server that accepts and says nothing costs the time-out, not more."""
    with Peer(stall) as peer, Client(peer.address) as client:
        start = time.monotonic()
        with pytest.raises(Timeout):
            client.stat(b"key", timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 0.2 + GRACE_S
        [result] = client.get_many_into([Get(b"key", bytearray(9))], timeout=0)
        assert result.status in (Status.TIMEOUT, Status.UNREACHABLE)


@pytest.mark.parametrize(
    "words", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, bytes(600), b"\xff" * 600]
)
def test_a_peer_of_another_kind_is_an_error(words: bytes) -> None:
    """What does not speak our protocol counts as a lost connection, at once."""
    with Peer(say(words), stall) as peer, Client(peer.address) as client:
        with pytest.raises(ConnectionLost):
            client.stat(b"key", timeout=5)
        assert client.state()[peer.address].startswith("down")


def test_nobody_listens() -> None:
    """A refused connection is an error at once, and the client stays usable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
    with Client(address) as client:
        for _ in range(3):
            start = time.monotonic()
            with pytest.raises(ConnectionLost):
                client.get(b"key", timeout=5)
            assert time.monotonic() - start < GRACE_S


@pytest.mark.parametrize("at", [1, 55, 56, 100, 200, 300, 400, 5_000, 50_000, 99_999])
def test_a_connection_cut_anywhere_gives_no_wrong_bytes(
    backing: NativeServer, at: int
) -> None:
    """Cut behind any byte of the reply: the value whole, or an error."""
    value = noise(100_000)
    with Client(backing.address) as client:
        client.put(b"cut", value)
    with Peer(relay(backing.address, at)) as peer, Client(peer.address) as client:
        buffer = bytearray(len(value))
        try:
            assert client.get_into(b"cut", buffer, timeout=2) == len(value)
        except (ConnectionLost, Timeout):
            return
        assert buffer == value


def test_nothing_lands_after_a_timeout(backing: NativeServer) -> None:
    """Once a get has timed out, bytes that still arrive do not touch its buffer."""
    value = noise(8 * MIB)
    with Client(backing.address) as client:
        client.put(b"late", value)
    go_on = threading.Event()
    steps = relay(backing.address, 3 * MIB, stalls_until=go_on)
    with Peer(steps) as peer, Client(peer.address) as client:
        buffer = bytearray(len(value))
        with pytest.raises(Timeout):
            client.get_into(b"late", buffer, timeout=0.5)
        assert peer.stalled.acquire(timeout=5)
        buffer[:] = b"\xaa" * len(buffer)
        go_on.set()
    assert buffer == b"\xaa" * len(buffer)


def test_half_a_put_is_never_readable(backing: NativeServer) -> None:
    """A client that vanishes in the middle of a value leaves nothing behind."""
    steps = relay(backing.address, 10 * MIB, of="client")
    with Peer(steps) as peer, Client(peer.address) as client:
        [result] = client.put_many([Put(b"half", bytes(32 * MIB))], timeout=5)
        assert result.status in (Status.DISCONNECTED, Status.UNREACHABLE)
    wait_until(lambda: backing.stats()["arriving_bytes"] == 0)
    with Client(backing.address) as client:
        assert client.get(b"half") is None
        assert client.put(b"half", b"whole") is True


def test_a_bit_flipped_on_the_way_is_noticed(backing: NativeServer) -> None:
    """The reader gets an error; the value, which is good, stays where it is."""
    value = noise(2 * MIB)
    with Client(backing.address) as direct:
        direct.put(b"flipped", value)
        steps = relay(backing.address, MIB, flips=True)
        with (
            Peer(steps) as peer,
            Client(peer.address) as client,
            pytest.raises(BadChecksum),
        ):
            client.get_into(b"flipped", bytearray(len(value)))
        assert direct.get(b"flipped") == value


def test_a_bad_value_does_not_stand_in_its_own_way(backing: NativeServer) -> None:
    """Damaged before it was stored: never read, and the next put succeeds."""
    value = noise(2 * MIB)
    steps = relay(backing.address, MIB, of="client", flips=True)
    with Peer(steps) as peer, Client(peer.address) as client:
        [stored] = client.put_many([Put(b"rotten", value)])
    with Client(backing.address) as client:
        [read] = client.get_many_into([Get(b"rotten", bytearray(len(value)))])
        assert (stored.status, read.status) in [
            (Status.OK, Status.CHECKSUM),
            (Status.CHECKSUM, Status.NOT_FOUND),
        ]
        assert client.stat(b"rotten") is None
        assert client.put(b"rotten", value) is True
        assert client.get(b"rotten") == value


@pytest.mark.parametrize(
    ("servers", "ours"), [(KEY, b"\x02" * 32), (KEY, None), (None, KEY)]
)
def test_a_wrong_key_is_an_error_that_says_so(
    servers: bytes | None, ours: bytes | None
) -> None:
    """Another, a missing and a needless key: AuthError at once, and few dials."""
    with (
        served(auth_key=servers) as server,
        Client(server.address, auth_key=ours) as client,
    ):
        for _ in range(20):
            with pytest.raises(AuthError):
                client.stat(b"key", timeout=5)
        assert client.stats()[server.address].counters["dials"] <= 5


def test_the_right_key_opens() -> None:
    """With the same key on both ends everything works."""
    with served(auth_key=KEY) as server, Client(server.address, auth_key=KEY) as client:
        assert client.put(b"key", b"value") is True
        assert client.get(b"key") == b"value"
        assert client.probe()["auth"] is True


def test_a_value_over_the_servers_limit(backing: NativeServer) -> None:
    """A value over a quarter of the memory is refused; the connection stays in step."""
    with served(memory=16 * MIB) as server, Client(server.address) as client:
        with pytest.raises(ValueTooLarge):
            client.put(b"large", bytes(5 * MIB))
        statuses = [
            result.status
            for result in client.put_many(
                [Put(b"a", b"1"), Put(b"b", bytes(5 * MIB)), Put(b"c", b"3")]
            )
        ]
        assert statuses == [Status.OK, Status.TOO_LARGE, Status.OK]
        assert client.get(b"c") == b"3"


def test_memory_is_bounded_by_eviction() -> None:
    """More is put than fits: the newest stay, and every answer is right or a miss."""
    with served(memory=16 * MIB) as server, Client(server.address) as client:
        for i in range(40):
            assert client.put(b"%d" % i, noise(MIB, i)) is True
        found = [client.get(b"%d" % i) for i in range(40)]
        assert found[-1] == noise(MIB, 39)
        assert None in found
        for i, value in enumerate(found):
            assert value is None or value == noise(MIB, i)


def test_a_killed_server_is_a_miss_and_comes_back() -> None:
    """Down: errors at once.  Restarted at the same address: found again by itself."""
    with process() as (address, child):
        client = Client(address)
        assert client.put(b"key", b"value") is True
        child.kill()
        child.wait()

        def is_down() -> bool:
            try:
                client.stat(b"key", timeout=1)
            except ConnectionLost:
                return client.state()[address].startswith("down")
            return False

        wait_until(is_down)
        start = time.monotonic()
        for _ in range(100):
            [result] = client.stat_many([b"key"], timeout=5)
            assert result.status in (Status.UNREACHABLE, Status.DISCONNECTED)
        assert time.monotonic() - start < GRACE_S
        with process(address):

            def is_back() -> bool:
                try:
                    return client.stat(b"key", timeout=1) is None
                except MemKVError:
                    return False

            wait_until(is_back, timeout=30)
            assert client.put(b"key", b"value") is True
            client.close()
