"""Several servers: keys are spread, and one that leaves costs its own keys only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Put
from memkv_lmcache.errors import MemKVError, Status

from .serving import served

KEYS = [b"key-%d" % i for i in range(200)]


@pytest.fixture
def pair() -> Iterator[tuple[NativeServer, NativeServer]]:
    with served() as one, served() as two:
        yield one, two


def statuses(client: Client) -> list[Status]:
    return [result.status for result in client.stat_many(KEYS)]


def test_keys_are_spread_by_name(pair: tuple[NativeServer, NativeServer]) -> None:
    """A key's server follows from the names alone, whatever the addresses and order."""
    one, two = (server.address for server in pair)

    def held(namespace: str, servers: list[str]) -> dict[str, set[bytes]]:
        with Client(servers, namespace=namespace) as client:
            client.put_many([Put(key, b"value") for key in KEYS])
            assert statuses(client) == [Status.OK] * len(KEYS)
            listed = list(client.list())
            assert sorted(entry.key for entry in listed) == sorted(KEYS)
            return {
                name: {entry.key for entry in listed if entry.server == name}
                for name in client.servers
            }

    spread = held("first", [f"a={one}", f"b={two}"])
    assert min(len(keys) for keys in spread.values()) > len(KEYS) // 4
    assert held("swapped", [f"b={one}", f"a={two}"]) == spread


def test_a_server_that_leaves_costs_its_own_keys_only(
    pair: tuple[NativeServer, NativeServer],
) -> None:
    """While one drains its keys are misses, then they live on the other."""
    with Client([server.address for server in pair]) as client:
        client.put_many([Put(key, b"value") for key in KEYS])
        assert pair[0].drain(5000) is True
        found = statuses(client)
        assert found.count(Status.OK) == pair[1].stats()["values"]
        assert found.count(Status.NOT_FOUND) == pair[0].stats()["values"]
        client.put_many([Put(key, b"value") for key in KEYS])
        assert statuses(client) == [Status.OK] * len(KEYS)


def test_a_draining_server_refuses_by_name(
    pair: tuple[NativeServer, NativeServer],
) -> None:
    """A client of that server alone gets an error at once, not a time-out."""
    with Client(pair[0].address) as client:
        assert client.put(b"key", b"value") is True
        assert pair[0].drain(5000) is True
        for _ in range(3):
            with pytest.raises(MemKVError) as caught:
                client.get(b"key", timeout=60)
            assert caught.value.status in (Status.DRAINING, Status.UNREACHABLE)
