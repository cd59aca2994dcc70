"""The two ends of the cable: servers on rxe1, as processes to be stopped and killed,
and clients on rxe0 with memory whose every byte is known and watched."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.client import Get, Put
from memkv_lmcache.config import load
from memkv_lmcache.errors import Status

from . import actors

CLIENT, SERVER = "rxe0", "rxe1"
MIB = 1024 * 1024
PARTS = 24  # values of 1 MiB in a batch
SIZE = PARTS * MIB
BLANK, POISON = b"\0", b"\xdb"
SAMPLE = 64 * 1024
HANG_S = 5.0
WATCH_S = 0.4
#: What an operation may end with when its server or its link ends first.
MISSES = {Status.TIMEOUT, Status.UNREACHABLE, Status.DISCONNECTED}

# A process forked from one that has imported everything begins in a moment.
_forks = get_context("forkserver")
_forks.set_forkserver_preload(["__main__", "memkv_lmcache.cli.main", actors.__name__])


def start(main: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """Runs a function of :mod:`actors` as a process, with one end of a pipe."""
    ours, theirs = _forks.Pipe()
    process = _forks.Process(target=main, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def hear(pipe: Connection, timeout: float = 60.0) -> Any:
    """What the process at the other end sends next."""
    assert pipe.poll(timeout), f"nothing said within {timeout} s"
    return pipe.recv()


def objects() -> dict[str, dict[str, int]]:
    """How many queue pairs, regions and so on there are on each device."""
    command = ["rdma", "-j", "resource", "show"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    return {row["ifname"]: row for row in json.loads(shown.stdout)}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Server:
    """``memkv serve`` on the address of rxe1."""

    def __init__(self, folder: Path, memory: str = "512 MiB") -> None:
        self._key = secrets.token_hex(32)
        self._folder = folder
        self._memory = memory
        self._start(port=0)

    def _start(self, port: int) -> None:
        settings = {
            "network": {
                "address": f"{os.environ['RDMA_PEER']}:{port}",
                "auth_key": self._key,
                "transport": "rdma",
                "admin_address": "off",
            },
            "memory": {"max_size": self._memory},
        }
        path = self._folder / "memkv.yaml"
        path.write_text(json.dumps(settings))
        log = str(self._folder / "server.log")
        self._process, pipe = start(actors.serve, str(path), log)
        assert pipe.poll(60), "the server does not start"
        with os.fdopen(os.dup(pipe.fileno())) as said:
            self.address: str = json.loads(said.readline())["address"]
        self._pipe = pipe

    def start_again(self) -> None:
        """A new one on the same address."""
        self._start(int(self.address.rpartition(":")[2]))

    @property
    def pid(self) -> int:
        found: int = self._process.pid
        return found

    @property
    def settings(self) -> dict[str, str]:
        """What a client must know."""
        return {"servers": self.address, "auth_key": self._key}

    def client(self) -> Client:
        return Client(config=load(self.settings, environ={}), timeout=30)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Linked:
    """A client whose values travel by RDMA between the server and its own memory.

    Every call checks that it ends by its deadline, and that what it got is right.
    Batches have up to PARTS keys; the whole memory is looked at.
    """

    def __init__(self, settings: dict[str, str], shared: str | None = None) -> None:
        self.client = Client(config=load(settings, environ={}), timeout=30)
        self._map = mmap.mmap(-1, SIZE) if shared is None else open_map(shared)
        self._memory = memoryview(self._map)
        self.client.register(self._memory)

    def __enter__(self) -> Linked:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def counter(self, name: str) -> int:
        [stats] = self.client.stats().values()
        return stats.counters[name]

    @property
    def state(self) -> str:
        [found] = self.client.state().values()
        return found

    def link_up(self) -> None:
        """Waits until values go by RDMA; for that nobody has to do anything."""
        before = self.counter("bytes_remote")
        room = self._memory[:SAMPLE]

        def has_moved() -> bool:
            self.client.put_many([Put(b"warm", b"warm" * (SAMPLE // 4))], timeout=5)
            self.client.get_many_into([Get(b"warm", room)], timeout=5)
            return self.counter("bytes_remote") > before

        wait_until(has_moved, timeout=60)
        assert self.state.startswith(f"up: rdma {CLIENT} port 1"), self.state

    # ---- calls -----------------------------------------------------------------------

    def get(
        self, keys: Sequence[bytes], timeout: float, late: float = HANG_S
    ) -> list[Status]:
        """All values in one batch, each into its part; it ends less than ``late``
        seconds after the deadline."""
        items = [Get(k, p) for k, p in zip(keys, self._parts(), strict=False)]
        begin = time.monotonic()
        results = self.client.get_many_into(items, timeout=timeout)
        assert time.monotonic() - begin < timeout + late
        for item, result in zip(items, results, strict=True):
            if result.status is Status.OK:
                assert bytes(item.into) == value_of(item.key)
        return _checked(results)

    def store(self, keys: Sequence[bytes]) -> None:
        """Puts values that were not there, and meets no trouble."""
        self.fill(keys)
        assert set(self.put(keys, 30)) == {Status.OK}

    def fill(self, keys: Sequence[bytes]) -> None:
        """Lays out what :meth:`put` is to send."""
        self._map[: len(keys) * MIB] = b"".join(map(value_of, keys))

    def put(self, keys: Sequence[bytes], timeout: float) -> list[Status]:
        """All values in one batch, straight from their parts."""
        items = [Put(k, p) for k, p in zip(keys, self._parts(), strict=False)]
        begin = time.monotonic()
        results = self.client.put_many(items, timeout=timeout)
        assert time.monotonic() - begin < timeout + HANG_S
        return _checked(results)

    def _parts(self) -> Iterator[memoryview]:
        for i in range(PARTS):
            yield self._memory[i * MIB : (i + 1) * MIB]

    # ---- what is in the memory -------------------------------------------------------

    def blank(self) -> None:
        self._map[:] = BLANK * SIZE

    def has_landed_in_part(self) -> bool:
        return has_landed_in_part(self._map)

    def poison(self) -> None:
        self._map[:] = POISON * SIZE

    def watch(self) -> None:
        """It is poisoned, and stays so."""
        poison = POISON * SIZE
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            assert bytes(self._memory) == poison, "written after the call had returned"


def has_landed_in_part(memory: mmap.mmap) -> bool:
    """It was blank, and now its beginning is not, but something behind it still is."""
    is_blank = [
        memory[at : at + 16] == BLANK * 16 for at in range(0, len(memory), SAMPLE)
    ]
    return not is_blank[0] and any(is_blank)


def open_map(path: str) -> mmap.mmap:
    """The memory that another process shares, see :class:`Shared`."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


class Shared:
    """Memory for a client in another process, to be looked at when that is dead."""

    def __init__(self) -> None:
        self._file = os.memfd_create("memkv")
        os.ftruncate(self._file, SIZE)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.map = open_map(self.path)

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self.map.close()
        os.close(self._file)


def _checked(results: Sequence[Any]) -> list[Status]:
    statuses = [result.status for result in results]
    assert set(statuses) <= {Status.OK, *MISSES}, statuses
    return statuses


def is_in_part(statuses: Sequence[Status]) -> bool:
    """Some of a batch went well, and some did not."""
    return 0 < statuses.count(Status.OK) < len(statuses)


def keys_of(*names: object) -> list[bytes]:
    """Keys of a batch."""
    return ["-".join(map(str, (*names, i))).encode() for i in range(PARTS)]


def value_of(key: bytes) -> bytes:
    """The bytes that belong to a key."""
    return hashlib.sha256(key).digest() * (MIB // 32)
