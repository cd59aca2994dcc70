# SPDX-License-Identifier: Apache-2.0
"""The grammar of ``servers``: text to named addresses.  Looks nothing up.

    host:port   [v6]:port   unix:/path   name=<any of these>   memkv-[0-3].memkv:9900

A list is separated by commas; inside brackets a comma belongs to the range.  Brackets
with a colon inside are an IPv6 address, otherwise a range: numbers and ``low-high``,
leading zeros kept.  A range makes one server of each number, named by its address.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from memkv_lmcache.errors import ConfigError

MAX_SERVERS = 1024
MAX_NAME = 128
MAX_UNIX_PATH = 107
"""``sun_path`` without its terminator."""

_GRAMMAR = "host:port, [v6]:port, unix:/path, name=host:port or host-[0-3]:port"
_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_RANGE = re.compile(r"\[([^\[\]:]*)\]")


class ServerAddress(NamedTuple):
    """A server: ``name`` places keys and must stay; ``address`` may change."""

    name: str
    address: str


def parse_servers(value: str | Sequence[str], where: str) -> tuple[ServerAddress, ...]:
    """The servers that a setting names, in its order.

    ``where`` is the setting as the user knows it; every ConfigError begins with it.
    """
    if isinstance(value, str):
        texts = [text.strip() for text in _split(value)]
    elif isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        texts = [item.strip() for item in value]
    else:
        raise ConfigError(f"{where}: {value!r} is not a list of {_GRAMMAR}")
    if not any(texts):
        raise ConfigError(f"{where}: names no server; write {_GRAMMAR}")
    servers = [server for text in texts for server in _parse_item(text, where)]
    if len(servers) > MAX_SERVERS:
        raise ConfigError(f"{where}: {len(servers)} servers; at most {MAX_SERVERS}")
    for field in ("name", "address"):
        seen = set()
        for server in servers:
            text = getattr(server, field)
            if text in seen:
                raise ConfigError(f"{where}: the {field} {text!r} stands there twice")
            seen.add(text)
    return tuple(servers)


def check_address(text: str, where: str, *, any_port: bool = False) -> str:
    """``text`` if it is an address to dial; with ``any_port`` port 0 is one as well."""
    if text.startswith("unix:"):
        return _check_unix(text, where)
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"{where}: {text!r} is no address; write {_GRAMMAR}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ConfigError(f"{where}: {text!r}: the port {port!r} is not a number")
    low = 0 if any_port else 1
    if not low <= int(port) <= 65535:
        raise ConfigError(f"{where}: {text!r}: the port is not in {low}..65535")
    if host.startswith("["):
        _check_v6(host, text, where)
    elif not _HOST.fullmatch(host):
        hint = "; an IPv6 address stands in brackets" if ":" in host else ""
        raise ConfigError(f"{where}: {text!r}: {host!r} is no host name{hint}")
    return text


def _check_unix(text: str, where: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise ConfigError(f"{where}: {text!r}: a Unix socket needs an absolute path")
    if len(path.encode()) > MAX_UNIX_PATH or "\0" in path:
        raise ConfigError(
            f"{where}: {text!r}: the path is over {MAX_UNIX_PATH} bytes or holds NUL"
        )
    return text


def _check_v6(host: str, text: str, where: str) -> None:
    try:
        if not host.endswith("]"):
            raise ValueError
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        raise ConfigError(f"{where}: {text!r}: {host} is no IPv6 address") from None


def _split(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        if char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


def _parse_item(text: str, where: str) -> list[ServerAddress]:
    if not text:
        raise ConfigError(f"{where}: an entry is empty; is there a comma too many?")
    named = _NAMED.fullmatch(text)
    name, address = named.groups() if named else (None, text)
    is_unix = address.startswith("unix:")
    ranges = [] if is_unix else _RANGE.findall(address)
    if name is not None and ranges:
        raise ConfigError(f"{where}: {text!r}: a range names its servers by itself")
    if not ranges:
        addresses = [address]
    else:
        literals = _RANGE.split(address)[::2]
        choices = [_expand(spec, text, where) for spec in ranges]
        addresses = [
            literals[0]
            + "".join(itertools.chain(*zip(picked, literals[1:], strict=True)))
            for picked in itertools.islice(itertools.product(*choices), MAX_SERVERS + 1)
        ]
    servers = []
    for one in addresses:
        server = ServerAddress(name or one, check_address(one, where))
        if len(server.name.encode()) > MAX_NAME:
            raise ConfigError(
                f"{where}: the name {server.name!r} is over {MAX_NAME} bytes; "
                "give a shorter one as name=address"
            )
        servers.append(server)
    return servers


def _expand(spec: str, text: str, where: str) -> list[str]:
    numbers: list[str] = []
    for part in spec.split(","):
        bounds = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if bounds is None:
            raise ConfigError(
                f"{where}: {text!r}: [{spec}] is no range; write [0-3] or [0,2,5-7]"
            )
        low, high = bounds[1], bounds[2] or bounds[1]
        count = int(high) - int(low) + 1
        if count < 1:
            raise ConfigError(f"{where}: {text!r}: the range [{spec}] runs backwards")
        if len(numbers) + count > MAX_SERVERS:
            raise ConfigError(f"{where}: {text!r}: more than {MAX_SERVERS} servers")
        width = len(low) if low.startswith("0") else 0
        numbers += [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    return numbers
