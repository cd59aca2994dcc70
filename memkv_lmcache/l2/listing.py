# SPDX-License-Identifier: Apache-2.0
"""The objects on the servers, page by page, without any state in between."""

from __future__ import annotations

import re
from typing import NamedTuple

from memkv_lmcache.client import Client, Entry
from memkv_lmcache.header import HeaderError, unpack
from memkv_lmcache.keys import ObjectName, object_key, parse_object_text

_TOKEN = re.compile(r"([0-9]{1,9})-([0-9]{1,20})")


class Listed(NamedTuple):
    """An object that is stored, and its bytes."""

    name: ObjectName
    size: int


def list_page(
    client: Client, model_name: str | None, page_size: int, token: str | None
) -> tuple[list[Listed], str | None]:
    """Up to ``page_size`` objects, and the token of the next page; None: the last one.

    Only those of ``model_name``, where that is given.  An object stored or evicted
    meanwhile may be missed.  ValueError: a page size below 1, a token that is none of
    ours; MemKVError: a server does not answer.
    """
    if page_size < 1:
        raise ValueError(f"page_size {page_size} is not 1 or more")
    match = _TOKEN.fullmatch(token or "0-0")
    if match is None or int(match[1]) >= len(client.servers):
        raise ValueError(f"{token!r} is no token of a page")
    server, cursor = int(match[1]), int(match[2])
    if cursor >= 2**64:
        raise ValueError(f"{token!r} is no token of a page")
    page: list[Listed] = []
    while len(page) < page_size:
        entries, cursor = client.list_page(
            client.servers[server], cursor, page_size - len(page)
        )
        for entry in entries:
            name = _name_of(entry)
            if name is not None and model_name in (None, name.model_name):
                page.append(Listed(name, entry.size))
        if not entries:
            server, cursor = server + 1, 0
            if server == len(client.servers):
                return page, None
    return page, f"{server}-{cursor}"


def _name_of(entry: Entry) -> ObjectName | None:
    """None: a value of the in-process mode, or of something else."""
    try:
        name = parse_object_text(unpack(entry.header, entry.key).key)
    except HeaderError:
        return None
    return name if name is not None and object_key(name) == entry.key else None
