"""Ends of a transfer that are stopped and killed while bytes move: what ``memkv_run``
promised holds, and everything that is left goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.errors import Status

from . import actors
from .conftest import Rounds
from .ends import (
    Linked,
    Server,
    Shared,
    has_landed_in_part,
    hear,
    is_in_part,
    keys_of,
    objects,
    open_files,
    start,
)

_chance = random.Random()  # noqa: S311 no secret
STOP_BEFORE_S = (
    0.03  # a stopped server's NIC needs about as long for what it has queued
)
SLOW_WIRE = "60mbit"  # what is under way takes longer than the grace of 2 s
N_STOPPED = 4


def seconds(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


@contextlib.contextmanager
def after(delay: float, call: Callable[[], Any]) -> Iterator[None]:
    """Calls something while the body runs; it has returned when this ends."""
    timer = threading.Timer(max(0.0, delay), call)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextlib.contextmanager
def stopped_at(server: Server, timeout: float) -> Iterator[None]:
    """The server stops in the last moments before the time-out of a call that begins
    now, and goes on at the end of the body."""
    delay = timeout - _chance.uniform(0, STOP_BEFORE_S)
    try:
        with after(delay, lambda: os.kill(server.pid, signal.SIGSTOP)):
            yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def observer(server: Server) -> Iterator[Client]:
    """Another client of the server, which asks it how it is."""
    with server.client() as client:
        wait_until(lambda: ": rdma" in str(client.state()))
        yield client


def is_quiet(observer: Client) -> bool:
    """The server moves nothing, and holds nothing for anybody."""
    seen = observer.probe()
    return seen["arriving_bytes"] == seen["referenced_bytes"] == 0


def visible(near: Linked, keys: Sequence[bytes]) -> list[bytes]:
    """Those that the server says to have."""
    found = near.client.stat_many(keys)
    return [k for k, r in zip(keys, found, strict=True) if r.status is Status.OK]


def check_stored(near: Linked, keys: Sequence[bytes]) -> int:
    """Each value is absent, or whole and right; how many are there."""
    there = visible(near, keys)
    assert near.get(there, 30) == [Status.OK] * len(there)
    return len(there)


# ---- the server stops ----------------------------------------------------------------


def test_nothing_lands_from_a_server_that_was_stopped(
    server: Server, near: Linked, observer: Client, rounds: Rounds
) -> None:
    """A GET ends by its deadline, and when the server goes on it reaches nobody."""
    keys = keys_of("stopped")
    near.store(keys)
    whole = min(seconds(lambda: near.get(keys, 30)) for _ in range(3))
    for _ in rounds:
        near.link_up()
        near.blank()
        timeout = whole * _chance.uniform(0.3, 0.9)
        with stopped_at(server, timeout):
            statuses = near.get(keys, timeout)
            rounds.count(near.has_landed_in_part() and Status.TIMEOUT in statuses)
            near.poison()
        observer.probe()
        near.watch()
    assert near.counter("checksum_failures") == 0


def test_a_put_that_timed_out_is_never_half_stored(
    server: Server, near: Linked, observer: Client, rounds: Rounds
) -> None:
    """The server that goes on would find other bytes in the memory: it reads none."""
    near.fill(keys_of("whole"))
    whole = seconds(lambda: near.put(keys_of("whole"), 30))
    for i in rounds:
        keys = keys_of("half", i)
        near.link_up()
        near.fill(keys)
        timeout = whole * _chance.uniform(0.3, 0.9)
        with stopped_at(server, timeout):
            statuses = near.put(keys, timeout)
            rounds.count(is_in_part(statuses))
            near.poison()
        wait_until(lambda: is_quiet(observer))
        near.link_up()
        assert check_stored(near, keys) >= statuses.count(Status.OK)
        near.client.delete_many(keys)


# ---- the server dies -----------------------------------------------------------------


@pytest.mark.parametrize("what", ["get", "put"])
def test_a_client_outlives_its_server(
    what: str, tmp_path: Path, rounds: Rounds
) -> None:
    """Killed in mid-transfer: the call ends by its deadline and nothing lands; with the
    next server on that address RDMA comes back by itself."""
    server, old = Server(tmp_path, "160 MiB"), keys_of("old")
    with Linked(server.settings) as client:
        for i in rounds:
            client.link_up()
            new = keys_of("new", i)
            client.fill(old)
            whole = seconds(lambda: client.put(old, 30))
            client.fill(new) if what == "put" else client.blank()
            with after(_chance.uniform(0.1, 0.9) * whole, server.kill):
                if what == "put":
                    rounds.count(is_in_part(client.put(new, 30)))
                else:
                    client.get(old, 30)
                    rounds.count(client.has_landed_in_part())
            client.poison()
            server.start_again()
            client.watch()
        client.link_up()
    server.kill()


# ---- the client dies -----------------------------------------------------------------


class Bystander:
    """Stores and loads some values after the other meanwhile, and meets no error."""

    def __init__(self, server: Server) -> None:
        self._client = Linked(server.settings)
        self._client.link_up()
        self._is_over = threading.Event()
        self._failures: list[BaseException] = []
        self.n = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                keys = keys_of("bystander", self.n)[:4]
                self._client.store(keys)
                self._client.blank()
                assert set(self._client.get(keys, 30)) == {Status.OK}
                self._client.client.delete_many(keys)
                self.n += 1
        except BaseException as failure:
            self._failures.append(failure)

    def __enter__(self) -> Bystander:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        seen = {
            name: self._client.counter(name)
            for name in ("links_broken", "disconnects", "timeouts", "retries")
        }
        self._client.client.close()
        if self._failures:
            raise self._failures[0]
        assert self.n > 0
        assert set(seen.values()) == {0}, seen


def footprint(server: Server) -> tuple[object, ...]:
    """What the server's process, and the kernel, hold for it and its clients."""
    return open_files(server.pid), objects()


