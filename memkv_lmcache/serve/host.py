# SPDX-License-Identifier: Apache-2.0
"""Runs a server in this process until a signal ends it.

The workers are threads inside the C library; Python's main thread only waits.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.serve.config import ServerConfig

_log = logging.getLogger(__name__)

_END = (signal.SIGTERM, signal.SIGINT)
_DRAIN_MS = 5_000
_JOIN_S = 10.0
_SPARE_FILES = 64


class Serving(NamedTuple):
    """What a server says of itself once it accepts; ``memory`` is in bytes."""

    address: str
    name: str
    memory: int
    transports: tuple[str, ...]
    auth: bool
    workers: int


def serve(config: ServerConfig, announce: Callable[[Serving], None]) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is under way; the main thread's.

    ``announce`` is called once the server accepts.  A second signal kills.  MemKVError:
    it could not start, or a worker failed.
    """
    _allow_files(config.max_connections + _SPARE_FILES)
    server = NativeServer(
        config.address,
        name=config.name,
        auth_key=config.auth_key,
        memory=config.memory,
        page_size=config.page_size,
        default_ttl_ms=config.default_ttl_s * 1000,
        max_connections=config.max_connections,
    )
    try:
        _run(server, config, announce)
    finally:
        if not server.close(_JOIN_S):
            _log.warning("a worker did not end within %g s", _JOIN_S)


def _run(
    server: NativeServer, config: ServerConfig, announce: Callable[[Serving], None]
) -> None:
    over = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            server.run()
        except Exception as error:
            failures.append(error)
        finally:
            over.set()

    def end(number: int, frame: FrameType | None) -> None:
        for again in _END:
            signal.signal(again, signal.SIG_DFL)
        over.set()

    for number in _END:
        signal.signal(number, end)
    workers = [
        threading.Thread(target=work, name=f"memkv-worker-{i}", daemon=True)
        for i in range(config.workers)
    ]
    for worker in workers:
        worker.start()
    announce(_describe(server.address, config))
    over.wait()
    if not failures and not server.drain(_DRAIN_MS):
        _log.warning("some requests were not answered before the end")
    server.stop()
    for worker in workers:
        worker.join(_JOIN_S)
    if failures:
        raise failures[0]


def _describe(address: str, config: ServerConfig) -> Serving:
    return Serving(
        address=address,
        name=config.name or address,
        memory=config.memory,
        transports=("unix" if address.startswith("unix:") else "tcp",),
        auth=config.auth_key is not None,
        workers=config.workers,
    )


def _allow_files(wanted: int) -> None:
    """Each connection is an open file; the usual soft limit is only 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
