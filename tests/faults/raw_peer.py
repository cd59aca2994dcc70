"""A client of one socket that says what a test wants, in the bytes of wire/model.py.

It speaks to an open server (no key, zero tags) and waits for what it asks for.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Sequence
from types import TracebackType

from wire import model
from wire.model import Frame
from wire.model_items import Reply, Request, decode_replies, encode_requests

TIMEOUT = 20.0
HELLO = model.ClientHello(
    version_low=1,
    version_high=1,
    features=0,
    suite=0,
    max_requests=8,
    max_table=model.MAX_TABLE,
    key_id=0,
    client_id=1,
    nonce=bytes(32),
    name_space=b"raw",
)


def hello_bytes() -> bytes:
    """A whole HELLO."""
    table = model.encode_client_hello(HELLO)
    return model.encode_frame(Frame(model.HELLO, table_len=len(table))) + table


def request_bytes(
    kind: int, items: Sequence[Request] = (), budget_ms: int = 60_000, id: int = 7
) -> bytes:
    """A whole request but for its body."""
    frame, table = Frame(kind, id=id, budget_ms=budget_ms), b""
    if items:
        frame, table = encode_requests(frame, items)
    return model.encode_frame(frame) + table


class RawPeer:
    """One connection; open it with :meth:`greet` or send what you like."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), TIMEOUT)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def greet(self) -> RawPeer:
        """The handshake."""
        self.socket.sendall(hello_bytes())
        frame, _, _ = self.reply()
        assert (frame.kind, frame.status) == (model.HELLO, model.OK)
        return self

    def send(self, data: bytes) -> None:
        """As it is."""
        self.socket.sendall(data)

    def finish(self) -> None:
        """Nothing more comes from here, if the server has not hung up by now."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reply(self) -> tuple[Frame, bytes, bytes]:
        """One frame with its table and its body."""
        frame = model.decode_frame(self._take(model.PREFIX.size))
        return frame, self._take(frame.table_len), self._take(frame.body_len)

    def ask(self, kind: int, item: Request, body: bytes = b"") -> tuple[Reply, bytes]:
        """A request of one item that is answered in one frame."""
        self.send(request_bytes(kind, [item]) + body)
        frame, table, payload = self.reply()
        (row,) = decode_replies(frame, table)
        return row, payload

    def info(self) -> dict[str, int]:
        """What the server says of itself."""
        self.send(request_bytes(model.INFO))
        answer: dict[str, int] = json.loads(self.reply()[1])
        return answer

    def is_hung_up(self, timeout: float = TIMEOUT) -> bool:
        """Waits for the server's end of the connection, whatever comes before it."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, f"hung up after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)
