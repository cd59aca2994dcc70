"""The adapter under LMCache's own controllers, with its serdes and beside others."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from client.serving import process
from support import wait_until

from memkv_lmcache._ffi import NativeServer

from .caching import cache, spec
from .conftest import fresh_prefix, make_keys

N = 6


def random_kv(seed: int, count: int = N) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn((2, 4, 16, 32), generator=generator).to(torch.float16)
        for _ in range(count)
    ]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.fixture
def params(server: NativeServer) -> dict[str, Any]:
    return {
        "servers": server.address,
        "prefix": fresh_prefix(),
        "lookup_timeout_ms": 10_000,
    }


@pytest.mark.parametrize("lazy", [False, True])
def test_a_restarted_cache_finds_everything(
    params: dict[str, Any], server: NativeServer, lazy: bool
) -> None:
    """Its L1 is empty: every byte comes from the server, which counted the GETs."""
    keys, kv = make_keys(N), random_kv(1)
    with cache(spec(params), lazy=lazy) as first:
        first.store(keys, kv)
    before = server.stats()
    with cache(spec(params), lazy=lazy) as second:
        assert same(second.fetch(keys + make_keys(1, cache_salt="absent")), kv)
    after = server.stats()
    assert after["get_items"] - before["get_items"] == N


def test_the_first_gap_ends_the_prefix(params: dict[str, Any]) -> None:
    """What stands behind it is unlocked again, and nothing is lost."""
    keys, kv = make_keys(N), random_kv(1)
    with cache(spec(params)) as first:
        first.store(keys[:2] + keys[3:], kv[:2] + kv[3:])
    with cache(spec(params)) as second:
        assert same(second.fetch(keys), kv[:2])
        assert same(second.fetch(keys), kv[:2])
        assert second.manager.memcheck()


@pytest.mark.parametrize("salt", ["", "tenant-a"])
def test_salts_are_apart(params: dict[str, Any], salt: str) -> None:
    """What one tenant stored, no other finds."""
    with cache(spec(params)) as first:
        first.store(make_keys(N, cache_salt=salt), random_kv(1))
    with cache(spec(params)) as second:
        assert second.fetch(make_keys(N, cache_salt="tenant-b")) == []
        assert same(second.fetch(make_keys(N, cache_salt=salt)), random_kv(1))


def serde_spec(params: dict[str, Any], serde: str, path: Path) -> dict[str, Any]:
    if serde == "none":
        return spec(params)
    settings = {"type": serde}
    if serde == "aesgcm":
        key = path / "master.key"
        if not key.exists():
            key.write_text(os.urandom(32).hex())
        settings["master_key_path"] = str(key)
    return spec(params, serde=settings)


def expected_of(serde: str, kv: list[torch.Tensor]) -> list[torch.Tensor]:
    if serde == "fp8":
        return [t.to(torch.float8_e4m3fn).to(t.dtype) for t in kv]
    return kv


@pytest.mark.parametrize("serde", ["fp8", "aesgcm"])
def test_what_went_through_a_serde_comes_back(
    params: dict[str, Any], tmp_path: Path, serde: str
) -> None:
    """LMCache's own serdes: they store flat bytes, and look up by the KV layout."""
    keys, kv = make_keys(N), random_kv(1)
    adapter = serde_spec(params, serde, tmp_path)
    with cache(adapter) as first:
        first.store(keys, kv)
    with cache(adapter) as second:
        assert same(second.fetch(keys), expected_of(serde, kv))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("none", "fp8"),
        ("fp8", "none"),
        ("none", "aesgcm"),
        ("aesgcm", "none"),
        ("fp8", "aesgcm"),
        ("aesgcm", "fp8"),
    ],
)
def test_another_serde_is_a_miss_until_it_has_stored(
    params: dict[str, Any], tmp_path: Path, old: str, new: str
) -> None:
    """In every order; what it then stores replaces what was there."""
    keys = make_keys(N)
    with cache(serde_spec(params, old, tmp_path)) as first:
        first.store(keys, random_kv(1))
    with cache(serde_spec(params, new, tmp_path)) as second:
        assert second.fetch(keys) == []
        second.store(keys, random_kv(2))
    with cache(serde_spec(params, new, tmp_path)) as third:
        assert same(third.fetch(keys), expected_of(new, random_kv(2)))
    with cache(serde_spec(params, old, tmp_path)) as fourth:
        assert fourth.fetch(keys) == []


