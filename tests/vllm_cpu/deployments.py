"""vLLM with LMCache and MemKV, in either of LMCache's modes."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from support import wait_until

from .stack import START_S, Engine, MemKV, Process

BIN = Path(sys.executable).parent
CHUNK = 128  # vLLM's blocks on a CPU are as large


class Site(NamedTuple):
    """Where deployments run."""

    model: Path
    folder: Path
    memkv: MemKV
    grace: float
    """Seconds that a load may take."""
    chunks: int
    """Of a prompt."""


@contextlib.contextmanager
def in_process(
    site: Site,
    name: str,
    *,
    keeps: bool = True,
    policy: str | None = "recompute",
    seed: str | None = "0",
    **lmcache: Any,
) -> Iterator[Engine]:
    """vLLM with LMCache and the plugin in it, as the README sets it up.

    ``keeps``: LMCache keeps in its own memory what it has seen.
    """
    prefix = "storage_plugin.memkv."
    config = {
        "chunk_size": CHUNK,
        "local_cpu": keeps,
        "max_local_cpu_size": 0.25,
        "save_unfull_chunk": False,  # see cpu_connector.py
        "storage_plugins": "memkv",
        "extra_config": {
            f"{prefix}module_path": "memkv_lmcache.backend",
            f"{prefix}class_name": "MemKVStorageBackend",
            f"{prefix}load_timeout_s": site.grace,
            f"{prefix}lookup_timeout_ms": 2000,  # the machine may be small
        },
        **lmcache,
    }
    path = site.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    transfer = {
        "kv_connector": "LMCacheConnectorV1",
        "kv_connector_module_path": "vllm_cpu.cpu_connector",
    }
    if policy is not None:
        transfer["kv_load_failure_policy"] = policy
    settings = {**site.memkv.environment, "LMCACHE_CONFIG_FILE": str(path)}
    if seed is not None:
        settings["PYTHONHASHSEED"] = seed
    with Engine(name, site.model, site.folder, transfer, **settings) as engine:
        yield engine


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _clear(url: str) -> None:
    request = urllib.request.Request(url, data=b"", method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200


@contextlib.contextmanager
def multi_process(site: Site, name: str, *, keeps: bool = True) -> Iterator[Engine]:
    """``lmcache server`` with the adapter, and vLLM beside it."""
    port, http, metrics = _free_port(), _free_port(), _free_port()
    shared = f"memkv-test-{port}"
    adapter = {
        "type": "plugin",
        "module_path": "memkv_lmcache.l2_adapter",
        "class_name": "MemKVL2Adapter",
        "adapter_params": {
            "prefix": "fleet-a",
            "load_failure_grace_s": site.grace,
            "lookup_timeout_ms": 2000,
        },
    }
    command = (
        *(BIN / "lmcache", "server", "--host", "127.0.0.1", "--port", port),
        *("--http-host", "127.0.0.1", "--http-port", http),
        *("--prometheus-port", metrics, "--l1-size-gb", "0.25", "--shm-name", shared),
        *("--eviction-policy", "LRU", "--chunk-size", CHUNK),
        *("--supported-transfer-mode", "auto", "--l2-adapter", json.dumps(adapter)),
        *(() if keeps else ("--l2-store-policy", "skip_l1")),
    )
    server = Process(f"{name}-lmcache", command, site.folder, **site.memkv.environment)
    transfer = {
        "kv_connector": "LMCacheMPConnector",
        "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "127.0.0.1",
            "lmcache.mp.port": port,
        },
    }
    with server:

        def is_ready() -> bool:
            assert server.child.poll() is None, server.said()
            return "Uvicorn running" in server.said()

        wait_until(is_ready, timeout=START_S)
        with Engine(name, site.model, site.folder, transfer) as engine:
            engine.forget = lambda: _clear(f"http://127.0.0.1:{http}/cache/clear")
            yield engine
