"""Servers and loads as processes on the hosts of a fabric."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fleet.fabric import Fabric

KEY = "3c" * 32
PORT = 9900  # of the host's own namespace: nobody else is there
_LOAD = Path(__file__).with_name("load.py")


def _environment(**settings: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMKV_")}
    return {**kept, "MEMKV_AUTH_KEY": KEY, **settings}


class Server:
    """``memkv serve`` on a host, which is also its name."""

    def __init__(self, fabric: Fabric, host: str, folder: Path) -> None:
        self._fabric = fabric
        self.host = host
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Empty; returns once it accepts."""
        address = f"{self._fabric.address(self.host)}:{PORT}"
        serve = (sys.executable, "-m", "memkv_lmcache", "serve", "--address", address)
        more = ("--name", self.host, "--memory", "64MiB", "--workers", "2")
        self._process = subprocess.Popen(
            self._fabric.command(self.host, *serve, *more, "--admin", "off"),
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=_environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("memkv serves")

    def send(self, number: int) -> None:
        """A signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal that ends it, and waits for that."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Report(NamedTuple):
    """What the loads have seen, together."""

    calls: int
    wrong: int
    hangs: int
    exceptions: tuple[str, ...]
    longest_over_ms: float
    hits: float
    """The part of chunks found at the end, of the load that found fewest."""
    reasons: dict[str, int]


class Load:
    """``load.py`` on a host."""

    def __init__(self, fabric: Fabric, host: str, servers: str, seed: int) -> None:
        command = (sys.executable, str(_LOAD), servers, "load", str(seed))
        self._process = subprocess.Popen(
            fabric.command(host, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def now(self) -> tuple[float, list[str]]:
        """The part of chunks that it found of late, and which servers are up for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        hits, up = json.loads(self._process.stdout.readline())
        return hits, up

    def finish(self) -> dict[str, Any]:
        """Ends it; what it has seen."""
        out, err = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, err
        seen: dict[str, Any] = json.loads(out)
        return seen

    def kill(self) -> None:
        """If something went wrong."""
        self._process.kill()
        self._process.communicate()


class Fleet:
    """All of it: servers, and clients that call them by name."""

    def __init__(self, fabric: Fabric, hosts: Sequence[str], folder: Path) -> None:
        self.fabric = fabric
        self.servers = [Server(fabric, host, folder) for host in hosts]
        self.setting = ",".join(f"{host}={host}.fleet:{PORT}" for host in hosts)
        self.loads: list[Load] = []

    def begin(self, clients: Sequence[str]) -> None:
        """Starts the servers, then a load on each client."""
        for server in self.servers:
            server.start()
        for seed, host in enumerate(clients):
            self.loads.append(Load(self.fabric, host, self.setting, seed))

    def is_whole(self, away: Sequence[str] = ()) -> bool:
        """Whether every load finds nearly all, and no server is down but ``away``."""
        there = {server.host for server in self.servers} - set(away)
        return all(
            hits > 0.95 and set(up) == there
            for hits, up in [load.now() for load in self.loads]
        )

    def finish(self) -> Report:
        """Ends the loads."""
        seen = [load.finish() for load in self.loads]
        self.loads.clear()
        reasons: dict[str, int] = {}
        for one in seen:
            for reason, n in one["reasons"].items():
                reasons[reason] = reasons.get(reason, 0) + n
        return Report(
            calls=sum(one["calls"] for one in seen),
            wrong=sum(one["wrong"] for one in seen),
            hangs=sum(one["hangs"] for one in seen),
            exceptions=tuple(text for one in seen for text in one["exceptions"]),
            longest_over_ms=max(one["longest_over_ms"] for one in seen),
            hits=min(one["recent"] for one in seen),
            reasons=reasons,
        )

    def close(self) -> None:
        """Ends whatever still runs."""
        for load in self.loads:
            load.kill()
        for server in self.servers:
            server.end()
