# SPDX-License-Identifier: Apache-2.0
"""Processes of our own: a server, and workers that report to whoever started them.

They inherit no setting of MemKV or LMCache, and no folder to import from by accident.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from memkv_lmcache.client import Client
from memkv_lmcache.config import ClientConfig, load
from memkv_lmcache.errors import Status, error_for

if TYPE_CHECKING:
    from typing_extensions import Self

_FOREIGN = ("MEMKV_", "LMCACHE_")
_FIXED = {
    "LMCACHE_TRACK_USAGE": "false",
    "LMCACHE_DISABLE_BANNER": "1",
    "LMCACHE_LOG_LEVEL": "WARNING",
    # equal in every process, so that they agree on the keys
    "PYTHONHASHSEED": "0",
}
_START_S = 20.0
_END_S = 10.0


class WorkerFailed(RuntimeError):
    """A process of ours did not do its part; the text ends with what it said."""


class Worker:
    """A Python module of ours as a process; it sends JSON texts, see :func:`report_to`.

    ``folder`` is where it runs, and where what it says beside that is kept.  A context
    manager: the process is dead afterwards.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = " ".join((module.rpartition(".")[2], *arguments[:1]))
        self._log: Path = folder / f"{self.name.replace(' ', '-')}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 our own Python and module
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=kept | _FIXED | (environment or {}),
            )

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next JSON object that the process sends.

        WorkerFailed: it ended, or said nothing for so long; with the end of its log.
        """
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 it was asked for
        deadline = time.monotonic() + timeout
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._failure(f"said nothing for {timeout:g} s")
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    raise self._failure("ended early")
                line += piece
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Ends it by SIGKILL, which no process can prepare for, and waits."""
        self._process.kill()
        if self._process.wait(_END_S) != -signal.SIGKILL:
            raise self._failure("had ended before it was killed")

    def finish(self) -> None:
        """Waits for its own good end."""
        if self._process.wait(_END_S) != 0:
            raise self._failure(f"ended with exit code {self._process.returncode}")

    def _failure(self, what: str) -> WorkerFailed:
        said = self._log.read_text("utf-8", "replace").strip()[-2000:]
        return WorkerFailed(f"{self.name}: {what}" + (f"\n{said}" if said else ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def report_to() -> IO[str]:
    """In a worker: where to send JSON texts, a line each, flushed.

    It is what stdout was; whatever a library prints from now on goes to the log.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


class Server(Worker):
    """A ``memkv serve`` on a free port of this host, with a key of its own.

    ``transport`` is the server's.  The other two say where RDMA is looked for, by the
    server and by its clients; None: as by default.
    """

    def __init__(
        self,
        folder: Path,
        memory: int,
        workers: int = 2,
        *,
        transport: str = "auto",
        rdma_devices: str | None = None,
        verbs_library: str | None = None,
    ) -> None:
        self._key = secrets.token_hex(32)
        found = {"rdma_devices": rdma_devices, "verbs_library": verbs_library}
        self._rdma = {name: text for name, text in found.items() if text is not None}
        yaml = folder / "serve.yaml"  # what has no option; JSON is yaml, too
        rdma = {name.removeprefix("rdma_"): text for name, text in self._rdma.items()}
        yaml.write_text(json.dumps({"network": {"transport": transport}, "rdma": rdma}))
        super().__init__(
            "memkv_lmcache",
            "serve",
            *("--config", yaml.name, "--address", "127.0.0.1:0", "--json"),
            *("--memory", str(memory), "--workers", str(workers)),
            folder=folder,
            environment={"MEMKV_AUTH_KEY": self._key},
        )
        says = self.receive(_START_S)
        self.address: str = says["address"]
        self.no_rdma: str = says["no_rdma"]
        """Why it has no RDMA; empty: it has."""

    @property
    def settings(self) -> dict[str, str]:
        """What a client must be told to get in."""
        return {"servers": self.address, "auth_key": self._key, **self._rdma}

    @property
    def environment(self) -> dict[str, str]:
        """The same for another process."""
        return {f"MEMKV_{name.upper()}": text for name, text in self.settings.items()}

    def client(self, **settings: object) -> Client:
        """A client of it, whatever the environment says."""
        return Client(config=self._config(settings), timeout=30)

    def _config(self, settings: dict[str, object]) -> ClientConfig:
        return load({**self.settings, **settings}, environ={})

    def counters(self) -> dict[str, int]:
        """What it counted so far, by its own word."""
        with self.client() as client:
            answer = client.probe()
        if not isinstance(answer.get("get_bytes"), int):
            raise error_for(Status.PROTOCOL, f"{self.address} sends no counters")
        return answer
