# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end: store, kill, start afresh, find everything again.

Knows neither torch nor LMCache: the workers do.  What is believed is the server's word:
its counters must hold the gets and the bytes that the fresh process says it had.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memkv_lmcache.processes import Server, Worker

#: A worker with torch and LMCache takes its time on a slow disk, the first time.
PATIENCE_S = 240.0
_MEMORY = 1024**3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened; ``put_gbps`` and ``get_gbps`` are 10**9 bytes a second."""

    stored_chunks: int
    warm_hit_chunks: int
    bytes: int
    """Bytes that the fresh process read."""
    verified: bool
    """Every chunk came back byte for byte, and the server counted it."""
    put_gbps: float
    get_gbps: float
    server_get_items: int
    server_get_bytes: int
    prefill_s: float | None = None
    """What computing the chunks took; None: they were not computed."""
    warm_start_s: float
    """What looking them up and reading them took the fresh process."""


def values(count: int, say: Say) -> Outcome:
    """``memkv demo --bytes``: ``count`` values of 2 MiB, without torch or LMCache."""
    return _run("memkv_lmcache.demo.values", [str(count)], say)


def prompts(chunks: int, chunk_size: int, say: Say) -> Outcome:
    """``memkv demo``: a prompt of ``chunks`` times ``chunk_size`` tokens."""
    return _run("memkv_lmcache.demo.prompts", [str(chunks), str(chunk_size)], say)


def _run(module: str, arguments: list[str], say: Say) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="memkv-demo-") as name:
        folder = Path(name)
        with Server(folder, _MEMORY) as server:
            say(f"a server runs on {server.address}")
            with Worker(
                module,
                "store",
                *arguments,
                folder=folder,
                environment=server.environment,
            ) as writer:
                stored = writer.receive(PATIENCE_S)
                say(f"the first process stored {stored['chunks']} chunks")
                writer.kill()
                say("the first process was killed by SIGKILL")
            before = server.counters()
            with Worker(
                module,
                "load",
                *arguments,
                folder=folder,
                environment=server.environment,
            ) as reader:
                loaded = reader.receive(PATIENCE_S)
                say(f"a fresh process found {loaded['chunks']} chunks")
                reader.finish()
            after = server.counters()
    items = after["get_hits"] - before["get_hits"]
    size = after["get_bytes"] - before["get_bytes"]
    return Outcome(
        stored_chunks=stored["chunks"],
        warm_hit_chunks=loaded["chunks"],
        bytes=loaded["bytes"],
        verified=(
            0 < stored["chunks"] == loaded["chunks"] == loaded["right"] <= items
            and 0 < stored["bytes"] == loaded["bytes"] <= size
        ),
        put_gbps=round(stored["bytes"] / stored["put_s"] / 1e9, 3),
        get_gbps=round(loaded["bytes"] / loaded["get_s"] / 1e9, 3),
        server_get_items=items,
        server_get_bytes=size,
        prefill_s=stored.get("prefill_s"),
        warm_start_s=loaded.get("lookup_s", 0.0) + loaded["get_s"],
    )
