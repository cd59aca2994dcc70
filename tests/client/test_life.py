"""Opening, closing, forking and forgetting clients."""

from __future__ import annotations

import os
import threading
import warnings

import pytest
from peer import Peer, stall
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.errors import (
    ClientClosed,
    ConfigError,
    MemKVError,
    Status,
    UsageError,
)

from .conftest import Connect

ALL_CALLS = {
    "get": lambda client: client.get(b"key"),
    "put": lambda client: client.put(b"key", b""),
    "stat": lambda client: client.stat(b"key"),
    "delete": lambda client: client.delete(b"key"),
    "list": lambda client: list(client.list()),
    "probe": lambda client: client.probe(),
    "state": lambda client: client.state(),
    "stats": lambda client: client.stats(),
    "registered_bytes": lambda client: client.registered_bytes(),
}


def tenders() -> int:
    return sum(thread.name == "memkv-tend" for thread in threading.enumerate())


@pytest.mark.parametrize("call", ALL_CALLS)
def test_a_closed_client_says_so(connect: Connect, call: str) -> None:
    """Every call after close is ClientClosed; close itself may be called again."""
    client = connect()
    client.put(b"key", b"value")
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        ALL_CALLS[call](client)


def test_close_ends_calls_under_way() -> None:
    """A call that waits for a silent server ends as soon as the client is closed."""
    outcomes: list[object] = []

    def work(client: Client) -> None:
        try:
            outcomes.append(client.stat(b"key", timeout=300))
        except MemKVError as error:
            outcomes.append(error.status)

    with Peer(stall) as peer:
        client = Client(peer.address)
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert peer.stalled.acquire(timeout=10)
        client.close()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
    assert outcomes == [Status.CLOSED] * 3


def test_close_ends_the_thread(connect: Connect) -> None:
    """A closed client leaves no thread behind."""
    before = tenders()
    client = connect()
    assert tenders() == before + 1
    client.close()
    wait_until(lambda: tenders() == before)


def test_a_forgotten_client_is_a_warning_and_is_closed(connect: Connect) -> None:
    """Dropping the last reference warns, and frees what it held."""
    before = tenders()
    config = connect().config
    forget = {"client": Client(config=config)}.clear
    with pytest.warns(ResourceWarning, match="unclosed <memkv_lmcache.Client"):
        forget()
    wait_until(lambda: tenders() == before + 1)


def test_a_forked_child_must_open_its_own(connect: Connect) -> None:
    """In a child the parent's client is a UsageError, and the parent's goes on."""
    client = connect()
    client.put(b"key", b"value")
    with warnings.catch_warnings():
        # newer Pythons warn of forking with threads, which is the point here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            client.get(b"key")
        except UsageError:
            client.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get(b"key") == b"value"


def test_settings_come_from_the_environment(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments the MEMKV_* variables say where and what."""
    ours = connect()
    ours.put(b"key", b"value")
    monkeypatch.setenv("MEMKV_SERVERS", ours.servers[0])
    monkeypatch.setenv("MEMKV_NAMESPACE", ours.config.namespace)
    with Client() as client:
        assert client.get(b"key") == b"value"


def test_wrong_arguments_are_named() -> None:
    """Wrong settings, and settings beside a whole configuration, are refused."""
    with pytest.raises(ConfigError, match="servers in the call's arguments"):
        Client("nowhere")
    with pytest.raises(ConfigError, match="64 hex digits"):
        Client("a:1", auth_key="abc")
    with pytest.raises(UsageError, match="config stands for"):
        Client("a:1", config=ClientConfig())
    for timeout in (-1, float("nan")):
        with pytest.raises(UsageError, match="timeout"):
            Client("a:1", timeout=timeout)


def test_what_a_client_tells_of_its_servers(connect: Connect) -> None:
    """Names, states, counters and a server's own account of itself."""
    client = connect()
    [name] = client.servers
    client.put(b"key", b"12345")
    assert client.get(b"key") == b"12345"
    assert client.state().keys() == {name}
    assert client.state()[name].startswith("up")
    client.stat_many([b"absent", b"gone"])
    stats = client.stats()[name]
    assert stats.state.startswith("up")
    assert stats.counters["get_bytes"] == 5
    assert stats.misses == {"absent": 2}
    assert client.probe()["values"] >= 1
    assert client.probe().keys() == client.probe(name).keys()
    assert name in repr(client)
    with pytest.raises(MemKVError):
        client.probe("nobody", timeout=1)
