"""LMCache's L1 is registered, so that no CPU copies; on the fake verbs library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from client.serving import served
from fake_rdma import FakeVerbs, build_fake_verbs
from lmcache.v1.distributed.api import MemoryLayoutDesc

from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Client
from memkv_lmcache.ways import moved, wait_for_rdma

from .caching import MIB, Cache, cache, spec
from .conftest import fresh_prefix, make_keys

N = 6
#: 512 KiB: what has less than 64 KiB goes inline.
LAYOUT = MemoryLayoutDesc([torch.Size((2, 4, 64, 512))], [torch.float16])
KV_BYTES = N * 2 * 4 * 64 * 512 * 2


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> FakeVerbs:
    return FakeVerbs(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


@pytest.fixture
def server(verbs: FakeVerbs) -> Iterator[NativeServer]:
    with served(transport="rdma", verbs_library=verbs.path) as server:
        yield server


def client_of(cache: Cache) -> Client:
    """Our adapter's own, once LMCache's L1 is registered."""
    [adapter] = cache.manager._l2_adapters.values()
    client: Client = adapter._client
    wait_for_rdma(client, 16 * MIB)
    return client


@pytest.mark.parametrize("lazy", [False, True])
def test_a_restarted_cache_is_filled_without_a_copy(
    server: NativeServer, verbs: FakeVerbs, lazy: bool
) -> None:
    """Every byte by RDMA, none inline, on both clients and the server."""
    params = {
        "servers": server.address,
        "transport": "rdma",
        "verbs_library": verbs.path,
        "prefix": fresh_prefix(),
        "lookup_timeout_ms": 10_000,
    }
    keys = make_keys(N)
    kv = [torch.randn(LAYOUT.shapes[0]).to(torch.float16) for _ in keys]
    all_by_rdma = {"bytes_remote": KV_BYTES, "bytes_inline": 0}
    with cache(spec(params), lazy=lazy, layout=LAYOUT) as first:
        client = client_of(first)
        first.store(keys, kv)
        assert moved(client) == all_by_rdma
    with cache(spec(params), lazy=lazy, layout=LAYOUT) as second:
        client = client_of(second)
        found = second.fetch(keys)
        assert moved(client) == all_by_rdma
    assert len(found) == N
    assert all(map(torch.equal, found, kv))
    counted = server.stats()
    assert counted["bytes_remote"] == 2 * KV_BYTES
    assert counted["bytes_inline"] == 0
