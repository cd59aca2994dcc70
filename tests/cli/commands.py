"""The command as users run it: a process with its own environment and folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMKV = (sys.executable, "-m", "memkv_lmcache")
KEY = "5a" * 32


def environment(**settings: str) -> dict[str, str]:
    """This process' environment with no settings of MemKV but those given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMKV_")}
    return {**kept, **settings}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(
    *arguments: str | Path,
    folder: Path,
    stdin: bytes = b"",
    timeout: float = 60,
    **settings: str,
) -> Done:
    """Runs ``memkv`` in ``folder`` to its end; ``settings`` are of the environment."""
    done = subprocess.run(
        [*MEMKV, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=folder,
        env=environment(**settings),
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@contextlib.contextmanager
def serving(
    *arguments: str | Path, folder: Path, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``memkv serve`` in ``folder``: its first line, and its process."""
    with subprocess.Popen(
        [*MEMKV, "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(**settings),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield line, process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """Sends a signal and returns the exit code."""
    process.send_signal(number)
    return process.wait(20)
