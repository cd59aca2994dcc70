# SPDX-License-Identifier: Apache-2.0
"""The whole examination: this host, its devices, and each server."""

from __future__ import annotations

import contextlib
import functools
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memkv_lmcache._ffi import describe_rdma
from memkv_lmcache.addresses import ServerAddress
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.doctor.devices import (
    Described,
    Device,
    check_devices,
    check_library,
    usable,
)
from memkv_lmcache.doctor.findings import Finding, Level, has_failed, trouble
from memkv_lmcache.doctor.host import (
    Host,
    check_container,
    check_kernel,
    check_nodes,
)
from memkv_lmcache.doctor.memory import (
    Wanted,
    check_memlock,
    check_pages,
    may_lock,
)
from memkv_lmcache.doctor.servers import Explain, ServerReport, check_server
from memkv_lmcache.errors import MemKVError, Status, error_for

_THREADS = 16
_CLEAN_UP_S = 12.0  # a delete, and the ends of two clients


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found."""

    host: list[Finding]
    devices: list[Finding]
    servers: list[ServerReport]
    described: list[Device]

    @property
    def findings(self) -> list[Finding]:
        """All of them, in order."""
        of_servers = [finding for one in self.servers for finding in one.findings]
        return [*self.host, *self.devices, *of_servers]

    @property
    def rdma(self) -> bool:
        """Whether RDMA will work with every server."""
        proven = all(server.is_proven for server in self.servers)
        return proven and not has_failed(self.findings)

    def as_json(self) -> dict[str, Any]:
        """As ``memkv doctor --json`` shows it."""
        return {
            "rdma": self.rdma,
            "findings": [finding.as_json() for finding in self.findings],
            "devices": self.described,
            "servers": [server.as_json() for server in self.servers],
        }


def examine(
    config: ClientConfig,
    *,
    wanted: Wanted,
    timeout: float,
    explain: Explain,
    host: Host | None = None,
) -> Report:
    """Looks at everything, all servers at once; ``timeout`` seconds for each."""
    host = host or Host()
    described, why = _describe(config)
    devices = described["devices"] if described else []
    named = config.rdma_devices.split(",") if config.rdma_devices else []
    is_seen = bool(usable(devices, ()))
    on_host = [
        *_check_setting(config),
        check_library(described, why, config.verbs_library is not None),
        *check_kernel(host, is_seen),
        *check_nodes(host, is_seen),
        check_memlock(host, wanted),
        *check_container(host, may_lock(host, wanted.size)),
        *check_pages(host, wanted),
    ]
    check = functools.partial(
        check_server,
        config=config,
        has_devices=bool(usable(devices, named)),
        explain=explain,
        timeout=timeout,
    )
    return Report(
        on_host,
        check_devices(host, devices, named, wanted) if described else [],
        _all_at_once(config.servers, check, timeout),
        devices,
    )


def _describe(config: ClientConfig) -> tuple[Described | None, str]:
    try:
        text = describe_rdma(config.verbs_library, config.rdma_devices, -1)
    except MemKVError as error:
        return None, error.text
    described: Described = json.loads(text)
    return described, ""


def _check_setting(config: ClientConfig) -> list[Finding]:
    if config.transport != "tcp":
        return []
    text = "RDMA is switched off by the setting transport: tcp"
    mends = ("MEMKV_TRANSPORT=auto, or remove it; memkv config shows where it is set",)
    return [trouble(Level.FAIL, "transport", text, mends)]


def _all_at_once(
    servers: Sequence[ServerAddress],
    check: Callable[[ServerAddress], ServerReport],
    timeout: float,
) -> list[ServerReport]:
    """In threads that nobody waits for where a system call (a name) does not return."""
    waiting: queue.SimpleQueue[ServerAddress] = queue.SimpleQueue()
    found: dict[ServerAddress, ServerReport] = {}
    for server in servers:
        waiting.put(server)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                server = waiting.get_nowait()
                found[server] = check(server)

    n = min(_THREADS, len(servers))
    turns = -(-len(servers) // n)
    deadline = time.monotonic() + turns * (timeout + _CLEAN_UP_S)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [found.get(server) or _silent(server) for server in servers]


def _silent(server: ServerAddress) -> ServerReport:
    text = "nothing came of it in time; does its name resolve?"
    mends = (f"getent hosts {server.address.rpartition(':')[0]}",)
    finding = trouble(Level.FAIL, server.name, text, mends)
    return ServerReport(server, [finding], error_for(Status.TIMEOUT, text))
