"""Hosts on one machine: network namespaces, each with a cable to one switch.

    host --veth-- switch (a bridge in a namespace of its own) --veth-- host

A host has an address of 10.78.0.0/24 and its own /etc/hosts, which names all of them.
Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_ETC = Path("/etc/netns")


class Unavailable(Exception):
    """This machine makes no network namespaces for us; the text says why."""


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(
            ["ip", *arguments], check=True, capture_output=True, text=True, timeout=20
        )
    except FileNotFoundError:
        raise Unavailable("there is no ip command (Debian: iproute2)") from None
    except subprocess.CalledProcessError as error:
        text = f"ip {' '.join(arguments)}: {error.stderr.strip()}"
        raise Unavailable(text) from None


class Fabric:
    """The switch and the hosts plugged into it."""

    def __init__(self) -> None:
        self._prefix = f"mkv{os.getpid()}-"
        self._switch = f"{self._prefix}switch"
        self._addresses: dict[str, str] = {}
        self._spare = iter(range(10, 250))

    def build(self, hosts: Sequence[str]) -> None:
        """Makes the switch and plugs the hosts in."""
        if os.geteuid() != 0:
            raise Unavailable("only root may make network namespaces")
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for host in hosts:
            self._plug_in(host)
        self._tell_names()

    def _plug_in(self, host: str) -> None:
        space = self.space(host)
        _ip("netns", "add", space)
        cable = ("type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", self._switch, "link", "add", host, *cable)
        _ip("-n", self._switch, "link", "set", host, "master", "br0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "up")
        self._addresses[host] = ""
        self._give_address(host)

    def _give_address(self, host: str) -> None:
        address = f"10.78.0.{next(self._spare)}"
        _ip("-n", self.space(host), "addr", "add", f"{address}/24", "dev", "eth0")
        self._addresses[host] = address

    def _tell_names(self) -> None:
        lines = [f"{address} {name}.fleet" for name, address in self._addresses.items()]
        text = "\n".join(["127.0.0.1 localhost", *lines, ""])
        for host in self._addresses:
            folder = _ETC / self.space(host)
            folder.mkdir(parents=True, exist_ok=True)
            # in place: it is mounted over /etc/hosts where a process runs already
            (folder / "hosts").write_text(text, "utf-8")

    def space(self, host: str) -> str:
        """The namespace of a host."""
        return self._prefix + host

    def address(self, host: str) -> str:
        """Where a host is now."""
        return self._addresses[host]

    def command(self, host: str, *command: str) -> list[str]:
        """``command`` as it runs on a host; its process is the command's own."""
        return ["ip", "netns", "exec", self.space(host), *command]

    def cut(self, host: str) -> None:
        """Pulls the cable of a host."""
        _ip("-n", self._switch, "link", "set", host, "down")

    def mend(self, host: str) -> None:
        """Puts it back."""
        _ip("-n", self._switch, "link", "set", host, "up")

    def move(self, host: str) -> None:
        """Gives a host another address, which its name leads to from now on."""
        _ip("-n", self.space(host), "addr", "flush", "dev", "eth0", "scope", "global")
        self._give_address(host)
        self._tell_names()

    def disturb(self, host: str, *how: str) -> None:
        """Netem on the cable towards a host, such as ``loss 5%``."""
        command = ["tc", "qdisc", "add", "dev", host, "root", "netem", *how]
        done = subprocess.run(
            ["ip", "netns", "exec", self._switch, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        if done.returncode != 0:
            raise Unavailable(f"this kernel has no netem: {done.stderr.strip()}")

    def tear_down(self) -> None:
        """Leaves nothing behind; processes on the hosts must be over."""
        for space in (*map(self.space, self._addresses), self._switch):
            with contextlib.suppress(Unavailable):
                _ip("netns", "del", space)
            shutil.rmtree(_ETC / space, ignore_errors=True)


@contextlib.contextmanager
def fabric(hosts: Sequence[str]) -> Iterator[Fabric]:
    """Hosts on a switch.  Unavailable: not here."""
    found = Fabric()
    try:
        found.build(hosts)
        yield found
    finally:
        found.tear_down()
