"""The plugin against a real server: killed processes, and LMCache's own check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memkv_lmcache.demo.engine import ModelShape
from memkv_lmcache.processes import Server, Worker

from .conftest import (
    CHUNK,
    FULL,
    HERE,
    MODEL,
    TOKENS,
    Build,
    engines,
    make_keys,
    plugin_of,
    random_kv,
    store_prompt,
)

YAML = """
chunk_size: 16
local_cpu: {local_cpu}
max_local_cpu_size: 0.5
storage_plugins: {plugins}
extra_config:
  storage_plugin.memkv.module_path: memkv_lmcache.backend
  storage_plugin.memkv.class_name: MemKVStorageBackend
  storage_plugin.memkv.namespace: {namespace}
  # the first lookup of a process waits for its connection
  storage_plugin.memkv.lookup_timeout_ms: 5000
"""

CHUNK_BYTES = MODEL.kv(CHUNK).numel() * 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), 256 << 20) as server:
        yield server


@pytest.fixture
def build(server: Server, request: pytest.FixtureRequest) -> Iterator[Build]:
    """Builds engines on the real server, in a namespace of this test's own."""
    namespace = re.sub(r"\W", "-", request.node.name)
    with engines(
        **server.settings, namespace=namespace, lookup_timeout_ms=5000
    ) as build:
        yield build


def run_engine(
    what: str, server: Server, yaml: Path, *more: str, **environment: str
) -> Worker:
    folder = yaml.parent / f"{what}-{len(list(yaml.parent.iterdir()))}"
    folder.mkdir()
    return Worker(
        "engine_process",
        what,
        str(yaml),
        *more,
        folder=folder,
        environment={**server.environment, "PYTHONPATH": str(HERE), **environment},
    )


