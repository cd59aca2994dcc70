"""Namespaces: no operation of one ever touches another, on one server or on many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client.serving import served

from memkv_lmcache import Client
from memkv_lmcache.client import Get, Put
from memkv_lmcache.erase import erase
from memkv_lmcache.errors import MemKVError, Status

KEYS = [b"key-%d" % i for i in range(64)]
NAMESPACES = ("", "a", "b", "ab", "a" * 128, "ä")


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    with served(name="s0") as one, served(name="s1") as two:
        yield [f"s0={one.address}", f"s1={two.address}"]


@pytest.fixture
def clients(servers: list[str]) -> Iterator[dict[str, Client]]:
    """One client a namespace; every namespace is empty, then has its own values."""
    found = {name: Client(servers, namespace=name) for name in NAMESPACES}
    for name, client in found.items():
        for server in client.servers:
            erase(client.config, server, 10)
        puts = [Put(key, value(name, key), b"of " + name.encode()) for key in KEYS]
        assert {r.status for r in client.put_many(puts)} == {Status.OK}
    yield found
    for client in found.values():
        client.close()


def value(namespace: str, key: bytes) -> bytes:
    return namespace.encode() + b"/" + key


def others(clients: dict[str, Client], name: str) -> list[tuple[str, Client]]:
    return [(other, client) for other, client in clients.items() if other != name]


def is_whole(name: str, client: Client) -> bool:
    """All of its values are there, and as they were."""
    rooms = [bytearray(len(value(name, key))) for key in KEYS]
    gets = [Get(*row, header_room=200) for row in zip(KEYS, rooms, strict=True)]
    results = client.get_many_into(gets)
    return all(
        result.status is Status.OK
        and result.header == b"of " + name.encode()
        and room == value(name, key)
        for key, room, result in zip(KEYS, rooms, results, strict=True)
    )


def test_get_and_stat_see_their_own(clients: dict[str, Client]) -> None:
    """Equal keys have a value and a header of each namespace's own."""
    for name, client in clients.items():
        assert is_whole(name, client)
        headers = {r.header for r in client.stat_many(KEYS, headers=True)}
        assert headers == {b"of " + name.encode()}


def test_a_put_changes_its_own(clients: dict[str, Client]) -> None:
    """Another header replaces a value in one namespace only; a new key is absent."""
    clients["a"].put_many([Put(key, b"new", b"new") for key in KEYS])
    clients["a"].put(b"only here", b"x")
    for name, client in others(clients, "a"):
        assert is_whole(name, client)
        assert client.get(b"only here") is None
        assert client.stat(b"only here") is None
        assert client.delete(b"only here") is False
    assert clients["a"].get(b"only here") == b"x"


def test_a_delete_removes_its_own(clients: dict[str, Client]) -> None:
    """What is gone in one namespace is there in the others."""
    assert {r.status for r in clients["b"].delete_many(KEYS)} == {Status.OK}
    assert {r.status for r in clients["b"].stat_many(KEYS)} == {Status.NOT_FOUND}
    for name, client in others(clients, "b"):
        assert is_whole(name, client)


def test_a_lease_keeps_its_own(clients: dict[str, Client]) -> None:
    """Leased in one namespace: the others' values can still be deleted, and it too."""
    assert {r.leased for r in clients["a"].stat_many(KEYS, lease_ms=60_000)} == {True}
    assert {r.status for r in clients["ab"].delete_many(KEYS)} == {Status.OK}
    assert is_whole("a", clients["a"])


def test_a_listing_shows_its_own(clients: dict[str, Client]) -> None:
    """Each of its keys once, over all servers."""
    clients[""].put(b"only here", b"x")
    for name, client in others(clients, ""):
        entries = list(client.list())
        assert sorted(entry.key for entry in entries) == sorted(KEYS)
        assert {entry.header for entry in entries} == {b"of " + name.encode()}
        assert {entry.server for entry in entries} == {"s0", "s1"}


@pytest.mark.parametrize("name", ["", "a"])
def test_erasing_empties_its_own(clients: dict[str, Client], name: str) -> None:
    """Also the namespace without a name is one of many."""
    config = clients[name].config
    assert sum(erase(config, s, 10) for s in ("s0", "s1")) == len(KEYS)
    assert list(clients[name].list()) == []
    for other, client in others(clients, name):
        assert is_whole(other, client)


def test_erasing_finds_what_lies_on_another_server_than_its_first(
    servers: list[str], clients: dict[str, Client]
) -> None:
    """As it does when the first one was away; a client of both would not see it."""
    with Client(servers[0], namespace="a") as alone:
        alone.put_many([Put(b"stray-%d" % i, b"x") for i in range(64)])
    erased = sum(erase(clients["a"].config, s, 10) for s in ("s0", "s1"))
    assert erased == len(KEYS) + 64
    with Client(servers[0], namespace="a") as alone:
        assert list(alone.list()) == []


def test_erasing_on_a_server_that_is_away_is_an_error() -> None:
    """It is not taken for empty."""
    with served() as gone:
        address = gone.address
    with Client(f"s={address}") as client, pytest.raises(MemKVError):
        erase(client.config, "s", 2)
