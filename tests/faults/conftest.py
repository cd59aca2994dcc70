"""A real server in a process of its own, so that its memory can be watched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from wire import model
from wire.model_items import Request

from faults.raw_peer import RawPeer

POOL = 64 * 2**20

SERVER = """
import resource, sys, threading
from memkv_lmcache._ffi import NativeServer
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]) or hard, hard))
server = NativeServer("127.0.0.1:0", memory=int(sys.argv[1]))
threads = [threading.Thread(target=server.run) for _ in range(2)]
for thread in threads:
    thread.start()
print(server.address, flush=True)
sys.stdin.read()
server.close()
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    process: subprocess.Popen[str]

    def connect(self) -> RawPeer:
        """A connection that is past the handshake."""
        return RawPeer(self.address).greet()

    def info(self) -> dict[str, int]:
        """What it says of itself."""
        with self.connect() as peer:
            return peer.info()

    def resident(self) -> int:
        """Bytes of memory that its process uses."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def check_serves(self) -> None:
        """Another client stores and reads, and notices nothing."""
        key, data = b"checked", bytes(range(256)) * 1024
        with self.connect() as peer:
            peer.ask(model.DELETE, Request(key))
            row, _ = peer.ask(model.PUT, Request(key, length=len(data)), data)
            assert row.status == model.OK
            row, payload = peer.ask(model.GET, Request(key, length=len(data)))
            assert (row.status, payload) == (model.OK, data)


@contextmanager
def serving(descriptors: int = 0) -> Iterator[Server]:
    """An open server, with a limit on its descriptors (0: as many as allowed)."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(POOL), str(descriptors)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), process)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose pool of 64 MiB has been touched, all of it."""
    with serving() as server:
        fill(server)
        yield server


def fill(server: Server) -> None:
    """Touches the pool, so that what grows later is something else."""
    with server.connect() as peer:
        for i in range(POOL // 2**22 * 2):
            item = Request(b"fill-%d" % i, length=2**22)
            peer.ask(model.PUT, item, bytes(2**22))
            peer.ask(model.GET, item)
