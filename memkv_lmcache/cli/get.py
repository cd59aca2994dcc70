# SPDX-License-Identifier: Apache-2.0
"""``memkv get``: writes a value to a file."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from memkv_lmcache.cli.common import failure, json_option, print_json, with_client
from memkv_lmcache.cli.progress import memory_filled, transfer
from memkv_lmcache.cli.put import TRANSFER_S
from memkv_lmcache.cli.show import key_text, parse_key, rate_text, size_text
from memkv_lmcache.client import Client, Get
from memkv_lmcache.errors import Status, error_for

#: How often a value may be replaced by one of another size while we ask for it.
_TRIES = 3


@click.command(short_help="Write a value to a file.")
@click.argument("key")
@click.argument("file", default="-")
@with_client(timeout=TRANSFER_S)
@json_option
def get(client: Client, key: str, file: str, as_json: bool) -> None:
    """Write the value stored under KEY to FILE (- or none: standard output).

    The value is verified end to end. FILE appears whole or not at all.

    \b
    Examples:
      memkv get greeting
      memkv get greeting copy.txt
      memkv get dir.tar | tar x
    """
    if file == "-" and as_json:
        raise click.UsageError("--json and the value cannot share stdout: name a FILE")
    wire = parse_key(key)
    target = Path(file)
    begin = time.monotonic()
    if file == "-":
        size = _get_to_stream(client, wire, sys.stdout.buffer)
    elif target.exists() and not target.is_file():
        with target.open("wb") as stream:
            size = _get_to_stream(client, wire, stream)
    else:
        size = _get_to_file(client, wire, target)
    seconds = time.monotonic() - begin
    if as_json:
        print_json({"key": key_text(wire), "size": size, "file": file})
    elif file != "-":
        rate = rate_text(size, seconds)
        click.echo(f"{key}: read {size_text(size)}, {rate}", err=True)


def _get_to_stream(client: Client, key: bytes, stream: BinaryIO) -> int:
    def attempt(size: int) -> int:
        with mmap.mmap(-1, max(size, 1)) as room:
            found = _get(client, key, room, size)
            if found == size:
                with memoryview(room) as view, view[:size] as value:
                    stream.write(value)
                stream.flush()
        return found

    return _settle(client, key, attempt)


def _get_to_file(client: Client, key: bytes, target: Path) -> int:
    def attempt(size: int) -> int:
        with _beside(target, size) as (part, fd):
            if size == 0:
                found = _get(client, key, bytearray(), size)
            else:
                with mmap.mmap(fd, size) as room:
                    found = _get(client, key, room, size)
            if found == size:
                part.replace(target)
        return found

    return _settle(client, key, attempt)


def _settle(client: Client, key: bytes, attempt: Callable[[int], int]) -> int:
    """Lets ``attempt`` read the value with room for its size, until that is right."""
    [result] = client.stat_many([key])
    if result.status is not Status.OK:
        raise failure(client, result, key_text(key))
    size = result.size
    for _ in range(_TRIES):
        found = attempt(size)
        if found == size:
            return size
        size = found
    raise error_for(Status.BUSY, f"{key_text(key)}: it changes faster than it is read")


def _get(client: Client, key: bytes, room: mmap.mmap | bytearray, size: int) -> int:
    """Reads the value and returns its size; another than ``size``: it was replaced."""
    with transfer(f"get {key_text(key)}", size, memory_filled()):
        [result] = client.get_many_into([Get(key, room)])
    if result.status not in (Status.OK, Status.TOO_SMALL):
        raise failure(client, result, key_text(key))
    return result.size


@contextlib.contextmanager
def _beside(target: Path, size: int) -> Iterator[tuple[Path, int]]:
    """A new file of ``size`` bytes in the folder of ``target``; unless moved, it goes.

    All its blocks are there: the kernel kills who writes to a mapping of a full disk.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(part, flags, 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    try:
        if size > 0:
            os.posix_fallocate(fd, 0, size)
        yield part, fd
    finally:
        os.close(fd)
        part.unlink(missing_ok=True)
