# SPDX-License-Identifier: Apache-2.0
"""``memkv rm``: removes values."""

from __future__ import annotations

import click

from memkv_lmcache.cli.common import (
    failure,
    json_option,
    print_json,
    raise_worst,
    with_client,
)
from memkv_lmcache.cli.show import key_text, parse_key
from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError, Status


@click.command(short_help="Remove values.")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@with_client(timeout=10)
@json_option
def rm(client: Client, keys: tuple[str, ...], as_json: bool) -> None:
    """Remove the values stored under KEYs, for everybody.

    A KEY is text as "memkv ls --json" shows it, or hex: and hex digits.

    \b
    Examples:
      memkv rm greeting
      memkv ls --json | jq -r .key | xargs -d '\\n' memkv rm
    """
    wanted = [parse_key(text) for text in keys]
    errors: list[MemKVError] = []
    removed: list[str] = []
    for key, result in zip(wanted, client.delete_many(wanted), strict=True):
        if result.status is Status.OK:
            removed.append(key_text(key))
        else:
            errors.append(failure(client, result, key_text(key)))
    if as_json:
        print_json({"removed": removed})
    raise_worst(errors)
