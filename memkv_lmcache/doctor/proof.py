# SPDX-License-Identifier: Apache-2.0
"""The proof: one value goes to one server and comes back, both times by RDMA."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import time
from typing import NamedTuple

from memkv_lmcache.client import Client, Get, Put
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.errors import MemKVError, Status, error_for

NAMESPACE = "memkv-doctor"
SIZE = 64 * 1024  # the least that goes by RDMA
_TTL_MS = 60_000
_PAUSE_S = 0.02
_DOWN = "down: "
_STRICT = "transport rdma: "


class Proof(NamedTuple):
    """``reason``: why RDMA was not had; empty: it was.  ``link`` names both ends of
    the way.  ``bytes_remote`` are the bytes that went by it."""

    reason: str
    link: str = ""
    bytes_remote: int = 0


def prove(config: ClientConfig, deadline: float) -> Proof:
    """Puts a random value, gets it and compares it, on the one server of ``config``.

    Returns by ``deadline`` of the monotonic clock, but for a second in which the value
    is deleted.  What the delete does not reach is gone after a minute.
    """
    strict = dataclasses.replace(
        config,
        transport="rdma",
        namespace=NAMESPACE,
        num_connections=1,
        prometheus_bind=None,
    )
    key = os.urandom(16).hex().encode()
    memory = memoryview(mmap.mmap(-1, 2 * SIZE))
    memory[:SIZE] = os.urandom(SIZE)
    with Client(config=strict) as client, client.register(memory):
        try:
            return _there_and_back(client, key, memory, deadline)
        finally:
            _delete(strict, key)


def _there_and_back(
    client: Client, key: bytes, memory: memoryview, deadline: float
) -> Proof:
    sent, got = memory[:SIZE], memory[SIZE:]
    reason = _put(client, key, sent, deadline)
    if not reason:
        left = max(0.0, deadline - time.monotonic())
        [back] = client.get_many_into([Get(key, got)], timeout=left)
        if back.status is not Status.OK:
            reason = _why(client, _failed(client, "get", back.status))
        elif bytes(got) != bytes(sent):
            reason = "what came back is not what was sent"
        elif _count(client, "bytes_remote") < 2 * SIZE:
            reason = f"what came back came by the stream; {_broken(client)}"
    return Proof(reason, _link(client), _count(client, "bytes_remote"))


def _put(client: Client, key: bytes, data: memoryview, deadline: float) -> str:
    """Until it went by RDMA: before the memory is registered it goes by the stream.
    Returns why it never did."""
    while (left := deadline - time.monotonic()) > 0:
        [put] = client.put_many([Put(key, data, ttl_ms=_TTL_MS)], timeout=left)
        # EXISTS: a first attempt lost its link, but not what it carried
        is_there = put.status in (Status.OK, Status.EXISTS)
        if is_there and _count(client, "bytes_remote") >= SIZE:
            return ""
        unregistered = _state(client).partition(", but ")[2]
        if unregistered and client.registered_bytes() == 0:
            return unregistered
        if _count(client, "links_broken") > 0:
            return _why(client, _broken(client))
        if not is_there:
            return _why(client, _failed(client, "put", put.status))
        client.delete_many([key], timeout=left)
        time.sleep(_PAUSE_S)
    return _why(client, "the memory was not registered in time")


def _delete(strict: ClientConfig, key: bytes) -> None:
    """By the stream, which is there even when RDMA is not."""
    config = dataclasses.replace(strict, transport="tcp")
    with contextlib.suppress(MemKVError), Client(config=config) as client:
        client.delete_many([key], timeout=1.0)


def _failed(client: Client, what: str, status: Status) -> str:
    text = f"{what}: {error_for(status).text}"
    return f"{text}; {_broken(client)}" if _link(client) else text


def _broken(client: Client) -> str:
    return f"a link stands ({_link(client)}), but bytes do not come through it"


def _count(client: Client, counter: str) -> int:
    [stats] = client.stats().values()
    return stats.counters[counter]


def _state(client: Client) -> str:
    [state] = client.state().values()
    return state


def _link(client: Client) -> str:
    """``mlx5_0 port 1, RoCE v2, 192.0.2.7``; empty: there is none."""
    _, mark, link = _state(client).partition("rdma ")
    return link.partition(", but ")[0] if mark else ""


def _why(client: Client, otherwise: str) -> str:
    """The client's own reason, if it has one."""
    state = _state(client)
    if not state.startswith(_DOWN):
        return otherwise
    return state.removeprefix(_DOWN).removeprefix(_STRICT)