def test_lmcaches_fault_injection_wraps_it(params: dict[str, Any]) -> None:
    """A load that it fails ends the prefix, and the next request is right again."""
    keys, kv = make_keys(N), random_kv(1)
    inner = spec(params)
    faulty = {"type": "fault_inject", "inner": inner, "gap_indices": [2]}
    with cache(inner) as first:
        first.store(keys, kv)
    with cache(faulty) as second:
        assert same(second.fetch(keys), kv[:2])
        # LMCache keeps what it loaded: the gap is now at the third that is missing
        assert same(second.fetch(keys), kv[:2])
        assert second.manager.report_status()["l2_adapters"][0]["is_healthy"]


def test_a_stopped_server_does_not_hold_up_what_is_in_l1(
    params: dict[str, Any],
) -> None:
    """LMCache asks L2 for everything, and waits for the answer before it serves any.
    What is in L2 only is a miss, and comes back once the server goes on."""
    keys, more, kv = make_keys(N), make_keys(N, cache_salt="more"), random_kv(1)
    with process() as (address, child):
        params |= {"servers": address, "lookup_timeout_ms": 50}
        patient = spec({**params, "lookup_timeout_ms": 5000})
        with cache(patient) as first:
            first.store(more, kv)
        with cache(spec(params)) as second:
            second.store(keys, kv)
            child.send_signal(signal.SIGSTOP)
            assert same(second.fetch(keys, timeout=2), kv)
            assert second.fetch(more, timeout=2) == []
            child.send_signal(signal.SIGCONT)
            wait_until(lambda: same(second.fetch(more), kv))


def test_a_server_that_dies_leaves_l1_in_order(params: dict[str, Any]) -> None:
    """Whatever was on its way is given back: the same request is a miss, not a hang."""
    keys, kv = make_keys(N), random_kv(1)
    with process() as (address, child):
        adapter = spec({**params, "servers": address})
        with cache(adapter) as first:
            first.store(keys, kv)
        with cache(adapter) as second:
            assert same(second.fetch(keys[:2]), kv[:2])
            child.kill()
            child.wait()
            for _ in range(3):
                found = second.fetch(keys, timeout=5)
                assert same(found, kv[: len(found)])
            assert second.manager.memcheck()


@pytest.mark.parametrize("where", ["lookup", "load", "store"])
def test_beside_an_adapter_that_raises(
    params: dict[str, Any], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """LMCache gives such requests up.  Ours goes on: once the other is gone, all of it
    is there, and no request got wrong bytes."""
    keys, kv = make_keys(N), random_kv(1)
    raising = {
        "type": "plugin",
        "module_path": f"{__package__}.raising",
        "class_name": "RaisingAdapter",
        "adapter_params": {"where": where},
    }
    with caplog.at_level(logging.CRITICAL):
        for order in ((spec(params), raising), (raising, spec(params))):
            with cache(*order) as both:
                both.store(keys, kv)
                for _ in range(3):
                    found = both.fetch(keys)
                    assert same(found, kv[: len(found)])
        with cache(spec(params)) as alone:
            assert same(alone.fetch(keys), kv)


def test_lmcaches_eviction_leaves_the_fleet_alone(params: dict[str, Any]) -> None:
    """Neither by watermark nor by the quotas of unregistered salts."""
    keys, kv = make_keys(N), random_kv(1)
    for policy in ("LRU", "IsolatedLRU"):
        eviction = {"eviction_policy": policy, "trigger_watermark": 0.1}
        with cache(spec(params, eviction=eviction, shared=True)) as first:
            first.store(keys, kv)
            controller = first.manager._l2_eviction_controller
            for state in controller._adapter_states:
                controller._check_and_evict(state)
    with cache(spec(params)) as second:
        assert same(second.fetch(keys), kv)
