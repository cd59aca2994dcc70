# SPDX-License-Identifier: Apache-2.0
"""``memkv stat --watch``: what the servers do just now, again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from memkv_lmcache.cli.common import explain, print_json
from memkv_lmcache.cli.show import duration_text, print_table, rate_text, size_text
from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError

_COLUMNS = (
    *("SERVER", ">VALUES", ">USED", ">OF", ">STATS/S", ">GETS/S", ">HITS", ">READ"),
    *(">PUTS/S", ">WRITTEN", ">EVICTED/S", ">CLIENTS", ">UP"),
)
_EMPTY = ("",) * (len(_COLUMNS) - 2)

Answer = dict[str, Any]


def watch(client: Client, every: float, as_json: bool) -> None:
    """Shows all servers every so many seconds until it is interrupted.

    Rates are over the time since the last look.  With JSON: one line a look, holding
    the counters as they are.  A server that does not answer has a row that says why.
    """
    before: dict[str, tuple[float, Answer]] = {}
    with ThreadPoolExecutor(max_workers=len(client.servers)) as pool:
        while True:
            begin = time.monotonic()
            answers = list(
                pool.map(lambda server: _ask(client, server), client.servers)
            )
            if as_json:
                print_json(answers)
                sys.stdout.flush()
            else:
                rows = [_row(answer, before, begin) for answer in answers]
                if sys.stdout.isatty():
                    click.clear()
                print_table(_COLUMNS, rows)
                sys.stdout.flush()
            time.sleep(max(0.0, begin + every - time.monotonic()))


def _ask(client: Client, server: str) -> Answer:
    try:
        return {"server": server, **client.probe(server)}
    except MemKVError as error:
        return {"server": server, "error": explain(server, error.text)}


def _row(
    answer: Answer, before: dict[str, tuple[float, Answer]], now: float
) -> tuple[str, ...]:
    server: str = answer["server"]
    if "error" in answer:
        before.pop(server, None)
        return (server, answer["error"].removeprefix(f"{server}: "), *_EMPTY)
    since, last = before.get(server, (now, answer))
    if last["boot_id"] != answer["boot_id"]:
        since, last = now, answer
    before[server] = now, answer
    seconds = now - since

    def rate(name: str) -> str:
        return f"{_grown(name, last, answer) / seconds:.0f}" if seconds else "-"

    def bytes_rate(name: str) -> str:
        return rate_text(_grown(name, last, answer), seconds) if seconds else "-"

    gets = _grown("get_items", last, answer)
    return (
        server,
        str(answer["values"]),
        size_text(answer["used_bytes"]),
        size_text(answer["capacity_bytes"]),
        rate("stat_items"),
        rate("get_items"),
        f"{_grown('get_hits', last, answer) / gets:.0%}" if gets else "-",
        bytes_rate("get_bytes"),
        rate("put_items"),
        bytes_rate("put_bytes"),
        rate("evictions"),
        str(answer["connections"]),
        duration_text(answer["uptime_ms"]),
    )


def _grown(name: str, last: Mapping[str, Any], answer: Mapping[str, Any]) -> int:
    return int(answer[name]) - int(last[name])
