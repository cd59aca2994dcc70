"""RDMA without a NIC: the fake verbs library of tests/c, and clients whose memory is
registered, so that every test of a client also tests RDMA."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import queue
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, wait_until

from memkv_lmcache import Client, _ffi
from memkv_lmcache.client import Get, Put, Result
from memkv_lmcache.config import load
from memkv_lmcache.errors import Status, UsageError

SOURCES = ("fake_nic.c", "fake_queues.c", "fake_verbs.c")
SMALLEST = 64 * 1024  # goes by RDMA
LANES = 8
LANE = 48 * 1024**2


def build_fake_verbs(folder: Path) -> Path:
    """Compiles it; skips where there are no headers of rdma-core, or were none."""
    library = folder / "libfake_verbs.so"
    if not Path("/usr/include/infiniband/verbs.h").exists():
        pytest.skip("rdma-core's headers (libibverbs-dev) are not installed")
    sources = [str(ROOT / "tests/c" / name) for name in SOURCES]
    options = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = ["cc", *options, "-pthread", "-o", str(library), *sources]
    subprocess.run(command, check=True)
    try:
        _ffi.describe_rdma(str(library), None, -1)
    except UsageError as error:
        if "this build has no RDMA" in error.text:
            pytest.skip(error.text)
        raise
    return library


class FakeVerbs:
    """The library's script, see tests/c/fake_verbs.h."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)

    def script(self, commands: str) -> None:
        assert self._library.fake_verbs_script(commands.encode()) == 0

    @contextlib.contextmanager
    def scripted(self, commands: str) -> Iterator[None]:
        self.script(commands)
        try:
            yield
        finally:
            self.script("reset")


class RegisteredClient(Client):
    """Takes large values through registered memory; all else is the client's."""

    def __init__(self, library: str, *, timeout: float = 10.0, **given: Any) -> None:
        settings = {"transport": "rdma", "verbs_library": library, **given}
        super().__init__(config=load(settings), timeout=timeout)
        memory = memoryview(mmap.mmap(-1, LANES * LANE))
        self._region = self.register(memory)
        # what is not registered yet goes inline, and would test something else
        wait_until(lambda: self.registered_bytes() == len(memory))
        self._lanes: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for i in range(LANES):
            self._lanes.put(memory[i * LANE : (i + 1) * LANE])

    def put_many(self, items: Sequence[Put], **how: Any) -> list[Result]:
        with self._lane() as lane:
            staged = []
            for item in items:
                place = lane.take(item.data, writable=False)
                if place is not None:
                    place[:] = memoryview(item.data).cast("B")
                    item = item._replace(data=place)
                staged.append(item)
            return super().put_many(staged, **how)

    def get_many_into(self, items: Sequence[Get], **how: Any) -> list[Result]:
        with self._lane() as lane:
            places = [lane.take(item.into, writable=True) for item in items]
            staged = [
                item if place is None else item._replace(into=place)
                for item, place in zip(items, places, strict=True)
            ]
            results = super().get_many_into(staged, **how)
            for item, place, result in zip(items, places, results, strict=True):
                if place is not None and result.status is Status.OK:
                    into = memoryview(item.into).cast("B")
                    into[: result.size] = place[: result.size]
            return results

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        try:
            memory = self._lanes.get_nowait()
        except queue.Empty:
            yield _Lane(memoryview(b""))
            return
        try:
            yield _Lane(memory)
        finally:
            self._lanes.put(memory)


class _Lane:
    """A part of the registered memory, for one call."""

    def __init__(self, memory: memoryview) -> None:
        self._free = memory

    def take(self, data: Any, *, writable: bool) -> memoryview | None:
        """Room for what travels by RDMA; None: not this, or there is none."""
        try:
            view = memoryview(data)
        except TypeError:
            return None
        if not SMALLEST <= view.nbytes <= len(self._free) or not view.contiguous:
            return None
        if writable and view.readonly:
            return None
        place, self._free = self._free[: view.nbytes], self._free[view.nbytes :]
        return place
