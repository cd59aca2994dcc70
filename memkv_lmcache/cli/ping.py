# SPDX-License-Identifier: Apache-2.0
"""``memkv ping``: are the servers there, and do they let us in?"""

from __future__ import annotations

import time
from typing import Any

import click

from memkv_lmcache.cli.common import (
    explain,
    json_option,
    print_json,
    raise_worst,
    with_client,
)
from memkv_lmcache.cli.show import duration_text, print_table
from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError, error_for


@click.command(short_help="Ask each server whether it is there.")
@with_client(timeout=5)
@json_option
def ping(client: Client, as_json: bool) -> None:
    """Ask each server whether it is there.

    The time is that of a new connection with its handshake, and one answer.

    \b
    Examples:
      memkv ping
      memkv ping --server memkv-[0-3].memkv:9900 --timeout 1
    """
    found: list[dict[str, Any]] = []
    errors: list[MemKVError] = []
    for server in client.servers:
        begin = time.monotonic()
        try:
            answer = client.probe(server)
        except MemKVError as error:
            errors.append(error_for(error.status, explain(server, error.text)))
            continue
        known = {k: answer[k] for k in ("name", "version", "auth", "uptime_ms")}
        took = (time.monotonic() - begin) * 1000
        found.append({"server": server, **known, "ms": round(took, 3)})
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("SERVER", "NAME", "VERSION", "AUTH", "UP", ">MS"),
            [
                (
                    one["server"],
                    one["name"],
                    one["version"],
                    "on" if one["auth"] else "off",
                    duration_text(one["uptime_ms"]),
                    f"{one['ms']:.2f}",
                )
                for one in found
            ],
        )
    raise_worst(errors)
