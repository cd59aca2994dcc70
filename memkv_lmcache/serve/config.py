# SPDX-License-Identifier: Apache-2.0
"""The server's settings: what its yaml may say, and what it may not.

A setting is looked for on the command line, in the yaml of ``--config``, in the
environment (the key only: ``MEMKV_AUTH_KEY``, ``MEMKV_AUTH_KEY_FILE``) and among the
defaults, in this order.  What is wrong is a ConfigError that names the setting.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from memkv_lmcache.addresses import check_address
from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import (
    parse_auth_key,
    parse_devices,
    parse_flag,
    parse_seconds,
    parse_size,
    parse_text,
    parse_transport,
    read_auth_key,
    read_yaml,
    unknown_setting,
    whole_number,
)

_log = logging.getLogger(__name__)

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
_MAX_WORKERS: Final = 256
_YEAR_S: Final = 366 * 24 * 3600
OFF: Final = "off"


def default_workers() -> int:
    """One network worker for each processor that we may use, up to four."""
    return min(4, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """A server's settings, all checked."""

    address: str = "127.0.0.1:9900"
    """``host:port``, ``[v6]:port`` or ``unix:/path``; port 0: any free one."""
    name: str | None = None
    """What clients place keys by; None: the address."""
    auth_key: bytes | None = field(default=None, repr=False)
    """32 bytes; None: only on loopback and Unix sockets."""
    memory: int = GIB
    """Bytes: pages, keys, headers and index together, a hard bound."""
    page_size: int = 64 * KIB
    transport: str = "auto"
    """``auto``: RDMA if it works; ``tcp``: never; ``rdma``: no start without it."""
    rdma_devices: str | None = None
    """``mlx5_0,mlx5_1``; None: chosen by the address."""
    verbs_library: str | None = None
    """A file; None: ``libibverbs.so.1``."""
    workers: int = field(default_factory=default_workers)
    max_connections: int = 16384
    default_ttl_s: int = 0
    """Seconds a value lives unless its put says otherwise; 0: until evicted."""
    admin_address: str | None = None
    """``host:port`` of the HTTP for operators, or OFF; None: 127.0.0.1 and the port
    after the data port, OFF on a Unix socket."""
    drain_s: float = 5.0
    """Seconds that requests under way get to end after SIGTERM."""


def _address(value: object, where: str) -> str:
    return check_address(parse_text(value, where), where, any_port=True)


def admin_address(value: object, where: str) -> str:
    """``host:port``, or OFF, which yaml reads as false."""
    if value is False or value == OFF:
        return OFF
    text = parse_text(value, where)
    if text.startswith("unix:"):
        raise ConfigError(f"{where}: {text!r}: write host:port, or off")
    return check_address(text, where, any_port=True)


def _page_size(value: object, where: str) -> int:
    size = parse_size(value, where)
    if not 4 * KIB <= size <= MIB or size & (size - 1):
        raise ConfigError(
            f"{where}: {value!r} is no page size; write a power of two from 4 KiB to "
            "1 MiB, such as 64 KiB"
        )
    return size


