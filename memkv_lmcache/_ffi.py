# SPDX-License-Identifier: Apache-2.0
"""The C library seen from Python: the only module that names ``ffi`` or ``lib``.

Takes and gives plain Python values; nothing of CFFI crosses it.  CFFI releases the GIL
in every call.  Policy (retries, what is an error) is the client's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any, Final

from memkv_lmcache._memkv import ffi, lib
from memkv_lmcache.errors import MemKVError, Status, UsageError, error_for
from memkv_lmcache.ops import OP, Entry, Result, pack_ops, unpack_ops

if TYPE_CHECKING:
    from typing_extensions import Buffer

OP_STAT: Final[int] = lib.MEMKV_OP_STAT
OP_GET: Final[int] = lib.MEMKV_OP_GET
OP_PUT: Final[int] = lib.MEMKV_OP_PUT
OP_DELETE: Final[int] = lib.MEMKV_OP_DELETE

# looked up once: a batch needs them for every item
_BYTES: Final = ffi.typeof("uint8_t[]")
_ADDRESS: Final = ffi.typeof("uintptr_t")
_JSON_ROOM: Final = 64 * 1024
_RDMA_ROOM: Final = 256 * 1024
_LIST_ROOM: Final = 256 * 1024
_LIST_ENTRIES: Final = 1024
_MAX_COUNTERS: Final = 256
_MAX_MS: Final = 2**31 - 1


def _check_layout() -> None:
    expected = {"code": 0, "group": 8, "key": 16, "header": 24, "data": 32}
    expected |= {"data_len": 40, "key_len": 48, "header_len": 52, "ttl_ms": 56}
    expected |= {"status": 60, "data_size": 64, "header_size": 72, "flags": 76}
    found = {name: ffi.offsetof("memkv_op", name) for name in expected}
    if found != expected or ffi.sizeof("memkv_op") != OP.size:
        raise ImportError(
            "memkv_op is not laid out as on LP64; this host cannot run us"
        )


_check_layout()


def strerror(status: int) -> str:
    """A status in words."""
    return _string(lib.memkv_strerror(status))


def version() -> str:
    """The library's version."""
    return _string(lib.memkv_version())


