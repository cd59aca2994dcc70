"""A relay before ``memkv serve`` that reads along, and acts at one chosen moment."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Generator
from enum import Enum

from peer import Peer

# docs/wire.md, section 3
_PREFIX = 56
_KIND = 5
_LENGTHS = struct.Struct("<24xI4xQ16x")
_GET = 5

_PIECE = 64 * 1024
_TICK_S = 0.05

#: Yields how much it takes next, and gets bytes.
Reader = Generator[int, bytes, None]


class Moment(Enum):
    """When the relay acts, and then cuts every connection."""

    REQUEST = "a GET has been sent and has not arrived: lookups are over"
    PAYLOAD = "half of the payload of a GET's answer has been passed on"


class Relay:
    """What every connection of a ``Peer`` does.

    ``server`` is where to pass it on; None: whoever connects is hung up on.
    """

    def __init__(self) -> None:
        self.server: str | None = None
        self._lock = threading.Lock()
        self._armed: tuple[Moment, Callable[[], None]] | None = None
        self._cuts = 0

    def arm(self, moment: Moment, action: Callable[[], None]) -> None:
        """Calls ``action`` the next time that it is ``moment``, and never again."""
        self._armed = moment, action

    @property
    def fired(self) -> bool:
        """Whether the action was called."""
        return self._armed is None

    def __call__(self, peer: Peer, client: socket.socket) -> None:
        if self.server is None:
            return
        cuts = self._cuts
        host, port = self.server.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as server:
            ways = {client: server, server: client}
            readers = {
                client: self._reads(server.sendall, of_client=True),
                server: self._reads(client.sendall, of_client=False),
            }
            wanted = {source: next(reader) for source, reader in readers.items()}
            while not peer.ending.is_set() and self._cuts == cuts:
                for source in select.select(ways, [], [], _TICK_S)[0]:
                    data = source.recv(min(wanted[source], _PIECE))
                    if not data:
                        return
                    wanted[source] = readers[source].send(data)

    def _reads(self, forward: Callable[[bytes], None], *, of_client: bool) -> Reader:
        while True:
            prefix = b""
            while len(prefix) < _PREFIX:
                prefix += yield _PREFIX - len(prefix)
            is_get = prefix[_KIND] == _GET
            if is_get and of_client:
                self._act_at(Moment.REQUEST)
            forward(prefix)
            table, body = _LENGTHS.unpack(prefix)
            for part in (table, body // 2, body - body // 2):
                left = part
                while left:
                    data = yield left
                    forward(data)
                    left -= len(data)
                if is_get and not of_client and part and part == body // 2:
                    self._act_at(Moment.PAYLOAD)

    def _act_at(self, moment: Moment) -> None:
        with self._lock:
            if self._armed is None or self._armed[0] is not moment:
                return
            action = self._armed[1]
            action()
            self._armed = None
            self._cuts += 1
        raise ConnectionAbortedError(moment.value)
