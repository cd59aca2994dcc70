"""One server for each way of moving bytes, shared by all tests that only use it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer

from .serving import served

_namespaces = itertools.count()


@pytest.fixture(scope="session", params=["tcp", "unix"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NativeServer]:
    socket: Path = tmp_path_factory.mktemp("memkv") / "s"
    address = "127.0.0.1:0" if request.param == "tcp" else f"unix:{socket}"
    # small pages, so that thousands of values fit
    with served(address, page_size=8 * 1024) as found:
        yield found


Connect = Callable[..., Client]


@pytest.fixture
def connect(server: NativeServer) -> Iterator[Connect]:
    """Makes clients of ``server`` in a namespace of this test's own."""
    namespace = f"test-{next(_namespaces)}"
    made: list[Client] = []

    def connect(**changes: Any) -> Client:
        given = {"servers": server.address, "namespace": namespace, **changes}
        made.append(Client(**given))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    """A client in a namespace that is empty at first."""
    return connect()