def write_yaml(
    folder: Path, namespace: str, plugins: str = "memkv", local_cpu: str = "false"
) -> Path:
    path = folder / "lmcache.yaml"
    path.write_text(
        YAML.format(plugins=plugins, namespace=namespace, local_cpu=local_cpu),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("plugins", ["memkv", '["memkv"]'])
def test_a_fresh_process_finds_what_a_killed_one_stored(
    server: Server, tmp_path: Path, plugins: str
) -> None:
    """Byte for byte, by the server's own count of gets and bytes."""
    yaml = write_yaml(tmp_path, f"killed-{len(plugins)}", plugins)
    with run_engine("store", server, yaml) as first:
        assert first.receive(120)["put_stored"] == FULL // CHUNK
        first.kill()
    before = server.counters()
    with run_engine("load", server, yaml) as second:
        found = second.receive(120)
    after = server.counters()
    assert found == {"hit": FULL, "retrieved": FULL, "same": True}
    assert after["get_hits"] - before["get_hits"] == FULL // CHUNK
    assert after["get_bytes"] - before["get_bytes"] == FULL // CHUNK * CHUNK_BYTES


def test_processes_with_random_hashes_do_not_meet_and_are_told(
    server: Server, tmp_path: Path
) -> None:
    """Nothing is wrong with the fleet then, so the log must say it."""
    yaml = write_yaml(tmp_path, "random")
    environment = {"PYTHONHASHSEED": "random"}
    with run_engine("store", server, yaml, "random", **environment) as first:
        first.receive(120)
        first.kill()
    with run_engine("load", server, yaml, "random", **environment) as second:
        assert second.receive(120)["hit"] == 0
    logs = [path.read_text("utf-8") for path in tmp_path.glob("*/*.log")]
    assert len(logs) == 2
    assert all("RANDOM" in text for text in logs)


@pytest.mark.parametrize("local_cpu", ["false", "true"])
def test_lmcaches_own_check_passes(
    server: Server, tmp_path: Path, local_cpu: str
) -> None:
    """``basic_check`` puts, looks up and gets through the storage manager."""
    yaml = write_yaml(tmp_path, f"check-{local_cpu}", local_cpu=local_cpu)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lmcache.v1.basic_check"),
            *("--mode", "test_storage_manager", "--num-keys", "8"),
        ],
        env={
            **os.environ,
            **server.environment,
            "LMCACHE_CONFIG_FILE": str(yaml),
            "LMCACHE_TRACK_USAGE": "false",
            "PYTHONHASHSEED": "0",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    rates = re.findall(r"\|\s*(\d+/\d+)\s*\|\s*([\d.]+)% \|", done.stdout)
    assert rates == [("8/8", "100.0")] * 4, done.stdout + done.stderr


@pytest.mark.parametrize("old_first", [True, False])
def test_a_changed_layout_is_replaced_on_the_server(
    build: Build, old_first: bool
) -> None:
    """In both orders, and several times over."""
    small = ModelShape(MODEL.name, layers=2)
    models = (MODEL, small) if old_first else (small, MODEL)
    pair = [build(model) for model in models]
    for _ in range(2):
        for engine, other, model in zip(pair, pair[::-1], models, strict=True):
            kv, back = random_kv(model), torch.zeros(model.kv(70)).to(model.dtype)
            assert engine.lookup(TOKENS) == 0
            store_prompt(engine, kv)
            assert other.lookup(TOKENS) == 0
            assert engine.lookup(TOKENS) == FULL
            assert int(engine.retrieve(TOKENS, kv=back).sum()) == FULL
            assert torch.equal(back[:, :, :FULL], kv[:, :, :FULL])


def test_a_pinned_lookup_is_a_lease_on_the_server(build: Build, server: Server) -> None:
    """The server itself counts it."""
    engine = build()
    store_prompt(engine, random_kv())
    plugin = plugin_of(engine)
    keys = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    assert plugin.batched_contains(keys, pin=True) == len(keys)
    wire_keys = [plugin._wire_key(key) for key in keys]
    with server.client(namespace=plugin._settings.namespace) as client:
        found = client.stat_many(wire_keys, lease_ms=1)
    assert all(result.leased for result in found)


def test_twelve_thousand_keys_are_looked_up_in_one_call(build: Build) -> None:
    """One call of the plugin, far less than a second."""
    engine = build()
    store_prompt(engine, random_kv())
    stored = [key for _, _, key in engine.token_database.process_tokens(TOKENS)]
    keys = stored + make_keys(12_000 - len(stored))
    begin = time.monotonic()
    assert plugin_of(engine).batched_contains(keys) == len(stored)
    assert time.monotonic() - begin < 5


def test_a_server_that_dies_costs_misses_only(tmp_path: Path) -> None:
    """Lookups and gets come back at once, and the engine's arena stays whole."""
    with (
        Server(tmp_path, 64 << 20) as server,
        engines(**server.settings, lookup_timeout_ms=1000, load_timeout_s=5) as build,
    ):
        engine, kv = build(), random_kv()
        store_prompt(engine, kv)
        assert engine.lookup(TOKENS, lookup_id="r1", pin=True) == FULL
        server.kill()
        back = torch.zeros_like(kv)
        assert not engine.retrieve(TOKENS, kv=back, req_id="r1").any()
        assert not back.any()
        begin = time.monotonic()
        for _ in range(100):
            assert engine.lookup(TOKENS) == 0
        assert time.monotonic() - begin < 1
        store_prompt(engine, kv)
        allocator = engine.storage_manager.allocator_backend.memory_allocator
        free = allocator.pin_allocator.address_manager.get_free_size()
        assert free == allocator.buffer.numel()


def test_a_wrong_key_is_a_miss_with_that_reason(server: Server) -> None:
    """It is counted as auth, not as absence."""
    with engines(**(server.settings | {"auth_key": "ab" * 32})) as build:
        engine = build(plugin={"lookup_timeout_ms": 2000})
        assert engine.lookup(TOKENS) == 0
        assert plugin_of(engine).counters.snapshot() == {
            "lookup_hits": 0,
            "miss_auth": 1,
        }
