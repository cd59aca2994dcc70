"""The processes of a deployment: vLLM, ``lmcache server`` and ``memkv serve``."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml
from peer import Peer
from support import ROOT, wait_until

from memkv_lmcache.client import Client
from memkv_lmcache.config import load
from memkv_lmcache.processes import Worker

from .relay import Relay

BIN = Path(sys.executable).parent
KEY = "5a" * 32
CHUNK = 128  # vLLM's blocks on a CPU are as large
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

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


# ---- deployments ---------------------------------------------------------------------


class Site(NamedTuple):
    """Where deployments run."""

    model: Path
    folder: Path
    memkv: MemKV
    grace: float
    """Seconds that a load may take."""
    chunks: int
    """Of a prompt."""


@contextlib.contextmanager
def in_process(
    site: Site,
    name: str,
    *,
    keeps: bool = True,
    policy: str | None = "recompute",
    seed: str | None = "0",
    **lmcache: Any,
) -> Iterator[Engine]:
    """vLLM with LMCache and the plugin in it, as the README sets it up.

    ``keeps``: LMCache keeps in its own memory what it has seen.
    """
    prefix = "storage_plugin.memkv."
    config = {
        "chunk_size": CHUNK,
        "local_cpu": keeps,
        "max_local_cpu_size": 0.25,
        "save_unfull_chunk": False,  # see cpu_connector.py
        "storage_plugins": "memkv",
        "extra_config": {
            f"{prefix}module_path": "memkv_lmcache.backend",
            f"{prefix}class_name": "MemKVStorageBackend",
            f"{prefix}load_timeout_s": site.grace,
            f"{prefix}lookup_timeout_ms": 2000,  # the machine may be small
        },
        **lmcache,
    }
    path = site.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    transfer = {
        "kv_connector": "LMCacheConnectorV1",
        "kv_connector_module_path": "vllm_cpu.cpu_connector",
    }
    if policy is not None:
        transfer["kv_load_failure_policy"] = policy
    settings = {**site.memkv.environment, "LMCACHE_CONFIG_FILE": str(path)}
    if seed is not None:
        settings["PYTHONHASHSEED"] = seed
    with Engine(name, site.model, site.folder, transfer, **settings) as engine:
        yield engine


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _clear(url: str) -> None:
    request = urllib.request.Request(url, data=b"", method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200


@contextlib.contextmanager
def multi_process(site: Site, name: str, *, keeps: bool = True) -> Iterator[Engine]:
    """``lmcache server`` with the adapter, and vLLM beside it."""
    port, http, metrics = _free_port(), _free_port(), _free_port()
    shared = f"memkv-test-{port}"
    adapter = {
        "type": "plugin",
        "module_path": "memkv_lmcache.l2_adapter",
        "class_name": "MemKVL2Adapter",
        "adapter_params": {
            "prefix": "fleet-a",
            "load_failure_grace_s": site.grace,
            "lookup_timeout_ms": 2000,
        },
    }
    command = (
        *(BIN / "lmcache", "server", "--host", "127.0.0.1", "--port", port),
        *("--http-host", "127.0.0.1", "--http-port", http),
        *("--prometheus-port", metrics, "--l1-size-gb", "0.25", "--shm-name", shared),
        *("--eviction-policy", "LRU", "--chunk-size", CHUNK),
        *("--supported-transfer-mode", "auto", "--l2-adapter", json.dumps(adapter)),
        *(() if keeps else ("--l2-store-policy", "skip_l1")),
    )
    server = Process(f"{name}-lmcache", command, site.folder, **site.memkv.environment)
    transfer = {
        "kv_connector": "LMCacheMPConnector",
        "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "127.0.0.1",
            "lmcache.mp.port": port,
        },
    }
    try:
        with server:

            def is_ready() -> bool:
                assert server.child.poll() is None, server.said()
                return "Uvicorn running" in server.said()

            wait_until(is_ready, timeout=START_S)
            with Engine(name, site.model, site.folder, transfer) as engine:
                engine.forget = lambda: _clear(f"http://127.0.0.1:{http}/cache/clear")
                yield engine
    finally:
        Path("/dev/shm", shared).unlink(missing_ok=True)  # noqa: S108
