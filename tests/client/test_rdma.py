"""RDMA as a user of the client sees it; on the fake verbs library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_rdma import FakeVerbs
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Get, Put
from memkv_lmcache.config import load
from memkv_lmcache.errors import MemKVError, Status, UsageError

from .serving import MIB, served
from .test_values import noise

N = 4
SIZE = 300_000


@pytest.fixture
def rdma_server(verbs: FakeVerbs) -> Iterator[NativeServer]:
    with served(transport="rdma", verbs_library=verbs.path) as server:
        yield server


def client_of(server: NativeServer, library: str, transport: str = "auto") -> Client:
    settings = {"servers": server.address, "transport": transport}
    return Client(config=load({**settings, "verbs_library": library}))


def counter(client: Client, name: str) -> int:
    [stats] = client.stats().values()
    return stats.counters[name]


def state(client: Client) -> str:
    [found] = client.state().values()
    return found


def put_by_rdma(client: Client, memory: memoryview) -> None:
    """Until the memory is registered and its values go by RDMA."""
    tries = iter(range(10_000))

    def put() -> bool:
        client.put(b"try-%d" % next(tries), memory[:SIZE])
        return counter(client, "bytes_remote") > 0

    wait_until(put)


def test_registered_memory_is_not_copied(
    rdma_server: NativeServer, verbs: FakeVerbs
) -> None:
    """A batch into and out of a region moves every byte by RDMA and none inline."""
    memory = memoryview(bytearray(noise(N * SIZE)))
    parts = [memory[i * SIZE : (i + 1) * SIZE] for i in range(N)]
    before = bytes(memory)
    with client_of(rdma_server, verbs.path) as client, client.register(memory):
        put_by_rdma(client, memory)
        moved = counter(client, "bytes_remote"), counter(client, "bytes_inline")
        puts = client.put_many([Put(b"%d" % i, p) for i, p in enumerate(parts)])
        memory[:] = bytes(N * SIZE)
        gets = client.get_many_into([Get(b"%d" % i, p) for i, p in enumerate(parts)])
        assert {result.status for result in puts + gets} == {Status.OK}
        assert memory == before
        assert counter(client, "bytes_remote") - moved[0] == 2 * N * SIZE
        assert counter(client, "bytes_inline") == moved[1]
        assert rdma_server.stats()["bytes_remote"] == counter(client, "bytes_remote")
        assert state(client).startswith("up: rdma fake0 port 1")


def test_registered_memory_is_counted(
    rdma_server: NativeServer, verbs: FakeVerbs
) -> None:
    """All of it once each of its slices is registered, none once it is released."""
    with (
        verbs.scripted("max_mr_size 2097152"),
        client_of(rdma_server, verbs.path) as client,
    ):
        assert client.registered_bytes() == 0
        region = client.register(bytearray(8 * MIB))
        wait_until(lambda: client.registered_bytes() == 8 * MIB)
        assert client._figures.snapshot().registered_bytes == 8 * MIB
        region.release()
        assert client.registered_bytes() == 0


def test_a_region_keeps_its_memory_until_it_is_released(
    rdma_server: NativeServer, verbs: FakeVerbs
) -> None:
    """Nobody may resize it meanwhile; afterwards, or once the client is closed, yes."""
    first, second = bytearray(MIB), bytearray(MIB)
    client = client_of(rdma_server, verbs.path)
    region, other = client.register(first), client.register(second)
    with pytest.raises(UsageError, match="overlap"):
        client.register(memoryview(second)[5:10])
    with pytest.raises(BufferError):
        first.append(1)
    region.release()
    region.release()
    first.append(1)
    client.close()
    other.release()
    second.append(1)
    with pytest.raises(MemKVError, match="closed"):
        client.register(first)


def test_a_link_that_breaks_costs_no_value(
    rdma_server: NativeServer, verbs: FakeVerbs, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch goes on inline, the log says so, and RDMA comes back by itself."""
    caplog.set_level(logging.INFO)
    memory = memoryview(bytearray(noise(SIZE)))
    with client_of(rdma_server, verbs.path) as client, client.register(memory):
        put_by_rdma(client, memory)
        with verbs.scripted("refuse create_qp; break 1"):
            assert client.put(b"key", memory)
            assert counter(client, "links_broken") == 1
            wait_until(lambda: "broke" in state(client) or "queue" in state(client))
            wait_until(lambda: "up over TCP (" in caplog.text)
        assert client.get_into(b"key", memory) == SIZE
        assert memory == noise(SIZE)
        wait_until(lambda: state(client).startswith("up: rdma "))


def test_no_library_no_rdma_but_service(rdma_server: NativeServer) -> None:
    """`auto` says why and goes inline; with `rdma` the server counts as down."""
    missing = "/nonexistent/libibverbs.so.1"
    with client_of(rdma_server, missing) as client:
        assert client.put(b"key", noise(SIZE))
        assert client.get(b"key") == noise(SIZE)
        wait_until(lambda: missing in state(client))
        assert state(client).startswith("up: tcp: no verbs library")
    with client_of(rdma_server, missing, "rdma") as client:
        wait_until(lambda: state(client).startswith("down: transport rdma: no verbs"))
        [result] = client.put_many([Put(b"other", b"value")], timeout=1)
        assert result.status is Status.UNREACHABLE


def test_a_strict_server_does_not_start_without() -> None:
    """The error names the setting and the reason."""
    with pytest.raises(MemKVError, match="transport rdma: no verbs library: /none"):
        NativeServer("127.0.0.1:0", transport="rdma", verbs_library="/none")


def test_a_server_tells_why_it_has_no_rdma(tmp_path: Path) -> None:
    """For its operator, and for whoever asks it how it is."""
    missing = str(tmp_path / "libibverbs.so")
    with served(verbs_library=missing) as server:
        assert server.why_no_rdma is not None
        assert missing in server.why_no_rdma
        with Client(server.address) as client:
            assert missing in client.probe()["rdma"]
