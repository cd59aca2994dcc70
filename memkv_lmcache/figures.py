# SPDX-License-Identifier: Apache-2.0
"""What a client shows of its servers: states, counters, and reasons of misses."""

from __future__ import annotations

from typing import NamedTuple

from memkv_lmcache._ffi import NativeClient
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.errors import ClientClosed
from memkv_lmcache.exporter import Snapshot
from memkv_lmcache.metrics import MISS, Counters


class ServerStats(NamedTuple):
    """One server as its client has seen it so far.

    ``misses`` are lookups and gets that failed, by reason (see ``errors.miss_reason``).
    """

    state: str
    counters: dict[str, int]
    misses: dict[str, int]


class Figures:
    """Knows a client by its handle alone, so as to keep none alive.  Any thread."""

    def __init__(
        self, native: NativeClient, config: ClientConfig, counters: Counters | None
    ) -> None:
        self._native = native
        self._config = config
        self._counters = counters

    def of(self, server: str) -> ServerStats:
        """One server's."""
        counted = self._native.stats(server)
        misses = {
            name.removeprefix(MISS): n
            for name, n in counted.items()
            if name.startswith(MISS) and n > 0
        }
        others = {k: n for k, n in counted.items() if not k.startswith(MISS)}
        return ServerStats(self._native.state(server), others, misses)

    def registered_bytes(self) -> int:
        """Of memory lent to the client: what the RDMA devices have by now."""
        return self._native.stats()["registered_bytes"]

    def snapshot(self) -> Snapshot:
        """All of them, for the exporter; none of a client that is closed."""
        plugin = self._counters.snapshot() if self._counters else {}
        servers = {}
        registered = 0
        try:
            for server in self._config.servers:
                is_live = not self._native.state(server.name).startswith("down")
                servers[server.name] = is_live, self._native.stats(server.name)
            registered = self.registered_bytes()
        except ClientClosed:
            servers.clear()
        return Snapshot(self._config.namespace, servers, plugin, registered)
