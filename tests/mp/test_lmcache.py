"""LMCache's own tools and servers, unchanged, on a real ``memkv serve``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, wait_until

from memkv_lmcache import Client

from .conftest import fresh_prefix

BIN = Path(sys.executable).parent
KV = "(2,64,16,2,8):float16:4"
REQUESTS, TOKENS, CHUNK = 2, 256, 16


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a ``memkv serve``."""
    command = [BIN / "memkv", "serve", "--address", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield json.loads(child.stdout.readline())["address"]
        finally:
            child.kill()


def environment() -> dict[str, str]:
    quiet = {"LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}
    tests = {"PYTHONPATH": str(ROOT / "tests"), "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, **tests, "LMCACHE_LOG_LEVEL": "INFO"}


def adapter(address: str, prefix: str, **params: Any) -> str:
    """``--l2-adapter`` as the manual has it."""
    return json.dumps(
        {
            "type": "plugin",
            "module_path": "memkv_lmcache.l2_adapter",
            "class_name": "MemKVL2Adapter",
            "adapter_params": {
                "prefix": prefix,
                "servers": address,
                # LMCache's processes are many and the machine may be small
                "lookup_timeout_ms": 2000,
                **params,
            },
        }
    )


def run(*command: Any) -> str:
    """What a tool says; it has to succeed."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_basic_check_passes(serving: str) -> None:
    """Every phase of it at 100 %."""
    text = run(
        *(sys.executable, "-m", "lmcache.v1.basic_check", "--mode", "test_l2_adapter"),
        *("--l2-adapter", adapter(serving, fresh_prefix())),
        *("--num-keys", 8, "--obj-size", 65536),
    )
    assert text.count("100.0%") == 4, text
    assert "Validation (content): 8/8" in text
    assert "FAIL" not in text.upper(), text


def test_bench_l2_verifies_its_data(serving: str) -> None:
    """What it loads is what it stored, at an alignment for direct I/O too."""
    text = run(
        *(BIN / "lmcache", "bench", "l2", "--num-keys", 16, "--in-flight", 2),
        *("--data-size-kb", 256, "--rounds", 2, "--no-skip-verify"),
        *("--l1-align-bytes", 4096, "--lookup-max-hit-rate", ".5"),
        *("--l2-adapter", adapter(serving, fresh_prefix())),
    )
    assert "All 32 keys data verified OK" in text
    assert "TIMEOUT" not in text
    assert text.count("success_keys=32/32") == 3
    assert text.count("loaded=32/32") == 3


# ---- the server ----------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class LMCacheServer:
    """A running ``lmcache server`` with an empty L1."""

    def __init__(self, port: int, http: int, log: Path) -> None:
        self.rpc = f"tcp://127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{http}"
        self.log = log

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/status", timeout=10) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found

    def l2(self) -> dict[str, Any]:
        """What our adapter says there, wherever LMCache puts it."""
        found = [item for item in _dicts(self.status()) if "counters" in item]
        assert len(found) == 1
        return found[0]

    def bench(self) -> str:
        """Runs each request twice, compares checksums, and says what happened."""
        return run(
            *(BIN / "lmcache", "bench", "server", "--mode", "cpu"),
            *("--rpc-url", self.rpc, "--url", self.url),
            *("--kvcache-shape-spec", KV, "--num-blocks", 64, "--block-size", CHUNK),
            *("--num-tokens", TOKENS, "--start", 0, "--end", REQUESTS),
            *("--interval", "0.2"),
        )


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _dicts(item)


@contextlib.contextmanager
def lmcache_server(log: Path, *adapters: str) -> Iterator[LMCacheServer]:
    """Killed at the end: nothing of it is left but what the servers have."""
    port, http, metrics = free_port(), free_port(), free_port()
    command = [
        *(BIN / "lmcache", "server", "--host", "127.0.0.1", "--port", port),
        *("--http-host", "127.0.0.1", "--http-port", http),
        *("--prometheus-port", metrics, "--l1-size-gb", "0.25"),
        *("--eviction-policy", "LRU", "--chunk-size", CHUNK),
        *("--supported-transfer-mode", "auto", "--shm-name", f"memkv-test-{port}"),
        *(word for found in adapters for word in ("--l2-adapter", found)),
    ]
    with (
        log.open("w") as out,
        subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, env=environment()
        ) as child,
    ):
        try:

            def is_ready() -> bool:
                text = log.read_text()
                assert child.poll() is None, text
                return "Uvicorn running" in text

            wait_until(is_ready, timeout=90)
            yield LMCacheServer(port, http, log)
        finally:
            child.kill()
            Path(f"/dev/shm/lmcache_l1_pool_memkv-test-{port}").unlink(missing_ok=True)  # noqa: S108


def checksums(text: str) -> list[str]:
    """Of what each request found the second time, in order."""
    found: list[str] = re.findall(r"/warm\] CHECKSUM: (\S+)", text)
    return found


def test_a_restarted_lmcache_server_serves_what_another_stored(
    serving: str, tmp_path: Path
) -> None:
    """Both are killed in between, and so is their client: the first request of the
    second server is a full hit, every byte right, and the MemKV server counted it."""
    ours = adapter(serving, fresh_prefix())
    chunks = REQUESTS * TOKENS // CHUNK
    with lmcache_server(tmp_path / "first.log", ours) as first:
        cold = first.bench()
        assert cold.count("CHECKSUM MATCH OK") == REQUESTS, cold
        wait_until(lambda: first.l2()["counters"].get("put_stored") == chunks)
        assert first.l2()["is_healthy"]
    client = Client(servers=serving)
    before = json_stats(client)
    with lmcache_server(tmp_path / "second.log", ours) as second:
        warm = second.bench()
        counters = second.l2()["counters"]
    after = json_stats(client)
    client.close()
    hit = f"/cold] LOOKUP: {TOKENS // CHUNK}/{TOKENS // CHUNK} chunks hit"
    assert warm.count(hit) == REQUESTS, warm
    assert checksums(warm) == checksums(cold) != []
    # twice: by default LMCache keeps nothing in L1 that it got from here
    assert counters["get_hits"] == 2 * chunks
    assert not counters.get("put_stored")
    assert after["get_items"] - before["get_items"] == 2 * chunks
    moved = after["get_bytes"] - before["get_bytes"]
    assert moved == counters["get_bytes"] > 0


def json_stats(client: Client) -> dict[str, int]:
    """The server's own counters."""
    found = client.probe()
    return next(item for item in _dicts(found) if "get_items" in item)
