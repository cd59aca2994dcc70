# SPDX-License-Identifier: Apache-2.0
"""``memkv rm``: removes values, or all of a namespace."""

from __future__ import annotations

import sys

import click

from memkv_lmcache.cli.common import (
    explain,
    failure,
    is_fine,
    json_option,
    print_json,
    raise_worst,
    with_client,
)
from memkv_lmcache.cli.show import key_text, parse_key
from memkv_lmcache.client import Client
from memkv_lmcache.erase import erase
from memkv_lmcache.errors import MemKVError, Status, error_for

_TIMEOUT_S = 10


@click.command(short_help="Remove values, or a whole namespace.")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--yes", is_flag=True, help="Erase the namespace without asking.")
@with_client(timeout=_TIMEOUT_S)
@json_option
def rm(client: Client, keys: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove the values stored under KEYs, for everybody.

    A KEY is text as "memkv ls --json" shows it, or hex: and hex digits. Without a KEY
    but with --namespace: all that the namespace holds, on all servers.

    \b
    Examples:
      memkv rm greeting
      memkv ls --json | jq -r .key | xargs -d '\\n' memkv rm
      memkv rm --namespace llama-3-8b --yes
    """
    if keys:
        _remove(client, keys, as_json)
        return
    # from the environment it would be too easily meant for something else
    if click.get_current_context().params["namespace"] is None:
        raise click.UsageError("name KEYs, or a whole namespace with --namespace")
    _confirm(client, yes)
    _erase(client, as_json)


def _remove(client: Client, keys: tuple[str, ...], as_json: bool) -> None:
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


def _confirm(client: Client, yes: bool) -> None:
    if yes:
        return
    what = f"all of namespace {client.config.namespace!r} on {len(client.servers)}"
    if not sys.stdin.isatty():
        raise click.UsageError(f"this erases {what} servers; say --yes")
    click.confirm(f"Erase {what} servers, for everybody?", abort=True, err=True)


def _erase(client: Client, as_json: bool) -> None:
    errors: list[MemKVError] = []
    erased: dict[str, int] = {}
    for server in client.servers:
        try:
            erased[server] = erase(client.config, server, _TIMEOUT_S)
        except MemKVError as error:
            state = client.state()[server]
            text = error.text if is_fine(state) else state
            errors.append(error_for(error.status, explain(server, text)))
        else:
            if not as_json:
                click.echo(f"{server}: erased {erased[server]} values", err=True)
    if as_json:
        print_json({"erased": erased})
    raise_worst(errors)
