# SPDX-License-Identifier: Apache-2.0
"""One server: is it there, has it RDMA, which port reaches it, and does it work?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from memkv_lmcache._ffi import describe_rdma
from memkv_lmcache.addresses import ServerAddress
from memkv_lmcache.client import Client
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.doctor.devices import chosen_text
from memkv_lmcache.doctor.findings import Finding, Level, ok, trouble
from memkv_lmcache.doctor.mends import (
    DOCKER,
    INSTALL,
    NAME_DEVICES,
    SERVE_DEVICES,
    THERE,
    UDP_PORT,
    permanent_memlock,
)
from memkv_lmcache.doctor.proof import NAMESPACE, Proof, prove
from memkv_lmcache.errors import AuthError, MemKVError

Explain = Callable[[str, str], str]
"""A server's name and its trouble to one line about it."""

_READY = ("", "ready")
_REFUSED = "the server makes no RDMA link"
_REFUSED_S = 1.0
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# What a reason holds, and what mends it.
_MENDS: Sequence[tuple[str, Sequence[str]]] = (
    ("no verbs library", INSTALL),
    ("cannot be opened", DOCKER),
    ("cannot register", ("ulimit -l unlimited", *permanent_memlock(""))),
    ("the near address", NAME_DEVICES),
    ("no RDMA port is up", ("ip link set NETDEV up, see the devices above",)),
    ("there is no RDMA device", ("remove rdma_devices, or name one that is there",)),
    ("the server", THERE),
)


@dataclass
class ServerReport:
    """What was found of one server."""

    server: ServerAddress
    findings: list[Finding] = field(default_factory=list)
    error: MemKVError | None = None
    """Why it cannot be reached or does not let us in."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool:
        """Whether a value went there and back by RDMA."""
        return bool(self.facts.get("rdma"))

    def as_json(self) -> dict[str, Any]:
        """As ``memkv doctor --json`` shows it."""
        name, address = self.server
        return {"server": name, "address": address, "rdma": False, **self.facts}


def check_server(
    server: ServerAddress,
    config: ClientConfig,
    *,
    has_devices: bool,
    explain: Explain,
    timeout: float,
) -> ServerReport:
    """Looks at one server, for ``timeout`` seconds and a second to clean up.

    ``has_devices``: this host has one that can be used, so that a proof makes sense.
    """
    deadline = time.monotonic() + timeout
    report = ServerReport(server)
    alone = dataclasses.replace(config, servers=(server,))
    if not _reach(report, alone, explain, timeout):
        return report
    if not has_devices:
        text = "RDMA was not tried: this host has no device that can be used"
        mends = ("mend this host first, see above",)
        report.findings.append(trouble(Level.NOTE, server.name, text, mends))
        return report
    is_chosen = _choose(report, alone)
    if report.facts["server_rdma"] in _READY and is_chosen:
        _prove(report, alone, deadline)
    return report


def _reach(
    report: ServerReport, config: ClientConfig, explain: Explain, timeout: float
) -> bool:
    """By the stream; and what it says of its own RDMA."""
    name, address = report.server
    stream = dataclasses.replace(
        config, transport="tcp", namespace=NAMESPACE, prometheus_bind=None
    )
    try:
        with Client(config=stream) as client:
            answer = client.probe(timeout=timeout)
    except MemKVError as error:
        report.error = error
        text = explain(name, error.text).removeprefix(f"{name}: ")
        report.findings.append(
            trouble(Level.FAIL, name, text, _reach_mends(error, address))
        )
        return False
    known = {k: answer.get(k) for k in ("name", "version", "auth")}
    report.facts |= {**known, "server_rdma": str(answer.get("rdma", ""))}
    auth = "on" if answer.get("auth") else "off"
    text = f"reached: {known['name']}, version {known['version']}, auth {auth}"
    report.findings += [ok(name, text), _check_its_rdma(report)]
    return True


def _reach_mends(error: MemKVError, address: str) -> Sequence[str]:
    if isinstance(error, AuthError):
        return ("MEMKV_AUTH_KEY=... or --auth-key-file FILE: the server's own key",)
    host, _, port = address.rpartition(":")
    if "route" in error.text:
        return (f"ip route get {host}",)
    if host in _LOOPBACK or address.startswith("unix:"):
        return (f"memkv serve --address {address}",)
    return (
        f"there: memkv serve --address 0.0.0.0:{port} --auth-key-file FILE",
        f"there: iptables -I INPUT -p tcp --dport {port} -j ACCEPT",
    )


def _check_its_rdma(report: ServerReport) -> Finding:
    why = report.facts["server_rdma"]
    if why in _READY:
        return ok(report.server.name, "the server has RDMA")
    mends = THERE
    if "transport is tcp" in why:
        mends = ("network.transport: auto in its yaml, and restart it",)
    text = f"the server has no RDMA: {why}"
    return trouble(Level.FAIL, report.server.name, text, mends)


def _choose(report: ServerReport, config: ClientConfig) -> bool:
    name, address = report.server
    try:
        with _towards(address) as end:
            text = describe_rdma(
                config.verbs_library, config.rdma_devices, end.fileno()
            )
    except (OSError, MemKVError) as error:
        reason = str(error)
        mends: Sequence[str] = (f"ip route get {address.rpartition(':')[0]}",)
    else:
        described = json.loads(text)
        chosen = described["chosen"]
        report.facts["chosen"] = chosen
        if chosen is not None:
            text = f"would use {chosen_text(described, chosen)}"
            report.findings.append(ok(name, text))
            return True
        reason = described["reason"]
        mends = mends_for(reason)
    report.findings.append(trouble(Level.FAIL, name, reason, mends))
    return False


@contextlib.contextmanager
def _towards(address: str) -> Iterator[socket.socket]:
    """A socket with the near address that a connection would have.  Sends nothing."""
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            near, far = socket.socketpair()
            stack.enter_context(far)
            yield stack.enter_context(near)
            return
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, where = found[0]
        near = stack.enter_context(socket.socket(family, kind, protocol))
        near.connect(where)
        yield near


def _prove(report: ServerReport, config: ClientConfig, deadline: float) -> None:
    name = report.server.name
    try:
        proof = prove(config, deadline)
    except MemKVError as error:
        proof = Proof(error.text)
    report.facts["proof"] = proof._asdict()
    report.facts["rdma"] = not proof.reason
    if not proof.reason:
        text = (
            f"proven: a value went there and came back, all {proof.bytes_remote} bytes "
            f"by RDMA ({proof.link})"
        )
        report.findings.append(ok(name, text))
        return
    text = f"RDMA was tried, and failed: {proof.reason}"
    refused = _why_refused(config) if _REFUSED in proof.reason else ""
    if refused:
        report.facts["server_refused"] = refused
        text += f"; the last one it refused: {refused}"
    mends = SERVE_DEVICES if refused else mends_for(proof.reason)
    report.findings.append(trouble(Level.FAIL, name, text, mends))


def _why_refused(config: ClientConfig) -> str:
    """What the server says of the last link that it did not make."""
    stream = dataclasses.replace(config, transport="tcp", prometheus_bind=None)
    with contextlib.suppress(MemKVError), Client(config=stream) as client:
        return str(client.probe(timeout=_REFUSED_S).get("rdma_refused", ""))
    return ""


def mends_for(reason: str) -> Sequence[str]:
    """What mends a reason of the library."""
    for part, mends in _MENDS:
        if part in reason:
            return mends
    return (*UDP_PORT, *THERE)
