# SPDX-License-Identifier: Apache-2.0
"""What a ratio is taken to; on TCP the bare engine of ``benchmarks/raw_loopback.c``.

It is no part of the package: a checkout has its source, and a C compiler makes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

KIB, MIB = 1024, 1024**2
SOURCE = Path(__file__).resolve().parents[2] / "benchmarks/raw_loopback.c"
#: How libmemkv cuts a batch into requests: up to so many bytes of several values.
_GET_REQUEST, _PUT_REQUEST = 16 * MIB, 4 * MIB


class Raw(Protocol):
    """Moves what a batch of ``count`` values of ``size`` bytes moves, for ``seconds``.

    In 10**9 bytes a second.
    """

    get_tool: str
    put_tool: str

    def get(self, size: int, count: int, seconds: float) -> float:
        """From the server to the client."""

    def put(self, size: int, count: int, seconds: float) -> float:
        """From the client to the server."""


class Timing(NamedTuple):
    """Batches done one after the other: how many, in how many seconds in all."""

    batches: int
    seconds: float
    p50_s: float
    p99_s: float

    def gbps(self, size: int) -> float:
        """Of batches of ``size`` bytes: 10**9 bytes a second."""
        return size * self.batches / self.seconds / 1e9


def build(folder: Path) -> Path | None:
    """Compiles the bare engine into ``folder``; None: no source or no compiler here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or not SOURCE.is_file():
        return None
    program = folder / "raw_loopback"
    command = [compiler, "-std=c11", "-O2", str(SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    return program if done.returncode == 0 else None


class RawEngine:
    """Its server process; :meth:`run` is a client of it in another process."""

    get_tool = put_tool = SOURCE.name

    def __init__(self, program: Path) -> None:
        self._program = str(program)
        self._server = subprocess.Popen(  # noqa: S603 what we have built
            [self._program, "serve"], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None  # noqa: S101 it was asked for
        self._port = self._server.stdout.readline().strip()

    def run(self, request: int, reply: int, parts: int, seconds: float) -> Timing:
        """Batches of ``parts`` requests of so many bytes, answered by so many."""
        arguments = (self._port, *map(str, (request, reply, parts, seconds)))
        done = subprocess.run(  # noqa: S603 what we have built
            [self._program, "run", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
        batches, total, p50, p99 = map(int, done.stdout.split())
        return Timing(batches, total / 1e9, p50 / 1e9, p99 / 1e9)

    def get(self, size: int, count: int, seconds: float) -> float:
        """See :class:`Raw`."""
        parts, total = _parts(size, count, _GET_REQUEST), size * count
        return self.run(64, total // parts, parts, seconds).gbps(total)

    def put(self, size: int, count: int, seconds: float) -> float:
        """See :class:`Raw`; a put is answered by a row for each value."""
        parts, total = _parts(size, count, _PUT_REQUEST), size * count
        return self.run(total // parts, 64, parts, seconds).gbps(total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.kill()
        self._server.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()


def _parts(size: int, count: int, most: int) -> int:
    return -(-count // max(1, most // size))
