"""One server for each way of moving bytes, shared by all tests that only use it.

Those of RDMA move values of 64 KiB or more by it: on the fake verbs library, and in the
machine of tests/vm on a device.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_rdma import FakeVerbs, RegisteredClient, build_fake_verbs

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer

from .serving import served

_namespaces = itertools.count()
WAYS = ["tcp", "unix", "fake-rdma"]
if "RDMA_ADDR" in os.environ:  # there is a device
    WAYS.append("rdma")


@pytest.fixture(scope="session")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> FakeVerbs:
    return FakeVerbs(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


@pytest.fixture(scope="session", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How payload travels."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def library(way: str, request: pytest.FixtureRequest) -> str | None:
    """The verbs library; None: no RDMA."""
    if way == "rdma":
        return "libibverbs.so.1"
    return request.getfixturevalue("verbs").path if way == "fake-rdma" else None


@pytest.fixture(scope="session")
def server(
    way: str, library: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NativeServer]:
    socket: Path = tmp_path_factory.mktemp("memkv") / "s"
    address = f"unix:{socket}" if way == "unix" else "127.0.0.1:0"
    settings = {"transport": "rdma", "verbs_library": library} if library else {}
    # small pages, so that thousands of values fit
    with served(address, page_size=8 * 1024, **settings) as found:
        yield found
        assert (found.stats()["bytes_remote"] > 0) is (library is not None)


Connect = Callable[..., Client]


@pytest.fixture
def connect(server: NativeServer, library: str | None) -> Iterator[Connect]:
    """Makes clients of ``server`` in a namespace of this test's own."""
    namespace = f"test-{next(_namespaces)}"
    made: list[Client] = []

    def connect(**changes: Any) -> Client:
        given = {"servers": server.address, "namespace": namespace, **changes}
        made.append(RegisteredClient(library, **given) if library else Client(**given))
        return made[-1]

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    """A client in a namespace that is empty at first."""
    return connect()
