# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end: store, kill, start afresh, find everything again.

Knows neither torch nor LMCache: the workers do.  What is believed is the server's word:
its counters must hold the gets and the bytes that the fresh process says it had.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memkv_lmcache.processes import Server, Worker
from memkv_lmcache.ways import no_rdma, result_of

#: A worker with torch and LMCache takes its time on a slow disk, the first time, and
#: minutes on an emulated machine.
PATIENCE_S = 600.0
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
    """Every chunk came back byte for byte, and the server counted it; with transport
    rdma no byte went any other way, by its count and by those of both processes."""
    put_gbps: float
    get_gbps: float
    server_get_items: int
    server_get_bytes: int
    bytes_remote: int
    """Of what the fresh process read: by RDMA, into the engine's own memory."""
    bytes_inline: int
    """And on the stream, from where its CPU copied them."""
    put_bytes_remote: int
    put_bytes_inline: int
    """The same of the process that stored."""
    server_bytes_remote: int
    server_bytes_inline: int
    """Of both, by the server's word."""
    prefill_s: float | None = None
    """What computing the chunks took; None: they were not computed."""
    warm_start_s: float
    """What looking them up and reading them took the fresh process."""

    @property
    def is_uncopied(self) -> bool:
        """Whether no byte of a value was copied by a client's CPU: all went by RDMA, as
        both processes and the server say."""
        copied = (self.bytes_inline, self.put_bytes_inline, self.server_bytes_inline)
        moved = (self.bytes_remote, self.put_bytes_remote)
        return (
            not any(copied)
            and min(moved) >= self.bytes
            and self.server_bytes_remote >= sum(moved)
        )


def values(count: int, transport: str, say: Say) -> Outcome:
    """``memkv demo --bytes``: ``count`` values of 2 MiB, without torch or LMCache.

    UsageError: ``transport`` is rdma, and there is none.
    """
    return _run("memkv_lmcache.demo.values", [str(count)], transport, say)


def prompts(chunks: int, chunk_size: int, transport: str, say: Say) -> Outcome:
    """``memkv demo``: a prompt of ``chunks`` times ``chunk_size`` tokens.

    UsageError: as ``values``.
    """
    arguments = [str(chunks), str(chunk_size)]
    return _run("memkv_lmcache.demo.prompts", arguments, transport, say)


def _run(module: str, arguments: list[str], transport: str, say: Say) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="memkv-demo-") as name:
        folder = Path(name)
        with _server(folder, transport) as server:
            if transport == "rdma" and server.no_rdma:
                raise no_rdma(server.no_rdma)
            say(f"a server runs on {server.address}")
            environment = {**server.environment, "MEMKV_TRANSPORT": transport}

            def worker(role: str) -> Worker:
                return Worker(
                    *(module, role, *arguments), folder=folder, environment=environment
                )

            with worker("store") as writer:
                stored = result_of(writer.receive(PATIENCE_S))
                say(f"the first process stored {stored['chunks']} chunks")
                writer.kill()
                say("the first process was killed by SIGKILL")
            before = server.counters()
            with worker("load") as reader:
                loaded = result_of(reader.receive(PATIENCE_S))
                say(f"a fresh process found {loaded['chunks']} chunks")
                reader.finish()
            after = server.counters()
    outcome = _outcome(stored, loaded, before, after)
    if transport == "rdma" and not outcome.is_uncopied:
        return replace(outcome, verified=False)
    return outcome


def _server(folder: Path, transport: str) -> Server:
    """Looks for RDMA where the caller does."""
    return Server(
        folder,
        _MEMORY,
        # strict are the workers: it would end without a word that a program could read
        transport="tcp" if transport == "tcp" else "auto",
        rdma_devices=os.environ.get("MEMKV_RDMA_DEVICES"),
        verbs_library=os.environ.get("MEMKV_VERBS_LIBRARY"),
    )


def _outcome(
    stored: dict[str, Any],
    loaded: dict[str, Any],
    before: dict[str, int],
    after: dict[str, int],
) -> Outcome:
    """By what the two processes said, and the server before and after the second."""
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
        bytes_remote=loaded["bytes_remote"],
        bytes_inline=loaded["bytes_inline"],
        put_bytes_remote=stored["bytes_remote"],
        put_bytes_inline=stored["bytes_inline"],
        server_bytes_remote=after["bytes_remote"],
        server_bytes_inline=after["bytes_inline"],
        prefill_s=stored.get("prefill_s"),
        warm_start_s=loaded.get("lookup_s", 0.0) + loaded["get_s"],
    )
