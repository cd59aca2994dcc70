"""A server in a process that starts others: a fork copies its descriptors."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import subprocess, threading
from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer

server = NativeServer("127.0.0.1:0", memory=16 * 1024 * 1024)
workers = [threading.Thread(target=server.run) for _ in range(2)]
for worker in workers:
    worker.start()
over = threading.Event()

def come_and_go():
    while not over.is_set():
        with Client(server.address) as client:
            client.put(b"key", b"value")

clients = [threading.Thread(target=come_and_go) for _ in range(4)]
for client in clients:
    client.start()
for _ in range(100):
    # with a function to run first, subprocess forks
    subprocess.run(["true"], check=True, preexec_fn=lambda: None)
over.set()
for client in clients:
    client.join()
server.stop()
for worker in workers:
    worker.join()
print("fine")
"""


def test_forks_beside_connections_that_close_do_no_harm() -> None:
    """A connection that was closed is never heard of again."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