def milliseconds(seconds: float) -> int:
    """A time-out as the library takes it: rounded up, and cut at 24 days."""
    if not seconds >= 0:
        raise UsageError(
            Status.INVALID, f"timeout {seconds!r} is not 0 or more seconds"
        )
    return min(-int(-seconds * 1000 // 1), _MAX_MS) if seconds < _MAX_MS else _MAX_MS


def _string(text: Any) -> str:
    return str(ffi.string(text).decode("utf-8", "replace"))


def _raise(status: int, error: Any = None) -> None:
    if status != lib.MEMKV_OK:
        text = "" if error is None else _string(error.text)
        raise error_for(status, text or strerror(status))


def _counters(call: Callable[[Any, int], int]) -> dict[str, int]:
    stats = ffi.new("memkv_stat[]", _MAX_COUNTERS)
    n = min(call(stats, _MAX_COUNTERS), _MAX_COUNTERS)
    return {_string(stat.name): int(stat.value) for stat in stats[0:n]}


class _Exports:
    """Memory lent to C; all of it is Python's again after the ``with`` block."""

    def __init__(self) -> None:
        self._exports: list[Any] = []

    def __enter__(self) -> _Exports:
        return self

    def lend(self, buffer: Buffer, *, writable: bool = False) -> tuple[int, int]:
        """Address and bytes of a buffer."""
        export = ffi.from_buffer(_BYTES, buffer, require_writable=writable)
        self._exports.append(export)
        return int(ffi.cast(_ADDRESS, export)), len(export)

    def lend_joined(self, items: Sequence[bytes], what: str) -> Iterator[int]:
        """The addresses of many small ones, copied behind one another."""
        try:
            joined = b"".join(items)
        except TypeError:
            kinds = {type(item).__name__ for item in items} - {"bytes"}
            text = f"a {what} is bytes, not {', '.join(sorted(kinds))}"
            raise UsageError(Status.INVALID, text) from None
        return accumulate(map(len, items), initial=self.lend(joined)[0])

    def lend_all(
        self, buffers: Iterable[Buffer], *, writable: bool
    ) -> tuple[list[int], list[int]]:
        """Addresses and bytes of many."""
        addresses, lengths = [], []
        for i, buffer in enumerate(buffers):
            try:
                address, length = self.lend(buffer, writable=writable)
            except (TypeError, ValueError, BufferError) as error:
                kind = "writable, contiguous" if writable else "contiguous"
                text = f"item {i}: its data is no {kind} buffer: {error}"
                raise UsageError(Status.INVALID, text) from None
            addresses.append(address)
            lengths.append(length)
        return addresses, lengths

    def __exit__(self, *_: object) -> None:
        for export in self._exports:
            ffi.release(export)


class _Handle:
    """A pointer of the library; ``with`` it, a call is inside and nothing is freed.

    Any thread.  A handle belongs to the process that opened it.
    """

    def __init__(
        self,
        what: str,
        pointer: Any,
        stop: Callable[[Any], None],
        free: Callable[[Any], None],
    ) -> None:
        self._what = what
        self._pointer = pointer
        self._stop = stop
        self._free = free
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False
        self._kept: list[Any] = []

    def __enter__(self) -> Any:
        # before the lock: in a forked child nobody might ever release it
        if self._is_inherited():
            text = (
                f"a {self._what} of process {self._pid}; a forked child opens its own"
            )
            raise UsageError(Status.INVALID, text)
        with self._changed:
            if self._closed:
                raise error_for(Status.CLOSED, f"the {self._what} is closed")
            self._inside += 1
        return self._pointer

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._free_if_last()

    def keep(self, export: Any) -> None:
        """A buffer of Python's that the library uses beyond this call."""
        with self._changed:
            self._kept.append(export)

    def give_back(self, export: Any) -> None:
        """The library has let go of it."""
        with self._changed:
            self._kept = [each for each in self._kept if each is not export]
        ffi.release(export)

    def stop(self) -> None:
        """Lets the calls inside end soon."""
        if not self._is_inherited():
            with self._changed:
                if self._pointer is not None:
                    self._stop(self._pointer)

    def close(self, timeout: float) -> bool:
        """Stops, waits until no call is inside, and frees.

        False: some call still is; the last one frees then.
        """
        if self._is_inherited():
            return True
        with self._changed:
            self._closed = True
            self.stop()
            self._free_if_last()
            return self._changed.wait_for(lambda: self._pointer is None, timeout)

    @property
    def is_closed(self) -> bool:
        return self._closed or self._is_inherited()

    def _is_inherited(self) -> bool:
        return os.getpid() != self._pid

    def _free_if_last(self) -> None:
        if self._closed and self._inside == 0 and self._pointer is not None:
            self._free(self._pointer)
            self._pointer = None
            for export in self._kept:
                ffi.release(export)
            self._kept.clear()
            self._changed.notify_all()


def _transport(name: str) -> int:
    return int(getattr(lib, f"MEMKV_TRANSPORT_{name.upper()}"))


def _text(text: str | None) -> Any:
    return ffi.NULL if text is None else ffi.new("char[]", text.encode())


def describe_rdma(library: str | None, devices: str | None, fd: int) -> str:
    """``memkv_rdma_describe``: the RDMA devices of this host, as JSON text.

    ``fd``: the connected socket whose port and GID are wanted, or -1.  Any thread.
    UsageError of UNSUPPORTED: no verbs library, or a build without RDMA.
    """
    text, error = ffi.new("char[]", _RDMA_ROOM), ffi.new("memkv_error *")
    called, names = _text(library), _text(devices)
    _raise(
        lib.memkv_rdma_describe(called, names, fd, text, _RDMA_ROOM, error),
        error,
    )
    return _string(text)


class NativeRegion:
    """``memkv_region``: memory lent until :meth:`release` or the client's end."""

    def __init__(self, handle: _Handle, buffer: Buffer) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        export = ffi.from_buffer(_BYTES, buffer, require_writable=True)
        out, error = ffi.new("memkv_region **"), ffi.new("memkv_error *")
        with handle as client:
            status = lib.memkv_region_register(client, export, len(export), out, error)
            _raise(status, error)
            handle.keep(export)
        self._pointer, self._export = out[0], export

    def release(self) -> None:
        """No peer reaches the memory any more; no call may use it.  Again: nothing."""
        with self._lock:
            pointer, self._pointer = self._pointer, None
            if pointer is None:
                return
            # a client that is closed releases it with its end
            with contextlib.suppress(MemKVError), self._handle:
                lib.memkv_region_release(pointer)
                self._handle.give_back(self._export)

    def __enter__(self) -> NativeRegion:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class NativeClient:
    """``memkv_client``.  Any thread; close it once nobody calls it."""

    def __init__(
        self,
        servers: Sequence[tuple[str, str]],
        *,
        namespace: bytes,
        auth_key: bytes | None,
        connections: int,
        transport: str = "auto",
        rdma_devices: str | None = None,
        verbs_library: str | None = None,
    ) -> None:
        texts = [ffi.new("char[]", t.encode()) for pair in servers for t in pair]
        addresses = ffi.new("memkv_address[]", len(servers))
        for i, address in enumerate(addresses):
            address.name, address.address = texts[2 * i], texts[2 * i + 1]
        config = ffi.new("memkv_client_config *")
        lib.memkv_client_config_init(config)
        space = ffi.from_buffer(namespace)
        key = ffi.NULL if auth_key is None else ffi.from_buffer(_BYTES, auth_key)
        config.servers, config.n_servers = addresses, len(servers)
        config.name_space, config.name_space_len = space, len(namespace)
        config.auth_key = key
        config.connections = connections
        config.transport = _transport(transport)
        devices, library = _text(rdma_devices), _text(verbs_library)
        config.rdma_devices, config.verbs_library = devices, library
        out, error = ffi.new("memkv_client **"), ffi.new("memkv_error *")
        _raise(lib.memkv_client_open(config, out, error), error)
        self._handle = _Handle(
            "client", out[0], lib.memkv_client_stop, lib.memkv_client_close
        )

    def run(
        self,
        code: int,
        keys: Sequence[bytes],
        timeout_ms: int,
        *,
        depths: Iterable[int] = repeat(0),
        groups: Iterable[int] = repeat(0),
        ttls: Iterable[int] = repeat(0),
        headers: Sequence[bytes] | None = None,
        rooms: Sequence[int] | None = None,
        data: Iterable[Buffer] | None = None,
    ) -> list[Result]:
        """One batch of operations of one code; a result for each key, in order.

        ``headers`` are stored (PUT), ``rooms`` are bytes for headers to be read (STAT,
        GET); ``data`` is read (PUT) or written (GET) and lent until the call returns.
        UsageError: the batch cannot be put together.  Other errors: all of it failed.
        """
        n = len(keys)
        with _Exports() as lent:
            room = bytearray(sum(rooms) if rooms else 0)
            header_at: Iterable[int] = repeat(0)
            data_at: Iterable[int] = repeat(0)
            data_len: Iterable[int] = repeat(0)
            header_len: Iterable[int] = rooms or repeat(0)
            if headers is not None:
                header_len = map(len, headers)
                header_at = lent.lend_joined(headers, "header")
            elif rooms is not None:
                begin = lent.lend(room, writable=True)[0]
                places = accumulate(rooms, initial=begin)
                # NULL says that the header is not wanted
                header_at = [
                    at if r else 0 for at, r in zip(places, rooms, strict=False)
                ]
            if data is not None:
                data_at, data_len = lent.lend_all(data, writable=code == OP_GET)
            ops = pack_ops(
                n,
                repeat(code),
                depths,
                groups,
                lent.lend_joined(keys, "key"),
                header_at,
                data_at,
                data_len,
                map(len, keys),
                header_len,
                ttls,
            )
            table = ffi.cast("memkv_op *", lent.lend(ops, writable=True)[0])
            with self._handle as client:
                _raise(lib.memkv_run(client, table, n, timeout_ms))
        return unpack_ops(ops, room, rooms)

    def register_region(self, buffer: Buffer) -> NativeRegion:
        """Lets values in this writable memory travel by RDMA, once :meth:`tend` has
        registered it with the devices; nobody waits for that here."""
        return NativeRegion(self._handle, buffer)

    def list_page(
        self, server: str, cursor: int, timeout_ms: int, limit: int = _LIST_ENTRIES
    ) -> tuple[list[Entry], int]:
        """Up to ``limit`` entries of one server and the cursor behind them.

        None of them: the end.
        """
        at, n = ffi.new("uint64_t *", cursor), ffi.new("size_t *")
        room = ffi.new("uint8_t[]", _LIST_ROOM)
        out = ffi.new("memkv_entry[]", _LIST_ENTRIES)
        with self._handle as client:
            status = lib.memkv_list(
                client,
                server.encode(),
                at,
                room,
                _LIST_ROOM,
                out,
                min(limit, _LIST_ENTRIES),
                n,
                timeout_ms,
            )
        _raise(status)
        entries = [
            Entry(
                bytes(ffi.buffer(entry.key, entry.key_len)),
                bytes(ffi.buffer(entry.header, entry.header_len)),
                entry.data_size,
                entry.idle_ms,
                server,
            )
            for entry in out[0 : n[0]]
        ]
        return entries, at[0]

    def probe(self, server: str, timeout_ms: int) -> str:
        """Asks a server how it is; its JSON text."""
        text, error = ffi.new("char[]", _JSON_ROOM), ffi.new("memkv_error *")
        with self._handle as client:
            status = lib.memkv_client_probe(
                client, server.encode(), text, _JSON_ROOM, timeout_ms, error
            )
        _raise(status, error)
        return _string(text)

    def tend(self, timeout_ms: int) -> int:
        """Dials and probes for that long; CLOSED after :meth:`stop`."""
        with self._handle as client:
            return int(lib.memkv_client_tend(client, timeout_ms))

    def state(self, server: str) -> str:
        """The state of a server as one sentence."""
        text = ffi.new("char[]", 512)
        with self._handle as client:
            _raise(lib.memkv_client_state(client, server.encode(), text, len(text)))
        return _string(text)

    def stats(self, server: str | None = None) -> dict[str, int]:
        """Counters of one server, or the sum over all."""
        name = ffi.NULL if server is None else ffi.new("char[]", server.encode())
        with self._handle as client:
            return _counters(
                lambda out, cap: lib.memkv_client_stats(client, name, out, cap)
            )

    def stop(self) -> None:
        """Ends what is under way with CLOSED."""
        self._handle.stop()

    @property
    def is_closed(self) -> bool:
        """Whether it can no longer be called, in this process."""
        return self._handle.is_closed

    def close(self, timeout: float = 5.0) -> bool:
        """Stops, waits until no call is inside, and frees.

        False: some call still is; the last one frees then.
        """
        return self._handle.close(timeout)


class NativeServer:
    """``memkv_server``: open binds, :meth:`run` serves.  Any thread."""

    def __init__(
        self,
        address: str,
        *,
        name: str | None = None,
        auth_key: bytes | None = None,
        memory: int | None = None,
        page_size: int | None = None,
        default_ttl_ms: int | None = None,
        max_connections: int | None = None,
        transport: str = "auto",
        rdma_devices: str | None = None,
        verbs_library: str | None = None,
    ) -> None:
        config = ffi.new("memkv_server_config *")
        lib.memkv_server_config_init(config)
        where = ffi.new("char[]", address.encode())
        called = ffi.NULL if name is None else ffi.new("char[]", name.encode())
        key = ffi.NULL if auth_key is None else ffi.from_buffer(_BYTES, auth_key)
        config.address, config.name, config.auth_key = where, called, key
        config.transport = _transport(transport)
        devices, library = _text(rdma_devices), _text(verbs_library)
        config.rdma_devices, config.verbs_library = devices, library
        numbers = {
            "memory": memory,
            "page_size": page_size,
            "default_ttl_ms": default_ttl_ms,
            "max_connections": max_connections,
        }
        for field, number in numbers.items():
            if number is not None:
                setattr(config, field, number)
        out, error = ffi.new("memkv_server **"), ffi.new("memkv_error *")
        _raise(lib.memkv_server_open(config, out, error), error)
        self._handle = _Handle(
            "server", out[0], lib.memkv_server_stop, lib.memkv_server_close
        )

    @property
    def address(self) -> str:
        """The address bound, with its real port."""
        text = ffi.new("char[]", 512)
        with self._handle as server:
            _raise(lib.memkv_server_address(server, text, len(text)))
        return _string(text)

    @property
    def why_no_rdma(self) -> str | None:
        """None: clients may have it."""
        text = ffi.new("char[]", 512)
        with self._handle as server:
            status = lib.memkv_server_rdma(server, text, len(text))
        return None if status == Status.OK else _string(text)

    def run(self) -> None:
        """Makes the calling thread one more network worker; returns after stop."""
        with self._handle as server:
            _raise(lib.memkv_server_run(server))

    def stats(self) -> dict[str, int]:
        """The server's counters."""
        with self._handle as server:
            return _counters(lambda out, cap: lib.memkv_server_stats(server, out, cap))

    def drain(self, timeout_ms: int) -> bool:
        """Refuses new requests and waits for those under way; False: some are left."""
        with self._handle as server:
            status = lib.memkv_server_drain(server, timeout_ms)
        if status == Status.TIMEOUT:
            return False
        _raise(status)
        return True

    def stop(self) -> None:
        """Lets every :meth:`run` return."""
        self._handle.stop()

    @property
    def is_closed(self) -> bool:
        """Whether it can no longer be called, in this process."""
        return self._handle.is_closed

    def close(self, timeout: float = 5.0) -> bool:
        """Stops, waits until no call is inside, and frees.

        False: some call still is; the last one frees then.
        """
        return self._handle.close(timeout)