def last_said(pipe: Connection) -> int:
    """By a process that is dead."""
    found: int = -1
    with contextlib.suppress(EOFError):
        while True:
            found = pipe.recv()
    return found


def kill_soon(process: Any) -> None:
    time.sleep(_chance.uniform(0, 0.7))
    process.kill()
    process.join()


def test_a_put_of_a_client_that_is_killed_is_never_half_stored(
    server: Server, near: Linked, observer: Client, rounds: Rounds
) -> None:
    """While the server READs from it: what it held for the client is given back, and
    others notice nothing."""
    before = footprint(server)
    with Bystander(server):
        for i in rounds:
            victim, pipe = start(actors.put_for_ever, server.settings, f"victim-{i}")
            first: int = hear(pipe)
            kill_soon(victim)
            last = max(first, last_said(pipe))
            *earlier, keys = (keys_of(f"victim-{i}", n) for n in range(last + 1))
            n_stored = len(visible(near, keys))
            rounds.count(0 < n_stored < len(keys))
            assert check_stored(near, keys) >= n_stored
            near.client.delete_many([*keys, *itertools.chain(*earlier)])
    wait_until(lambda: is_quiet(observer))
    wait_until(lambda: footprint(server) == before)


def test_a_client_that_is_killed_in_a_get_leaves_nothing(
    server: Server, near: Linked, observer: Client, rounds: Rounds
) -> None:
    """While the server WRITEs to it."""
    near.store(keys_of("victim"))
    before = footprint(server)
    with Bystander(server), Shared() as shared:
        for _ in rounds:
            main = actors.get_for_ever
            victim, pipe = start(main, server.settings, "victim", shared.path)
            hear(pipe)
            kill_soon(victim)
            rounds.count(has_landed_in_part(shared.map))
    wait_until(lambda: is_quiet(observer))
    wait_until(lambda: footprint(server) == before)


# ---- the client stops ----------------------------------------------------------------


@pytest.fixture
def slow_wire() -> Iterator[None]:
    """From the server to its clients."""
    where = ("dev", "eth1", "root")
    netem = ("netem", "limit", "100000", "rate", SLOW_WIRE)
    subprocess.run(["tc", "qdisc", "add", *where, *netem], check=True)
    yield
    subprocess.run(["tc", "qdisc", "del", *where], check=True)


def test_a_client_that_is_stopped_is_given_up(
    server: Server, near: Linked, observer: Client, slow_wire: None, rounds: Rounds
) -> None:
    """In mid-GET, for longer than its budget and the grace: the server lets go of what
    it held for it.  When it goes on, its call ends with misses or the right bytes, and
    its memory is its own."""
    near.store(keys_of("held"))
    before = footprint(server)
    started = [
        start(actors.get_when_told, server.settings, "held") for _ in range(N_STOPPED)
    ]
    for _ in rounds:
        n_before = observer.probe()["connections_timed_out"]
        for process, pipe in started:
            timeout = _chance.uniform(0.1, 0.5)
            pipe.send(timeout)
            assert hear(pipe) == "begins"
            time.sleep(_chance.uniform(0, timeout))
            os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_quiet(observer))
        n_after = observer.probe()["connections_timed_out"]
        rounds.count(n_after > n_before)
        for process, _ in started:
            os.kill(process.pid, signal.SIGCONT)
        for _, pipe in started:
            hear(pipe)
    for process, pipe in started:
        pipe.send(None)
        process.join()
        assert process.exitcode == 0
    wait_until(lambda: footprint(server) == before)
