# SPDX-License-Identifier: Apache-2.0
"""The public client: batches and single operations on a fleet of servers.

Knows neither CFFI nor LMCache.  Retries and the choice of a server are the library's.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from memkv_lmcache._ffi import (
    OP_DELETE,
    OP_GET,
    OP_PUT,
    OP_STAT,
    NativeClient,
    NativeRegion,
    milliseconds,
    strerror,
)
from memkv_lmcache.config import ClientConfig, load
from memkv_lmcache.errors import Status, UsageError, error_for
from memkv_lmcache.exporter import Exporter, exporter_at
from memkv_lmcache.figures import Figures, ServerStats
from memkv_lmcache.metrics import Counters
from memkv_lmcache.ops import Entry, Get, Put, Result, Stat
from memkv_lmcache.tending import tend

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["Client", "Entry", "Get", "Put", "Result", "ServerStats", "Stat"]

_log = logging.getLogger(__name__)

MAX_KEY = 512
MAX_HEADER = 4096
_FIRST_ROOM = 64 * 1024
_CLOSE_S = 5.0

Results = list[Result]


class Client:
    """A client of one or many MemKV servers.

    Values are bytes under a key of 1 to 512 bytes, with a header of up to 4,096.  A put
    of a present key with the same header changes nothing, with another one it replaces.
    What a get returns was verified end to end.

    Settings not given come from the environment, see ``memkv_lmcache.config``, or all
    of them from ``config``.  Opening dials nobody: a dead server fails no start;
    a daemon thread then keeps the connections.  Close it, or use it as a context
    manager.  Any thread may call any method; a forked child must open its own client.

    ``timeout`` is in seconds, the default of every call.  A call returns by then; what
    is left undone has the status TIMEOUT.

    Where ``prometheus_bind`` is set, ``counters`` of the caller's are exported, too.

    Single operations raise a :class:`MemKVError` when they fail, but absence is an
    answer.  Batches give a :class:`Result` for each item, in order, and raise only if
    nothing could be run: ``UsageError`` for arguments that are not what they should be,
    ``ClientClosed`` after :meth:`close`.  In a batch a key or a header of a wrong
    length fails alone, with the status INVALID.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        namespace: str | None = None,
        auth_key: str | bytes | None = None,
        num_connections: int | None = None,
        transport: str | None = None,
        timeout: float = 10.0,
        config: ClientConfig | None = None,
        counters: Counters | None = None,
    ) -> None:
        given = {
            "servers": servers,
            "namespace": namespace,
            "auth_key": auth_key,
            "num_connections": num_connections,
            "transport": transport,
        }
        if config is None:
            config = load(given)
        elif any(value is not None for value in given.values()):
            raise UsageError(Status.INVALID, "config stands for all other settings")
        self.config = config
        """The settings in force."""
        self._timeout_ms = milliseconds(timeout)
        self._native = NativeClient(
            config.servers,
            namespace=config.namespace.encode(),
            auth_key=config.auth_key,
            connections=config.num_connections,
            transport=config.transport,
            rdma_devices=config.rdma_devices,
            verbs_library=config.verbs_library,
        )
        # without a reference to self, so that a forgotten client can be noticed
        self._tender = threading.Thread(
            target=tend,
            args=(self._native, config.servers, config.transport),
            name="memkv-tend",
            daemon=True,
        )
        self._tender.start()
        self._figures = Figures(self._native, config, counters)
        self._exporter: Exporter | None = None
        if config.prometheus_bind is not None:
            self._exporter = exporter_at(config.prometheus_bind)
            self._exporter.add(self._figures)

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers' names, as configured."""
        return tuple(server.name for server in self.config.servers)

    # ---- batches ---------------------------------------------------------------------

    def stat_many(
        self,
        keys: Sequence[bytes],
        *,
        headers: bool = False,
        header_room: int = MAX_HEADER,
        lease_ms: int = 0,
        depths: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> Results:
        """Which keys are there, in one round trip to each server.

        With ``headers`` the results hold them; TOO_SMALL is one that takes more than
        ``header_room``.  With ``lease_ms`` (up to 600,000) what is found is kept that
        long, as far as the server's bound on leases allows.
        """
        zeros = [0] * len(keys)
        return self._native.run(
            OP_STAT,
            keys,
            self._ms(timeout),
            depths=zeros if depths is None else depths,
            groups=zeros if groups is None else groups,
            ttls=[lease_ms] * len(keys),
            rooms=[header_room] * len(keys) if headers else None,
        )

    def get_many_into(
        self, items: Sequence[Get], *, timeout: float | None = None
    ) -> Results:
        """Reads values straight into the items' buffers.

        TOO_SMALL: the buffer or ``header_room``; ``size`` says what the value takes.
        """
        return self._native.run(
            OP_GET,
            [item.key for item in items],
            self._ms(timeout),
            depths=[item.depth for item in items],
            groups=[item.group for item in items],
            rooms=[item.header_room for item in items],
            data=[item.into for item in items],
        )

    def put_many(
        self, items: Sequence[Put], *, timeout: float | None = None
    ) -> Results:
        """Stores values straight from the items' buffers.

        EXISTS: the key is there with the same header, and stays as it is.
        """
        return self._native.run(
            OP_PUT,
            [item.key for item in items],
            self._ms(timeout),
            depths=[item.depth for item in items],
            groups=[item.group for item in items],
            ttls=[item.ttl_ms for item in items],
            headers=[item.header for item in items],
            data=[item.data for item in items],
        )

    def delete_many(
        self, keys: Sequence[bytes], *, timeout: float | None = None
    ) -> Results:
        """Removes values; NOT_FOUND for those that were not there."""
        return self._native.run(OP_DELETE, keys, self._ms(timeout))

    # ---- memory ----------------------------------------------------------------------

    def register(self, buffer: Buffer) -> NativeRegion:
        """Lets values of 64 KiB or more in this writable memory travel by RDMA.

        Returns at once; the devices get it in the background (seconds a GiB), and
        until then, as without RDMA, the values travel on the stream.  The memory is
        lent until the region's ``release``, or the end of a ``with`` block, by when no
        call may use it any more; closing the client releases what is left.
        """
        return self._native.register_region(buffer)

    def registered_bytes(self) -> int:
        """How much of the memory in regions the RDMA devices have by now."""
        return self._figures.registered_bytes()

    # ---- single operations -----------------------------------------------------------

    def get_into(
        self, key: bytes, buffer: Buffer, *, timeout: float | None = None
    ) -> int | None:
        """Reads a value into a writable buffer; its bytes, or None if it is not there.

        BufferTooSmall: the value is larger.  On any failure the buffer is undefined.
        """
        _check_key(key)
        [result] = self.get_many_into([Get(key, buffer)], timeout=timeout)
        return result.size if _found(result, key) else None

    def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """A value, or None if it is not there.

        One round trip up to 64 KiB, a second one for a larger value.
        """
        _check_key(key)
        deadline = time.monotonic() + self._ms(timeout) / 1000
        size = _FIRST_ROOM
        while True:
            buffer = bytearray(size)
            left = max(0.0, deadline - time.monotonic())
            [result] = self.get_many_into([Get(key, buffer)], timeout=left)
            # again if there is a larger one, perhaps put just now
            if result.status is not Status.TOO_SMALL or result.size <= size:
                break
            size = result.size
        if not _found(result, key):
            return None
        return bytes(memoryview(buffer)[: result.size])

    def put(
        self,
        key: bytes,
        data: Buffer,
        header: bytes = b"",
        *,
        ttl_ms: int = 0,
        timeout: float | None = None,
    ) -> bool:
        """Stores a value.  True: stored; False: it was there, with this header."""
        _check_key(key)
        if len(header) > MAX_HEADER:
            text = f"a header has up to {MAX_HEADER} bytes, not {len(header)}"
            raise UsageError(Status.INVALID, text)
        [result] = self.put_many([Put(key, data, header, ttl_ms)], timeout=timeout)
        if result.status is Status.EXISTS:
            return False
        _raise_for(result, key)
        return True

    def stat(
        self, key: bytes, *, lease_ms: int = 0, timeout: float | None = None
    ) -> Stat | None:
        """Size and header of a value, or None if it is not there."""
        _check_key(key)
        [result] = self.stat_many(
            [key], headers=True, lease_ms=lease_ms, timeout=timeout
        )
        if not _found(result, key):
            return None
        return Stat(result.size, result.header, result.leased)

    def delete(self, key: bytes, *, timeout: float | None = None) -> bool:
        """Removes a value.  False: it was not there."""
        _check_key(key)
        [result] = self.delete_many([key], timeout=timeout)
        return _found(result, key)

    # ---- the fleet -------------------------------------------------------------------

    def list(
        self, *, server: str | None = None, timeout: float | None = None
    ) -> Iterator[Entry]:
        """The values of the namespace, unordered, on one server or one by one on all.

        A value put or evicted meanwhile may be missed.  ``timeout`` is for each of the
        requests that this makes as it goes.
        """
        milliseconds = self._ms(timeout)
        for name in self.servers if server is None else (server,):
            page, cursor = self._native.list_page(name, 0, milliseconds)
            while page:
                yield from page
                page, cursor = self._native.list_page(name, cursor, milliseconds)

    def list_page(
        self, server: str, cursor: int, limit: int, *, timeout: float | None = None
    ) -> tuple[Sequence[Entry], int]:
        """Up to ``limit`` values of one server, and the cursor that goes on from there.

        ``cursor`` is 0 to begin.  No values: there are no more.
        """
        return self._native.list_page(server, cursor, self._ms(timeout), limit)

    def probe(
        self, server: str | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Dials a server (default: the first) and asks how it is."""
        name = self.servers[0] if server is None else server
        answer: dict[str, Any] = json.loads(self._native.probe(name, self._ms(timeout)))
        return answer

    def state(self) -> dict[str, str]:
        """How each server stands ("up", "down: connection refused"); asks nobody."""
        return {name: self._native.state(name) for name in self.servers}

    def stats(self) -> dict[str, ServerStats]:
        """State, counters and miss reasons of each server; asks nobody."""
        return {name: self._figures.of(name) for name in self.servers}

    # ---- its life --------------------------------------------------------------------

    def close(self) -> bool:
        """Ends calls under way with CLOSED and frees everything; again does nothing.

        Waits up to 5 seconds for them.  False: a call is still inside, uses its memory,
        and frees as it leaves.
        """
        if self._exporter is not None:
            self._exporter.remove(self._figures)
        is_closed = self._native.close(_CLOSE_S)
        if is_closed:
            self._tender.join(_CLOSE_S)
        else:
            _log.warning("closed, but a call is still inside after %g s", _CLOSE_S)
        return is_closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        native = getattr(self, "_native", None)
        if native is not None and not native.is_closed:
            warnings.warn(
                f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2
            )
            native.close(0)

    def __repr__(self) -> str:
        return f"<memkv_lmcache.Client of {', '.join(self.servers)}>"

    def _ms(self, timeout: float | None) -> int:
        return self._timeout_ms if timeout is None else milliseconds(timeout)


def _check_key(key: bytes) -> None:
    if not isinstance(key, bytes):
        raise UsageError(Status.INVALID, f"a key is bytes, not {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY:
        text = f"a key has 1 to {MAX_KEY} bytes, not {len(key)}"
        raise UsageError(Status.INVALID, text)


def _found(result: Result, key: bytes) -> bool:
    if result.status is Status.NOT_FOUND:
        return False
    _raise_for(result, key)
    return True


def _raise_for(result: Result, key: bytes) -> None:
    if result.status is Status.OK:
        return
    text = f"{key!r}: {strerror(result.status)}"
    if result.status is Status.TOO_SMALL:
        text += f"; the value has {result.size} bytes"
    raise error_for(result.status, text)
