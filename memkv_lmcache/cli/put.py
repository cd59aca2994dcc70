# SPDX-License-Identifier: Apache-2.0
"""``memkv put``: stores a file as one value."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import sys
import time
from collections.abc import Iterator

import click

from memkv_lmcache.cli.common import (
    SECONDS,
    failure,
    json_option,
    print_json,
    with_client,
)
from memkv_lmcache.cli.progress import bytes_arriving, transfer
from memkv_lmcache.cli.show import key_text, parse_key, rate_text, size_text
from memkv_lmcache.client import Client, Put
from memkv_lmcache.errors import Status
from memkv_lmcache.header import ShapeHeader, pack

#: LMCache's memory format BINARY: bytes without a shape.
BINARY = 4
#: Seconds until a transfer counts as stuck: the largest value at 16 MiB/s takes less.
TRANSFER_S = 300.0


@click.command(short_help="Store a file as a value.")
@click.argument("key")
@click.argument("file", default="-")
@click.option("--ttl", type=SECONDS, help="Seconds to live.  [default: the server's]")
@click.option("--replace", is_flag=True, help="First remove what is there.")
@with_client(timeout=TRANSFER_S)
@json_option
def put(
    client: Client,
    key: str,
    file: str,
    ttl: float | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Store FILE (- or none: standard input) under KEY.

    A value is never changed: if KEY has a value of that size already, it stays, unless
    --replace is given. A value has at most 4 GiB, and a quarter of the server's memory.

    \b
    Examples:
      memkv put greeting hello.txt
      tar c dir | memkv put dir.tar
    """
    wire = parse_key(key)
    if replace:
        [gone] = client.delete_many([wire])
        if gone.status not in (Status.OK, Status.NOT_FOUND):
            raise failure(client, gone, key)
    with _opened(file) as data:
        size = len(data)
        header = pack(ShapeHeader(size, BINARY, (), key_text(wire)), wire)
        item = Put(wire, data, header, ttl_ms=round((ttl or 0) * 1000))
        begin = time.monotonic()
        with transfer(f"put {key}", size, bytes_arriving(client)):
            [result] = client.put_many([item])
        seconds = time.monotonic() - begin
    stored = result.status is Status.OK
    if not stored and result.status is not Status.EXISTS:
        raise failure(client, result, key)
    if as_json:
        print_json({"key": key_text(wire), "size": size, "stored": stored})
    elif stored:
        rate = rate_text(size, seconds)
        click.echo(f"{key}: stored {size_text(size)}, {rate}", err=True)
    else:
        click.echo(
            f"{key}: there is a value of that size already; it stays (--replace)",
            err=True,
        )


@contextlib.contextmanager
def _opened(file: str) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, mapped where that can be, so that 4 GiB need no memory."""
    if file == "-":
        yield sys.stdin.buffer.read()
        return
    with open(file, "rb") as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            yield source.read()
            return
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped
