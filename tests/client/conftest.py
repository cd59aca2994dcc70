"""One server for each way of moving bytes, shared by all tests that only use it.

Those of RDMA are on the fake verbs library, and values of 64 KiB or more go by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_rdma import FakeVerbs, RegisteredClient, build_fake_verbs

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer

from .serving import served

_namespaces = itertools.count()


@pytest.fixture(scope="session")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> FakeVerbs:
    return FakeVerbs(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


@pytest.fixture(scope="session", params=["tcp", "unix", "fake-rdma"])
def way(request: pytest.FixtureRequest) -> str:
    """How payload travels."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def server(
    way: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NativeServer]:
    socket: Path = tmp_path_factory.mktemp("memkv") / "s"
    address = f"unix:{socket}" if way == "unix" else "127.0.0.1:0"
    settings = {}
    if way == "fake-rdma":
        library = request.getfixturevalue("verbs").path
        settings = {"transport": "rdma", "verbs_library": library}
    # small pages, so that thousands of values fit
    with served(address, page_size=8 * 1024, **settings) as found:
        yield found


Connect = Callable[..., Client]


@pytest.fixture
def connect(
    server: NativeServer, way: str, request: pytest.FixtureRequest
) -> Iterator[Connect]:
    """Makes clients of ``server`` in a namespace of this test's own."""
    namespace = f"test-{next(_namespaces)}"
    made: list[Client] = []

    def connect(**changes: Any) -> Client:
        given = {"servers": server.address, "namespace": namespace, **changes}
        if way == "fake-rdma":
            verbs: FakeVerbs = request.getfixturevalue("verbs")
            made.append(RegisteredClient(verbs, **given))
        else:
            made.append(Client(**given))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    """A client in a namespace that is empty at first."""
    return connect()
