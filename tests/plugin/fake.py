"""A fleet in memory behind the client's interface, with faults on order."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memkv_lmcache.client import Get, Put, Result
from memkv_lmcache.errors import Status, error_for

ABSENT = Result(Status.NOT_FOUND, 0, b"", False)


@dataclass
class Fault:
    """What goes wrong with the operations it is for.

    ``key``: with that one only; ``gate``: the call hangs until it is set, its time is
    over or the client is closed, or, if ``stubborn``, until it is set and not earlier.
    """

    status: Status | None = None
    error: Callable[[], Exception] | None = None
    header: bytes | None = None
    key: bytes | None = None
    gate: threading.Event | None = None
    stubborn: bool = False

    def hits(self, key: bytes) -> bool:
        return self.key is None or self.key == key


@dataclass
class Value:
    data: bytes
    header: bytes
    depth: int
    group: int
    leased_ms: int = 0


@dataclass
class Fleet:
    """What all clients of a test share."""

    values: dict[bytes, Value] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    depths: list[Sequence[int] | None] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    clients: list[FakeClient] = field(default_factory=list)

    def client(self, *, config: Any, counters: Any) -> FakeClient:
        self.clients.append(FakeClient(self, config))
        return self.clients[-1]


class FakeClient:
    """``memkv_lmcache.client.Client``, as far as the plugin uses it."""

    def __init__(self, fleet: Fleet, config: Any = None) -> None:
        self.fleet = fleet
        self.config = config
        self.closed = threading.Event()
        self.inside = 0
        self.registered: list[memoryview] = []

    def stat_many(
        self,
        keys: Sequence[bytes],
        *,
        headers: bool = False,
        header_room: int = 4096,
        lease_ms: int = 0,
        depths: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> list[Result]:
        self.fleet.depths.append(depths)

        def stat(key: bytes, fault: Fault) -> Result:
            value = self.fleet.values.get(key)
            if value is None:
                return ABSENT
            value.leased_ms = max(value.leased_ms, lease_ms)
            header = value.header if fault.header is None else fault.header
            if headers and len(header) > header_room:
                return Result(Status.TOO_SMALL, len(value.data), b"", lease_ms > 0)
            return Result(
                Status.OK, len(value.data), header if headers else b"", lease_ms > 0
            )

        return self._run("stat", keys, keys, stat, timeout)

    def get_many_into(
        self, items: Sequence[Get], *, timeout: float | None = None
    ) -> list[Result]:
        def get(item: Get, fault: Fault) -> Result:
            value = self.fleet.values.get(item.key)
            into = memoryview(item.into)
            if value is None:
                return ABSENT
            header = value.header if fault.header is None else fault.header
            if len(value.data) > len(into) or len(header) > item.header_room:
                return Result(Status.TOO_SMALL, len(value.data), b"", False)
            into[: len(value.data)] = value.data
            return Result(Status.OK, len(value.data), header, False)

        return self._run("get", [item.key for item in items], items, get, timeout)

    def put_many(
        self, items: Sequence[Put], *, timeout: float | None = None
    ) -> list[Result]:
        def put(item: Put, fault: Fault) -> Result:
            old = self.fleet.values.get(item.key)
            if old is not None and old.header == item.header:
                return Result(Status.EXISTS, 0, b"", False)
            value = Value(bytes(item.data), item.header, item.depth, item.group)
            self.fleet.values[item.key] = value
            return Result(Status.OK, 0, b"", False)

        return self._run("put", [item.key for item in items], items, put, timeout)

    def delete_many(
        self, keys: Sequence[bytes], *, timeout: float | None = None
    ) -> list[Result]:
        def delete(key: bytes, fault: Fault) -> Result:
            if self.fleet.values.pop(key, None) is None:
                return ABSENT
            return Result(Status.OK, 0, b"", False)

        return self._run("delete", keys, keys, delete, timeout)

    def list(self) -> Any:
        @dataclass
        class Entry:
            key: bytes

        return iter([Entry(key) for key in list(self.fleet.values)])

    def register(self, buffer: memoryview) -> None:
        self.registered.append(buffer)

    def close(self) -> bool:
        self.closed.set()
        return True

    def _run(
        self, name: str, keys: Any, items: Any, act: Any, timeout: float | None
    ) -> list[Result]:
        if self.closed.is_set():
            raise error_for(Status.CLOSED)
        fleet, fault = self.fleet, self.fleet.faults.get(name, Fault(key=b""))
        with fleet.lock:
            fleet.calls[name] += 1
            fleet.items[name] += len(keys)
            self.inside += 1
        try:
            if fault.gate is not None and not self._pass(fault, timeout):
                status = Status.CLOSED if self.closed.is_set() else Status.TIMEOUT
                return [Result(status, 0, b"", False) for _ in keys]
            if fault.error is not None:
                raise fault.error()
            with fleet.lock:
                return [
                    self._one(key, item, fault if fault.hits(key) else Fault(), act)
                    for key, item in zip(keys, items, strict=True)
                ]
        finally:
            with fleet.lock:
                self.inside -= 1

    def _one(self, key: bytes, item: Any, fault: Fault, act: Any) -> Result:
        if fault.status is None:
            result: Result = act(item, fault)
            return result
        if isinstance(item, Get):  # what a failed get leaves behind is undefined
            into = memoryview(item.into)
            into[:] = b"\xa5" * len(into)
        return Result(fault.status, 0, b"", False)

    def _pass(self, fault: Fault, timeout: float | None) -> bool:
        assert fault.gate is not None
        if fault.stubborn:
            return fault.gate.wait(60)
        deadline = time.monotonic() + (10.0 if timeout is None else timeout)
        while not self.closed.is_set() and time.monotonic() < deadline:
            if fault.gate.wait(0.002):
                return True
        return False
