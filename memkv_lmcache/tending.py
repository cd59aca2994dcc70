# SPDX-License-Identifier: Apache-2.0
"""Keeps a client's connections, and says in the log when a server comes or goes.

One line for each change of a server: it is the first thing a person with a pager looks
for.  The library decides; here it is only driven and watched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from memkv_lmcache._ffi import NativeClient, strerror
from memkv_lmcache.addresses import ServerAddress
from memkv_lmcache.errors import MemKVError, Status

_log = logging.getLogger(__name__)

_TEND_MS = 200
UP = "up"
_DOWN = "down: "
_STRANGER = "calls itself "
_RDMA = "rdma "


def tend(
    native: NativeClient, servers: Sequence[ServerAddress], transport: str
) -> None:
    """Runs until the client is closed; the target of a thread of its own."""
    watches = [_Watch(server, transport) for server in servers]
    try:
        while (status := native.tend(_TEND_MS)) == Status.OK:
            for watch in watches:
                watch.look(native.state(watch.server.name))
    except MemKVError:
        return
    if status != Status.CLOSED:
        _log.error("connections are no longer kept: %s", strerror(status))


class _Watch:
    """What was last said of one server."""

    def __init__(self, server: ServerAddress, transport: str) -> None:
        self.server = server
        self._stream = "a Unix socket" if server.address.startswith("unix:") else "TCP"
        self._transport = transport
        self._is_up: bool | None = None
        self._strange = ""
        self._way = ""
        self._since = 0.0

    def look(self, state: str) -> None:
        """Logs what has changed."""
        name = self.server.name
        if name != self.server.address:
            name = f"{name} ({self.server.address})"
        if state.startswith(_DOWN):
            if self._is_up is not False:
                _log.warning("server %s is down: %s", name, state.removeprefix(_DOWN))
                self._since = time.monotonic()
            self._is_up = False
        elif state.startswith(UP):
            if self._is_up is False and self._way:
                away = time.monotonic() - self._since
                _log.warning("server %s is up again after %.1f s", name, away)
            self._is_up = True
            strange, link = _parts(state)
            self._look_at_way(name, link)
            self._look_at_name(name, strange)

    def _look_at_way(self, name: str, link: str) -> None:
        """How payload travels and why: one line once that is known, one at a change."""
        if link.startswith(_RDMA):
            way = f"RDMA ({link.removeprefix(_RDMA)})"
        elif link:
            way = f"{self._stream} ({link.partition(': ')[2]})"
        elif self._transport == "tcp":
            way = f"{self._stream} (transport: tcp)"
        else:
            return
        if way != self._way:
            is_worse = self._way.startswith("RDMA") and not way.startswith("RDMA")
            level = logging.WARNING if is_worse else logging.INFO
            _log.log(level, "server %s is up over %s", name, way)
        self._way = way

    def _look_at_name(self, name: str, strange: str) -> None:
        if strange and strange != self._strange:
            _log.warning(
                "server %s %s: is the address right? Keys are placed by our name for "
                "it, so that all clients must call it the same",
                name,
                strange,
            )
        self._strange = strange


def _parts(state: str) -> tuple[str, str]:
    """What a server that is up calls itself, and how its payload travels and why."""
    rest = state.removeprefix(UP).removeprefix(": ")
    if not rest.startswith(_STRANGER):
        return "", rest
    strange, _, link = rest.partition("; ")
    return strange, link
