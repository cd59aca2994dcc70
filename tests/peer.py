"""A scripted peer: a server that says given bytes, stalls, or cuts a connection.

Every connection it accepts runs the same steps, each a function of the socket, and is
then closed.  ``relay`` passes everything on to a real server up to a given byte.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal

_TICK_S = 0.05
_PIECE = 64 * 1024

Step = Callable[["Peer", socket.socket], None]


class Peer:
    """Listens on a free port of 127.0.0.1 while its ``with`` block runs."""

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.ending = threading.Event()
        self.accepted = threading.Semaphore(0)
        """Released once for each connection."""
        self.stalled = threading.Semaphore(0)
        """Released whenever a step has begun to stall."""

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Peer:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.release()
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # a client that hangs up is part of the plan
        with connection, contextlib.suppress(OSError):
            for step in self._steps:
                step(self, connection)


def say(data: bytes) -> Step:
    """Sends these bytes, whatever the other end may say."""
    return lambda _, connection: connection.sendall(data)


def stall(peer: Peer, connection: socket.socket) -> None:
    """Neither reads nor writes until the peer ends."""
    peer.stalled.release()
    peer.ending.wait()


def relay(
    address: str,
    at: int,
    *,
    of: Literal["server", "client"] = "server",
    stalls_until: threading.Event | None = None,
    flips: bool = False,
) -> Step:
    """Passes everything between the client and a server on TCP, up to byte ``at`` of
    what one of them says: then cuts the connection, or stalls until the event is set
    and goes on, or flips a bit of that byte and goes on."""
    host, port = address.rsplit(":", 1)

    def step(peer: Peer, connection: socket.socket) -> None:
        left = at
        with socket.create_connection((host, int(port))) as server:
            ways = {connection: server, server: connection}
            counted = server if of == "server" else connection
            while not peer.ending.is_set():
                for source in select.select(ways, [], [], _TICK_S)[0]:
                    data = source.recv(
                        min(left, _PIECE) if source is counted else _PIECE
                    )
                    if not data:
                        return
                    left -= len(data) if source is counted else 0
                    if flips and left == 0:
                        data = data[:-1] + bytes([data[-1] ^ 1])
                        left = sys.maxsize
                    ways[source].sendall(data)
                if left == 0:
                    if stalls_until is None:
                        return
                    peer.stalled.release()
                    stalls_until.wait()
                    left = sys.maxsize

    return step
