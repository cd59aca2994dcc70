"""A server that is down costs nothing but its own chunks, and comes back by itself."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from client.serving import process, served
from peer import Peer, Step, relay, stall
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Get, Put
from memkv_lmcache.errors import Status

CHUNKS = 128
KEYS = [b"prefix/%d" % i for i in range(CHUNKS)]
VALUE = b"v" * 2000
MIB = 1024**2


@pytest.fixture
def backing() -> Iterator[NativeServer]:
    with served(name="backing") as server:
        yield server


def is_down(client: Client, server: str) -> bool:
    return client.state()[server].startswith("down: ")


def test_nobody_waits_for_a_probe() -> None:
    """A server that is down, accepts connections and says nothing costs no time."""
    with Peer(stall) as peer, Client(peer.address) as client:
        wait_until(lambda: is_down(client, peer.address))
        while peer.accepted.acquire(blocking=False):
            pass
        assert peer.accepted.acquire(timeout=10)  # a probe is on its way
        for _ in range(20):
            begin = time.monotonic()
            [result] = client.stat_many([b"key"], timeout=2)
            assert result.status is Status.UNREACHABLE
            assert time.monotonic() - begin < 1


def test_lookups_alone_notice_that_a_server_was_stopped() -> None:
    """Three time-outs are enough, and need not be of requests: a handshake counts."""
    with process() as (address, child), Client(address) as client:
        assert client.stat(b"key") is None
        os.kill(child.pid, signal.SIGSTOP)
        n = 0
        while not is_down(client, address) and n < 20:
            client.stat_many([b"key"], timeout=0.05)
            n += 1
        assert n <= 6
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: client.state()[address].startswith("up"), 30)


def slow_relay(address: str, is_slow: threading.Event) -> Step:
    """Passes everything on; while ``is_slow``, what the server says takes 60 ms."""
    host, port = address.rsplit(":", 1)

    def pump(source: socket.socket, target: socket.socket, delays: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if delays and is_slow.is_set():
                    time.sleep(0.06)
                target.sendall(data)

    def step(peer: Peer, connection: socket.socket) -> None:
        with socket.create_connection((host, int(port))) as server:
            ways = [(connection, server, False), (server, connection, True)]
            threads = [threading.Thread(target=pump, args=way) for way in ways]
            for thread in threads:
                thread.start()
            peer.ending.wait()
            for end in (connection, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()

    return step


def test_a_server_that_was_too_slow_comes_back(backing: NativeServer) -> None:
    """Far above its own normal it counts as down, and as up when a probe succeeds."""
    is_slow = threading.Event()
    with (
        Peer(slow_relay(backing.address, is_slow)) as peer,
        Client(peer.address) as client,
    ):
        for _ in range(100):
            client.stat_many([b"key"])
        is_slow.set()
        for _ in range(40):
            client.stat_many([b"key"])
            if is_down(client, peer.address):
                break
        assert client.state()[peer.address].startswith("down: slow")
        is_slow.clear()
        wait_until(lambda: client.state()[peer.address].startswith("up"))
        assert client.stat(b"key") is None


def test_a_prefix_is_whole_again_after_one_recompute() -> None:
    """Four servers, one killed: its chunks are stored once more, elsewhere."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(process()) for _ in range(4)]
        servers = [f"s{i}={address}" for i, (address, _) in enumerate(places)]
        client = stack.enter_context(Client(servers))

        def found() -> int:
            results = client.stat_many(KEYS, timeout=2)
            return [r.status for r in results].count(Status.OK)

        def store(keys: list[bytes]) -> None:
            results = client.put_many([Put(key, VALUE) for key in keys])
            assert {r.status for r in results} == {Status.OK}

        store(KEYS)
        assert found() == CHUNKS
        places[2][1].kill()
        places[2][1].wait()
        wait_until(lambda: found() < CHUNKS and is_down(client, "s2"))
        statuses = [r.status for r in client.stat_many(KEYS)]
        absent = [k for k, s in zip(KEYS, statuses, strict=True) if s is not Status.OK]
        assert statuses.count(Status.NOT_FOUND) == len(absent)
        assert CHUNKS // 8 < len(absent) < CHUNKS // 2
        store(absent)
        assert found() == CHUNKS
        buffers = [bytearray(len(VALUE)) for _ in KEYS]
        gets = [Get(*row) for row in zip(KEYS, buffers, strict=True)]
        assert {r.status for r in client.get_many_into(gets)} == {Status.OK}
        assert is_down(client, "s2")


