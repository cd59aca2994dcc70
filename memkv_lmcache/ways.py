# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a demo or a bench travel: RDMA is ready before there is anything to
move.  Then no value takes the stream only because its process is young.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError, Status, error_for

#: To connect and to register memory; that takes seconds a GiB.
READY_S, POLL_S = 60.0, 0.01
FAILED = "failed"
_RDMA = "up: rdma "


def no_rdma(why: str) -> MemKVError:
    """The failure of what was to use nothing else."""
    text = f"transport rdma: {why}; memkv doctor says what is missing"
    return error_for(Status.UNSUPPORTED, text)


def wait_for_rdma(client: Client, size: int) -> None:
    """Waits until ``size`` bytes of memory and every server are ready for RDMA.

    Returns at once unless the client's transport is ``rdma``.  A value of 64 KiB or
    more in that memory is copied by no CPU from then on.  UsageError: READY_S seconds
    were not enough, and why.
    """
    if client.config.transport != "rdma":
        return
    deadline = time.monotonic() + READY_S
    while trouble := _trouble(client, size):
        if time.monotonic() > deadline:
            raise no_rdma(trouble)
        time.sleep(POLL_S)


def moved(client: Client) -> dict[str, int]:
    """The bytes of payload that travelled so far, by RDMA and on the stream."""
    names = "bytes_remote", "bytes_inline"
    counted = [stats.counters for stats in client.stats().values()]
    return {name: sum(one[name] for one in counted) for name in names}


def standing(client: Client) -> str:
    """How its servers stand, for the text of an error."""
    states = client.state()
    return "; ".join(f"{server}: {state}" for server, state in states.items())


def answer_of(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a worker reports: what ``work`` returns, or under FAILED what failed."""
    try:
        return work()
    except MemKVError as error:
        return {FAILED: error.text, "status": error.status}


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The other end of ``answer_of``; raises what failed there."""
    if FAILED in answer:
        raise error_for(answer["status"], answer[FAILED])
    return answer


def _trouble(client: Client, size: int) -> str:
    """What RDMA is waiting for; "": nothing."""
    registered = client.registered_bytes()
    if registered >= size and all(
        state.startswith(_RDMA) for state in client.state().values()
    ):
        return ""
    return f"{registered} of {size} bytes are registered; {standing(client)}"
