# SPDX-License-Identifier: Apache-2.0
"""How keys, sizes, layouts and tables are shown, and how keys are typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memkv_lmcache.errors import ConfigError
from memkv_lmcache.header import HeaderError, ShapeHeader, unpack

_HEX = "hex:"
_WIDE = 10_000


def key_text(key: bytes) -> str:
    """A key as it can be typed again: as it is if printable, else ``hex:`` and hex."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return _HEX + key.hex()
    if not text.isprintable() or text.startswith(_HEX):
        return _HEX + key.hex()
    return text


def parse_key(text: str, where: str = "KEY") -> bytes:
    """The key that was typed, 1 to 512 bytes; see :func:`key_text`."""
    try:
        key = (
            bytes.fromhex(text.removeprefix(_HEX))
            if text.startswith(_HEX)
            else os.fsencode(text)
        )
    except ValueError:
        raise ConfigError(f"{where}: {text!r}: hex digits follow {_HEX}") from None
    if not 1 <= len(key) <= 512:
        raise ConfigError(f"{where}: a key has 1 to 512 bytes, not {len(key)}")
    return key


def size_text(size: int) -> str:
    """Bytes for a human: ``4 MiB``, ``1.5 GiB``."""
    number, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def rate_text(size: int, seconds: float) -> str:
    """Bytes a second for a human."""
    return f"{size_text(int(size / max(seconds, 1e-9)))}/s"


def duration_text(milliseconds: int) -> str:
    """A time for a human: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    seconds = milliseconds // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def shape_header(header: bytes, key: bytes) -> ShapeHeader | None:
    """The shape header, if it is one of this key."""
    try:
        return unpack(header, key)
    except HeaderError:
        return None


def layout_text(shape: ShapeHeader | None) -> str:
    """The tensors of a value: ``bfloat16[2, 32, 256, 1024]``."""
    if shape is None:
        return "no shape header"
    return ", ".join(f"{t.dtype}{list(t.shape)}" for t in shape.tensors) or "bytes"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout, as wide as it needs where that is no terminal.

    A column whose name begins with ``>`` holds numbers; without names there is no
    header.
    """
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _WIDE, highlight=False)
    table = Table(
        box=None, pad_edge=False, header_style="bold", show_header=any(columns)
    )
    for column in columns:
        name = column.removeprefix(">")
        side = "right" if column.startswith(">") else "left"
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    if is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())
