"""Processes of a deployment: vLLM, ``memkv serve``, and whatever else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from peer import Peer
from support import ROOT

from memkv_lmcache.client import Client
from memkv_lmcache.config import load
from memkv_lmcache.processes import Worker

from .relay import Relay

KEY = "5a" * 32
START_S = 240.0
ANSWER_S = 120.0

Prompt = list[int]


class Answer(NamedTuple):
    """What vLLM says about a request."""

    tokens: list[int]
    logprobs: list[list[float]]
    """Of all tokens of the vocabulary, for each token that was generated."""
    cached: int
    finished: str


class Run(NamedTuple):
    """Requests that were sent together."""

    answers: list[Answer]
    seconds: float


def _shared_memory(session: int) -> set[Path]:
    """What its processes have mapped there, and cannot remove when they are killed."""
    found: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(process.name)) == session:
                maps = (process / "maps").read_text("utf-8")
                names = re.findall(r"/dev/shm/\S+", maps)  # noqa: S108
                found |= {Path(name) for name in names}
    return found


class Process:
    """A command in a session of its own, dead with its children after ``with``."""

    def __init__(
        self, name: str, command: Sequence[object], folder: Path, **settings: str
    ) -> None:
        self.log = folder / f"{name}.log"
        foreign = ("MEMKV_", "LMCACHE_", "VLLM_", "PYTHONHASHSEED")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        fixed = {
            "PYTHONPATH": str(ROOT / "tests"),
            "LMCACHE_TRACK_USAGE": "false",
            "LMCACHE_DISABLE_BANNER": "1",
        }
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=kept | fixed | settings,
            )

    def said(self) -> str:
        """The log so far."""
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """By SIGKILL, children included."""
        left = _shared_memory(self.child.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for path in left:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Engine(Process):
    """vLLM; ``transfer`` is its KVTransferConfig, None: no cache at all."""

    def __init__(
        self,
        name: str,
        model: Path,
        folder: Path,
        transfer: dict[str, Any] | None = None,
        **settings: str,
    ) -> None:
        options: dict[str, Any] = {
            "model": str(model),
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "dtype": "float32",
            "max_model_len": 1024,
            "max_num_seqs": 8,
            "max_logprobs": -1,
            "seed": 0,
        }
        if transfer is not None:
            options["kv_transfer_config"] = {"kv_role": "kv_both", **transfer}
        fixed = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            # it would compile a function of three lines for half a minute
            "TORCHDYNAMO_DISABLE": "1",
        }
        command = (sys.executable, "-m", "vllm_cpu.engine", json.dumps(options))
        super().__init__(name, command, folder, **(fixed | settings))
        self._buffer = b""
        self.forget: Callable[[], None] = lambda: None
        """Empties LMCache's own memory, where it keeps what it could not store."""
        self._receive(START_S)

    def generate(self, *prompts: Prompt) -> Run:
        """Requests ``prompts`` together."""
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(prompts).encode() + b"\n")
        self.child.stdin.flush()
        said = self._receive(ANSWER_S)
        return Run([Answer(**one) for one in said["answers"]], said["seconds"])

    def _receive(self, timeout: float) -> dict[str, Any]:
        pipe = self.child.stdout
        assert pipe is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = max(0.0, deadline - time.monotonic())
                piece = (
                    os.read(pipe.fileno(), 1 << 16) if selector.select(left) else b""
                )
                assert piece, f"no answer of vLLM; {self.log}:\n{self.said()[-4000:]}"
                self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found


class MemKV:
    """``memkv serve`` behind a relay that keeps its address.  Killed, it is empty."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Worker | None = None
        self._address = ""
        self.relay = Relay()
        self._peer = Peer(self.relay)

    @property
    def settings(self) -> dict[str, str]:
        """What a client must be told."""
        return {"servers": self._peer.address, "auth_key": KEY}

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process."""
        return {f"MEMKV_{name.upper()}": text for name, text in self.settings.items()}

    def start(self) -> None:
        """Returns once it accepts."""
        address = ("--address", "127.0.0.1:0", "--memory", "256MiB", "--json")
        self._server = Worker(
            "memkv_lmcache",
            "serve",
            *address,
            folder=self._folder,
            environment={"MEMKV_AUTH_KEY": KEY},
        )
        self._address = self.relay.server = self._server.receive(20)["address"]

    def kill(self) -> None:
        """By SIGKILL.  Whoever connects until the next start is hung up on."""
        self.relay.server = None
        if self._server is not None:
            with self._server as server:
                server.kill()
            self._server = None

    def is_running(self) -> bool:
        return self._server is not None

    def counters(self) -> dict[str, int]:
        """The server's own."""
        config = load({"servers": self._address, "auth_key": KEY}, environ={})
        with Client(config=config) as client:  # past the relay
            found: dict[str, int] = client.probe()
        return found

    def __enter__(self) -> MemKV:
        self._peer.__enter__()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._peer.__exit__(kind, error, trace)
        self.kill()