def test_what_was_recomputed_is_found_when_the_server_is_back() -> None:
    """Restarted empty, it is asked first, and the next in order for what it lacks."""
    with process() as (other, _), process() as (address, child):
        servers = [f"a={address}", f"b={other}"]
        client = Client(servers)
        child.kill()
        child.wait()
        wait_until(lambda: is_down(client, "a"))
        client.put_many([Put(key, VALUE) for key in KEYS])
        with process(address), Client(servers) as fresh:
            wait_until(lambda: client.state()["a"].startswith("up"), 30)
            for one in (client, fresh):
                found = [r.status for r in one.stat_many(KEYS)]
                assert found == [Status.OK] * CHUNKS
            # now some are on both
            client.put_many([Put(key, VALUE) for key in KEYS])
            deleted = [r.status for r in client.delete_many(KEYS)]
            assert deleted == [Status.OK] * CHUNKS
            found = [r.status for r in fresh.stat_many(KEYS)]
            assert found == [Status.NOT_FOUND] * CHUNKS
        client.close()


def test_nothing_lands_from_a_server_that_was_stopped() -> None:
    """SIGSTOP in the middle of a get: its buffer is never written again afterwards."""
    size = 15 * MIB
    value = bytes(range(1, 251)) * (size // 250)
    cut = 0
    with process() as (address, child), Client(address) as client:
        client.put(b"big", value)
        for _ in range(20):
            buffer = bytearray(len(value))
            watcher = threading.Thread(target=stop_when_begun, args=(buffer, child.pid))
            watcher.start()
            [result] = client.get_many_into([Get(b"big", buffer)], timeout=0.3)
            watcher.join()
            if result.status is Status.OK:
                assert buffer == value
            else:
                cut += 1
                buffer[:] = b"\xa5" * len(buffer)
            os.kill(child.pid, signal.SIGCONT)
            wait_until(lambda: client.state()[address].startswith("up"), 30)
            wait_until(lambda: client.stat(b"big") is not None)
            if result.status is not Status.OK:
                assert buffer == b"\xa5" * len(buffer)
            if cut == 3:
                break
    assert cut > 0


def stop_when_begun(buffer: bytearray, pid: int) -> None:
    """Stops the process as soon as the buffer's first byte is there."""
    deadline = time.monotonic() + 0.25
    while buffer[0] == 0 and time.monotonic() < deadline:
        pass
    os.kill(pid, signal.SIGSTOP)


def test_relay_of_a_value_that_stalls_for_good(backing: NativeServer) -> None:
    """Stopped for good in the middle of a value: a time-out, then no wait at all."""
    with Client(backing.address) as direct:
        direct.put(b"big", bytes(4 * MIB))
    never = threading.Event()
    with Peer(relay(backing.address, 3 * MIB, stalls_until=never)) as peer:
        with Client(peer.address) as client:
            for _ in range(3):
                begin = time.monotonic()
                buffer = bytearray(4 * MIB)
                [result] = client.get_many_into([Get(b"big", buffer)], timeout=1.2)
                assert result.status in (Status.TIMEOUT, Status.UNREACHABLE)
                assert time.monotonic() - begin < 3
        never.set()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "memkv_lmcache.tending"
    ]


def test_one_line_tells_of_each_change(caplog: pytest.LogCaptureFixture) -> None:
    """Up with the transport, down with the reason, up again with the time between."""
    caplog.set_level(logging.INFO)
    with process() as (address, child), Client(f"s0={address}") as client:
        wait_until(lambda: lines(caplog))
        child.kill()
        child.wait()
        wait_until(lambda: len(lines(caplog)) == 2)
        client.stat_many([b"key"] * 100)
        with process(address):
            wait_until(lambda: len(lines(caplog)) >= 3, 30)
    up, down, again, *others = lines(caplog)
    name = re.escape(f"server s0 ({address})")
    assert re.fullmatch(rf"{name} is up over (TCP|RDMA) \(.+\)", up)
    assert re.fullmatch(rf"{name} is down: .*refused.*", down)
    assert re.fullmatch(rf"{name} is up again after \d+\.\d s", again)
    assert all("calls itself" in line for line in others)


def test_a_server_of_another_name_is_warned_about(
    backing: NativeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where servers have names, a wrong address shows; an address alone is no name."""
    with Client([f"other={backing.address}"]) as client:
        wait_until(lambda: "calls itself backing" in client.state()["other"])
        wait_until(lambda: len(lines(caplog)) == 1)
    assert "calls itself backing: is the address right?" in lines(caplog)[0]
    for servers in (f"backing={backing.address}", backing.address):
        with Client(servers) as client:
            assert client.stat(b"key") is None
            [state] = client.state().values()
            assert state.startswith("up")
            assert "calls itself" not in state
