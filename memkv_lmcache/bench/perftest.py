# SPDX-License-Identifier: Apache-2.0
"""What RDMA gives here: the tools of perftest, both ends of them on this host."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from memkv_lmcache.errors import Status, error_for
from memkv_lmcache.processes import WorkerFailed

PACKAGE = "perftest"
_LEAST = 16  # messages
_START_S, _RUN_S, _END_S = 15.0, 120.0, 10.0
_MIB = 1024**2
_DEVICES = Path("/sys/class/infiniband")
_LINK = re.compile(
    r"\brdma (?P<device>[^ ,]+) port (?P<port>\d+)(?:,? GID (?P<gid>\d+))?"
    r", (?P<kind>[^,]+), (?P<address>[0-9a-fA-F:.]+)"
)


class Port(NamedTuple):
    """A device, its port, and the place of a GID in the port's table (None: by LID)."""

    device: str
    number: int
    gid: int | None


def port_of(state: str) -> Port:
    """What a client's state of a server names: ``up: rdma mlx5_0 port 1, ...``.

    MemKVError: it names none, since the link broke just now.
    """
    found = _LINK.search(state)
    if found is None:
        raise error_for(Status.UNSUPPORTED, f"the link is gone, the server is {state}")
    gid = found["gid"]
    if gid is None and found["kind"].startswith("RoCE"):
        place = _DEVICES / found["device"] / "ports" / found["port"]
        gid = _gid_index(place, found["kind"], found["address"])
    return Port(found["device"], int(found["port"]), None if gid is None else int(gid))


def _gid_index(place: Path, kind: str, address: str) -> str | None:
    """Which GID of the port in sysfs stands for the address; None: it has none."""
    wanted = ipaddress.ip_address(address)
    for path in place.glob("gids/*"):
        gid = ipaddress.IPv6Address(path.read_text().strip())
        if wanted not in (gid, gid.ipv4_mapped):
            continue
        its_kind = (place / "gid_attrs/types" / path.name).read_text().strip()
        if its_kind.endswith(kind):  # "RoCE v2" or "IB/RoCE v1"
            return path.name
    return None


class Perftest:
    """``ib_write_bw`` moves what a server does for a GET, ``ib_read_bw`` for a PUT.

    One queue pair, messages of a value's size, the port's own MTU.
    """

    get_tool, put_tool = "ib_write_bw", "ib_read_bw"

    def __init__(self, port: Port) -> None:
        self._port = port
        self._rates: dict[tuple[str, int], float] = {}

    @classmethod
    def is_here(cls) -> bool:
        """Whether both tools are on the PATH."""
        return None not in (shutil.which(cls.get_tool), shutil.which(cls.put_tool))

    def get(self, size: int, count: int, seconds: float) -> float:
        """See ``raw.Raw``; WorkerFailed: the tool did."""
        return self._measure(self.get_tool, size, seconds)

    def put(self, size: int, count: int, seconds: float) -> float:
        """See ``raw.Raw``; WorkerFailed: the tool did."""
        return self._measure(self.put_tool, size, seconds)

    def _measure(self, tool: str, size: int, seconds: float) -> float:
        # it is told how many, not how long: -D takes whole seconds only
        which = tool, size
        if which not in self._rates:
            self._rates[which] = self._move(tool, size, _LEAST)
        count = max(_LEAST, round(self._rates[which] * 1e9 * seconds / size))
        self._rates[which] = self._move(tool, size, count)
        return self._rates[which]

    def _move(self, tool: str, size: int, count: int) -> float:
        """Moves so many messages of ``size`` bytes."""
        device, number, gid = self._port
        port = _free_port()
        command = [tool, "-F", "-d", device, "-i", str(number), "-p", str(port)]
        command += ["-s", str(size), "-n", str(count)]
        command += [] if gid is None else ["-x", str(gid)]
        with subprocess.Popen(  # noqa: S603 of the PATH, as the user has it
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                said = _client(command, server)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(_END_S)
            finally:
                server.kill()
        rows = [line.split() for line in said.splitlines()]
        for row in rows:
            if row[:1] == [str(size)] and len(row) > 3:
                return float(row[3]) * _MIB / 1e9
        raise WorkerFailed(f"{tool} prints no row of {size} bytes\n{said.strip()}")


def _client(command: list[str], server: subprocess.Popen[bytes]) -> str:
    """What the other end prints; again, until the server listens."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            done = subprocess.run(  # noqa: S603 as above
                [*command, "127.0.0.1"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_RUN_S,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(str(error)) from None
        if done.returncode == 0:
            return done.stdout
        if server.poll() is not None or time.monotonic() > deadline:
            said = (done.stderr or done.stdout).strip()
            raise WorkerFailed(f"{' '.join(command)} failed\n{said[-2000:]}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
