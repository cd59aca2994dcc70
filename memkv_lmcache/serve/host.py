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
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from memkv_lmcache._ffi import NativeServer, version
from memkv_lmcache.errors import MemKVError
from memkv_lmcache.serve.admin import (
    DEGRADED,
    HEALTHY,
    UNHEALTHY,
    Admin,
    Health,
    Pages,
)
from memkv_lmcache.serve.config import OFF, ServerConfig
from memkv_lmcache.serve.metrics import Metrics

_log = logging.getLogger(__name__)

_END = (signal.SIGTERM, signal.SIGINT)
_INTERRUPTED_S = 0.2  # Ctrl-C: somebody waits for the shell
_JOIN_S = 10.0
_SPARE_FILES = 64


class Serving(NamedTuple):
    """What a server says of itself once it accepts; ``memory`` is in bytes."""

    address: str
    name: str
    memory: int
    transports: tuple[str, ...]
    no_rdma: str
    """Why payload does not travel by RDMA; empty: it may."""
    auth: bool
    workers: int
    admin: str
    """``host:port`` of the HTTP for operators; empty: there is none."""


def serve(config: ServerConfig, announce: Callable[[Serving], None]) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is under way.

    For the main thread, which gets the signals; a second one kills.  ``announce`` is
    called once the server accepts.  MemKVError: it could not start, or a worker failed.
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
        transport=config.transport,
        rdma_devices=config.rdma_devices,
        verbs_library=config.verbs_library,
    )
    # threads inherit it: a signal that one of them takes wakes nobody
    signal.pthread_sigmask(signal.SIG_BLOCK, _END)
    try:
        host = _Host(server, config)
        try:
            host.run(announce)
        finally:
            host.close()
    finally:
        if not server.close(_JOIN_S):
            _log.warning("a worker did not end within %g s", _JOIN_S)


class _Host:
    """A server, its workers, and what they tell about it.  The main thread's."""

    def __init__(self, server: NativeServer, config: ServerConfig) -> None:
        self._server = server
        self._config = config
        self._since = time.monotonic()
        self._over = threading.Event()
        self._drain_s = config.drain_s
        self._is_draining = False
        self._failures: list[Exception] = []
        self._address = server.address
        self._name = config.name or self._address
        self._no_rdma = server.why_no_rdma or ""
        self._metrics = Metrics(
            server.stats,
            uptime_s=lambda: time.monotonic() - self._since,
            is_draining=lambda: self._is_draining,
            info={"name": self._name, "version": version()},
        )
        self._admin = self._open_admin()

    def run(self, announce: Callable[[Serving], None]) -> None:
        """Serves until a signal, then lets requests under way end."""
        for number in _END:
            signal.signal(number, self._end)
        workers = [
            threading.Thread(target=self._work, name=f"memkv-worker-{i}", daemon=True)
            for i in range(self._config.workers)
        ]
        for worker in workers:
            worker.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)
        announce(self._describe())
        self._over.wait()
        self._is_draining = True
        if not self._failures and not self._server.drain(int(self._drain_s * 1000)):
            _log.warning("some requests were not answered within %g s", self._drain_s)
        self._server.stop()
        for worker in workers:
            worker.join(_JOIN_S)
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        """Ends the HTTP."""
        if self._admin is not None:
            self._admin.close()

    def _work(self) -> None:
        try:
            self._server.run()
        except Exception as error:
            self._failures.append(error)
        finally:
            self._over.set()

    def _end(self, number: int, frame: FrameType | None) -> None:
        for again in _END:
            signal.signal(again, signal.SIG_DFL)
        if number == signal.SIGINT:
            self._drain_s = min(self._drain_s, _INTERRUPTED_S)
        self._over.set()

    def _open_admin(self) -> Admin | None:
        given = self._config.admin_address
        address = given or _beside(self._config.address, self._address)
        if address == OFF:
            return None
        try:
            return Admin(address, Pages(self._health, self._status, self._metrics.text))
        except MemKVError as error:
            if given is not None:
                raise
            _log.warning("%s; going on without it, see network.admin_address", error)
            return None

    def _health(self) -> Health:
        wanted, there = self._config.workers, self._server.stats()["workers"]
        if there == 0:
            return Health(UNHEALTHY, False, "no network worker runs")
        if self._is_draining:
            return Health(DEGRADED, False, "draining: about to leave")
        if there < wanted:
            text = f"{there} of {wanted} network workers run"
            return Health(DEGRADED, True, text)
        return Health(HEALTHY, True)

    def _status(self) -> dict[str, Any]:
        health = self._health()
        return {
            "status": health.status,
            "reason": health.reason,
            "version": version(),
            "uptime_s": round(time.monotonic() - self._since, 3),
            **self._describe()._asdict(),
            "counters": self._server.stats(),
        }

    def _describe(self) -> Serving:
        config = self._config
        stream = "unix" if self._address.startswith("unix:") else "tcp"
        return Serving(
            address=self._address,
            name=self._name,
            memory=config.memory,
            transports=(stream,) if self._no_rdma else (stream, "rdma"),
            no_rdma=self._no_rdma,
            auth=config.auth_key is not None,
            workers=config.workers,
            admin="" if self._admin is None else self._admin.address,
        )


def _beside(wanted: str, bound: str) -> str:
    """Where the HTTP is unless it is said: any port, where the data port is any."""
    if bound.startswith("unix:"):
        return OFF
    port = 0 if wanted.endswith(":0") else int(bound.rpartition(":")[2]) + 1
    return f"127.0.0.1:{port}"


def _allow_files(wanted: int) -> None:
    """Each connection is an open file; the usual soft limit is only 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
