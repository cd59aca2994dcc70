# SPDX-License-Identifier: Apache-2.0
"""``memkv stat``: what servers do and hold, or what is stored under keys."""

from __future__ import annotations

from typing import Any

import click

from memkv_lmcache.cli.common import (
    SECONDS,
    explain,
    failure,
    json_option,
    print_json,
    raise_worst,
    with_client,
)
from memkv_lmcache.cli.show import (
    duration_text,
    key_text,
    layout_text,
    parse_key,
    print_table,
    shape_header,
    size_text,
)
from memkv_lmcache.cli.watch import watch as run_watch
from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError, Status, error_for


@click.command(short_help="What servers do and hold; what a key has.")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="2",
    type=SECONDS,
    help="Look again every so many seconds, 2 if not said; show rates.",
)
@with_client(timeout=5)
@json_option
def stat(
    client: Client, keys: tuple[str, ...], watch: float | None, as_json: bool
) -> None:
    """Show what the servers do and hold; with KEYs, what is stored under them.

    A KEY is text, or hex: and hex digits for one that is no text.

    \b
    Examples:
      memkv stat
      memkv stat --json | jq '.[].get_bytes'
      memkv stat greeting
      memkv stat --watch
    """
    if watch is not None and keys:
        raise click.UsageError("--watch is of servers: leave the KEYs out")
    if watch is not None:
        run_watch(client, watch, as_json)
    elif keys:
        _stat_keys(client, keys, as_json)
    else:
        _stat_servers(client, as_json)


def _stat_servers(client: Client, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    errors: list[MemKVError] = []
    for server in client.servers:
        try:
            found.append({"server": server, **client.probe(server)})
        except MemKVError as error:
            errors.append(error_for(error.status, explain(server, error.text)))
    if as_json:
        print_json(found)
    elif found:
        names = "SERVER >VALUES >USED >OF >GETS >HITS >READ >PUTS >WRITTEN >EVICTED"
        columns = [*names.split(), ">CLIENTS", ">UP"]
        print_table(columns, [_server_row(one) for one in found])
    raise_worst(errors)


def _server_row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["server"],
        str(one["values"]),
        size_text(one["used_bytes"]),
        size_text(one["capacity_bytes"]),
        str(one["get_items"]),
        str(one["get_hits"]),
        size_text(one["get_bytes"]),
        str(one["put_stored"]),
        size_text(one["put_bytes"]),
        str(one["evictions"]),
        str(one["connections"]),
        duration_text(one["uptime_ms"]),
    )


def _stat_keys(client: Client, texts: tuple[str, ...], as_json: bool) -> None:
    keys = [parse_key(text) for text in texts]
    found: list[dict[str, Any]] = []
    errors: list[MemKVError] = []
    results = client.stat_many(keys, headers=True)
    for key, result in zip(keys, results, strict=True):
        if result.status is Status.OK:
            shape = shape_header(result.header, key)
            found.append(
                {
                    "key": key_text(key),
                    "size": result.size,
                    "layout": layout_text(shape),
                    "text": shape.key if shape else "",
                }
            )
        else:
            errors.append(failure(client, result, key_text(key)))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("KEY", ">SIZE", "LAYOUT"),
            [(one["key"], size_text(one["size"]), one["layout"]) for one in found],
        )
    raise_worst(errors)
