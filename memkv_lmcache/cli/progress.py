# SPDX-License-Identifier: Apache-2.0
"""A progress bar for one transfer, which is one call that says nothing until its end.

What has moved is asked of somebody else: the server for a put, the kernel for a get.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError

PATIENCE_S = 1.0
_REFRESH_S = 0.25
_PROBE_S = 1.0

Moved = Callable[[], "int | None"]


@contextlib.contextmanager
def transfer(
    label: str, total: int, moved: Moved, console: Console | None = None
) -> Iterator[None]:
    """Shows a bar while the block runs, if that takes longer than a second.

    ``moved`` tells the bytes so far (None: unknown) and is called from another thread.
    Only a terminal sees it; by default the one on stderr.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(label, total, moved, console, over), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(
    label: str, total: int, moved: Moved, console: Console, over: threading.Event
) -> None:
    if over.wait(PATIENCE_S):
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(label, total=None)
        while not over.wait(_REFRESH_S):
            now = moved()
            if now is not None:
                progress.update(task, total=total, completed=min(max(now, 0), total))


def memory_filled() -> Moved:
    """Counts bytes that land in shared mappings from now on: they are resident then."""
    begin = _shared_bytes()
    return lambda: _shared_bytes() - begin


def _shared_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[2])
    return pages * resource.getpagesize()


def bytes_arriving(client: Client) -> Moved:
    """Asks the servers how many bytes of unfinished puts have arrived since now."""
    begin = _arriving(client)
    if begin is None:
        return lambda: None
    base: int = begin

    def moved() -> int | None:
        now = _arriving(client)
        return None if now is None else now - base

    return moved


def _arriving(client: Client) -> int | None:
    try:
        answers = [client.probe(name, timeout=_PROBE_S) for name in client.servers]
        return sum(int(answer["arriving_bytes"]) for answer in answers)
    except MemKVError:
        return None
