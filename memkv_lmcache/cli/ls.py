# SPDX-License-Identifier: Apache-2.0
"""``memkv ls``: the values of a namespace, explained by their shape headers."""

from __future__ import annotations

from collections.abc import Iterator

import click

from memkv_lmcache.cli.common import (
    Parsed,
    explain,
    is_fine,
    json_option,
    print_json,
    raise_worst,
    with_client,
)
from memkv_lmcache.cli.show import (
    duration_text,
    key_text,
    layout_text,
    print_table,
    shape_header,
    size_text,
)
from memkv_lmcache.client import Client, Entry
from memkv_lmcache.errors import MemKVError, error_for
from memkv_lmcache.settings import whole_number

_LIMIT = 1000


@click.command(short_help="List what is stored.")
@click.option(
    "--limit",
    metavar="N",
    type=Parsed("number", whole_number(0, 10**12)),
    help=f"Show that many at most; 0: all.  [default: {_LIMIT}; with --json all]",
)
@with_client(timeout=10)
@json_option
def ls(client: Client, limit: int | None, as_json: bool) -> None:
    """List what is stored in the namespace, in no order.

    LAYOUT is what the value's shape header says: the type and shape of its tensors.
    A long LMCache key is stored under a hash; KEY is its full text then, as far as the
    header has it. With --json: one object a line, with the key as it is stored.

    \b
    Examples:
      memkv ls
      memkv ls --namespace llama-3-8b --json | jq -r .text
    """
    errors: list[MemKVError] = []
    entries = _entries(client, errors)
    if as_json:
        for n, entry in enumerate(entries, start=1):
            _print_one(entry)
            if n == limit:
                break
    else:
        _print_all(entries, _LIMIT if limit is None else limit, errors)
    raise_worst(errors)


def _entries(client: Client, errors: list[MemKVError]) -> Iterator[Entry]:
    for server in client.servers:
        try:
            yield from client.list(server=server)
        except MemKVError as error:
            state = client.state()[server]
            text = error.text if is_fine(state) else state
            errors.append(error_for(error.status, explain(server, text)))


def _print_one(entry: Entry) -> None:
    shape = shape_header(entry.header, entry.key)
    tensors = shape.tensors if shape else ()
    print_json(
        {
            "key": key_text(entry.key),
            "text": _text(entry),
            "size": entry.size,
            "tensors": [{"dtype": t.dtype, "shape": list(t.shape)} for t in tensors],
            "idle_ms": entry.idle_ms,
            "server": entry.server,
        }
    )


def _print_all(entries: Iterator[Entry], limit: int, errors: list[MemKVError]) -> None:
    rows: list[tuple[str, ...]] = []
    is_cut = False
    for entry in entries:
        is_cut = 0 < limit == len(rows)
        if is_cut:
            break
        layout = layout_text(shape_header(entry.header, entry.key))
        idle = duration_text(entry.idle_ms)
        rows.append((_text(entry), size_text(entry.size), layout, idle))
    if rows or not errors:
        print_table(("KEY", ">SIZE", "LAYOUT", ">IDLE"), rows)
    if is_cut:
        click.echo("memkv: there is more; --limit 0 shows all of it", err=True)


def _text(entry: Entry) -> str:
    shape = shape_header(entry.header, entry.key)
    if shape is None or not shape.key.isprintable():
        return key_text(entry.key)
    return shape.key or key_text(entry.key)
