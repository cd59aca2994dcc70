# SPDX-License-Identifier: Apache-2.0
"""Empties a namespace on one server.

A value may lie on a server that is not the first of its key's order, since another one
was away when it was stored.  So each server is asked by itself, by a client of its own
that places every key there.
"""

from __future__ import annotations

import dataclasses

from memkv_lmcache.client import Client
from memkv_lmcache.config import ClientConfig
from memkv_lmcache.errors import Status

_PASSES = 4
_PAGE = 1024


def erase(config: ClientConfig, server: str, timeout: float) -> int:
    """Deletes what the configured namespace holds on ``server``; how many values.

    What is put meanwhile may stay.  ``timeout``, in seconds, is of each request.
    MemKVError: the server cannot be asked; some values may be deleted then.
    """
    [address] = [known for known in config.servers if known.name == server]
    alone = dataclasses.replace(config, servers=(address,), prometheus_bind=None)
    erased = 0
    with Client(config=alone, timeout=timeout) as client:
        # a listing may miss what moves in the index while it goes on
        for _ in range(_PASSES):
            found = _erase_listed(client, server)
            erased += found
            if found == 0:
                break
    return erased


def _erase_listed(client: Client, server: str) -> int:
    erased, cursor = 0, 0
    while True:
        page, cursor = client.list_page(server, cursor, _PAGE)
        if not page:
            return erased
        results = client.delete_many([entry.key for entry in page])
        erased += sum(result.status is Status.OK for result in results)
