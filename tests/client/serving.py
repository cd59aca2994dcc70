"""Real servers for the tests: in threads of this process, or in one to be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from memkv_lmcache._ffi import NativeServer

MIB = 1024 * 1024

_PROGRAM = """
import sys
from memkv_lmcache._ffi import NativeServer
server = NativeServer(sys.argv[1], memory=64 * 1024 * 1024)
print(server.address, flush=True)
server.run()
"""


@contextlib.contextmanager
def served(address: str = "127.0.0.1:0", **settings: Any) -> Iterator[NativeServer]:
    """A server with two workers in threads of this process."""
    server = NativeServer(address, **{"memory": 256 * MIB, **settings})
    workers = [threading.Thread(target=server.run) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        yield server
    finally:
        server.stop()
        for worker in workers:
            worker.join()
        assert server.close()


@contextlib.contextmanager
def process(
    address: str = "127.0.0.1:0",
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, and its address; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, address], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip(), child
        finally:
            child.kill()