# A dotted name in the yaml -> the field it sets and how its value is read.
_SETTINGS: Final[dict[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "network.address": ("address", _address),
    "network.name": ("name", parse_text),
    "network.auth_key": ("auth_key", parse_auth_key),
    "network.auth_key_file": ("auth_key", read_auth_key),
    "network.transport": ("transport", parse_transport),
    "network.workers": ("workers", whole_number(1, _MAX_WORKERS)),
    "network.max_connections": ("max_connections", whole_number(1, 1_000_000)),
    "network.admin_address": ("admin_address", admin_address),
    "network.drain_s": ("drain_s", parse_seconds),
    "rdma.devices": ("rdma_devices", parse_devices),
    "rdma.device": ("rdma_devices", parse_devices),
    "rdma.verbs_library": ("verbs_library", parse_text),
    "memory.max_size": ("memory", parse_size),
    "memory.page_size": ("page_size", _page_size),
    "memory.default_ttl_s": ("default_ttl_s", whole_number(0, _YEAR_S)),
}
# Known from the other product, and without a meaning here.
_IGNORED: Final = {
    "license": "none is needed",
    "memory.block_size": "values are kept in pages, see memory.page_size",
    "rdma.num_worker_threads": "network.workers says how many there are",
    "storage.block_size": "values are kept in memory, see memory.page_size",
}
_NO_TLS: Final = (
    "there is no TLS in the data path; remove it, and set network.auth_key so that "
    "only who has the key gets in"
)
# Known too, but to go on without them would not be what their author wants.
_REFUSED: Final = {
    "network.tls_cert": _NO_TLS,
    "network.tls_key": _NO_TLS,
    "storage.drives": "this build keeps values in memory only; remove it",
}
_TWICE: Final = {
    "auth_key": "network.auth_key and network.auth_key_file in {path}: only one of "
    "them can be the key",
    "rdma_devices": "rdma.device and rdma.devices in {path}: write one of them",
}
_MODE: Final = "storage.mode"
_EVICTION: Final = "storage.eviction.enabled"
_NAMES: Final = {*_SETTINGS, *_IGNORED, *_REFUSED, _MODE, _EVICTION}
_GROUPS: Final = {name.rpartition(".")[0] for name in _NAMES if "." in name}


def load(
    path: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServerConfig:
    """The settings in force.

    ``path`` is the yaml of ``--config``; ``overrides`` are fields of
    :class:`ServerConfig`, checked already (None: not given).  Logs an INFO line for
    each setting that means nothing here.
    """
    values = _from_environment(environ)
    if path is not None:
        values |= _from_yaml(path)
    values |= {k: v for k, v in (overrides or {}).items() if v is not None}
    return ServerConfig(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    key, path = "MEMKV_AUTH_KEY", "MEMKV_AUTH_KEY_FILE"
    if key in environ and path in environ:
        raise ConfigError(f"{key} and {path}: only one of them can be the key")
    if key in environ:
        return {"auth_key": parse_auth_key(environ[key], key)}
    if path in environ:
        return {"auth_key": read_auth_key(environ[path], path)}
    return {}


def _from_yaml(path: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in _flatten(read_yaml(path, "--config"), "", path):
        where = f"{name} in {path}"
        if name in _REFUSED:
            raise ConfigError(f"{where}: {_REFUSED[name]}")
        if name in _IGNORED:
            _log.info("%s is ignored: %s", where, _IGNORED[name])
        elif name == _MODE:
            _check_mode(value, where)
        elif name == _EVICTION:
            _check_eviction(value, where)
        else:
            target, parse = _SETTINGS[name]
            if target in values:
                raise ConfigError(_TWICE[target].format(path=path))
            values[target] = parse(value, where)
    return values


def _flatten(tree: Any, group: str, path: str) -> Iterator[tuple[str, Any]]:
    """The settings of a mapping by their dotted names, all of them known."""
    for key, value in tree.items():
        name = f"{group}{key}"
        if name in _GROUPS:
            # "network:" with nothing below it sets nothing
            if not isinstance(value, dict | None):
                raise ConfigError(
                    f"{name} in {path}: {value!r} is not a mapping of settings"
                )
            yield from _flatten(value or {}, f"{name}.", path)
        elif name in _NAMES:
            yield name, value
        else:
            raise unknown_setting(name, _NAMES, path)


def _check_mode(value: object, where: str) -> None:
    if value == "file":
        raise ConfigError(
            f"{where}: 'file' is not possible: this build keeps values in memory only; "
            "write memory"
        )
    if value == "direct":
        raise ConfigError(
            f"{where}: 'direct' is not possible: raw drives are never used, 'file' is "
            "what a later version will have; write memory"
        )
    if value != "memory":
        raise ConfigError(f"{where}: {value!r} is no storage mode; write memory")


def _check_eviction(value: object, where: str) -> None:
    if not parse_flag(value, where):
        raise ConfigError(
            f"{where}: false is not possible: a full server evicts what was used least "
            "recently; remove it"
        )
