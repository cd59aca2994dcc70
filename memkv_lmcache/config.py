# SPDX-License-Identifier: Apache-2.0
"""The client's settings: where they come from and what they may be.  No I/O but files.

A setting is looked for in the call's arguments, LMCache's own configuration, the
``MEMKV_*`` variables, the yaml that ``MEMKV_CONFIG`` names, and the defaults, in this
order.  What is wrong is a :class:`ConfigError` that names the setting and its place.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memkv_lmcache.addresses import ServerAddress, check_address, parse_servers
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

__all__ = [
    "KNOWN",
    "ClientConfig",
    "Explained",
    "ServerAddress",
    "explain",
    "load",
    "parse_size",
]

_log = logging.getLogger(__name__)

_PREFIX = "MEMKV_"
_FILE = "MEMKV_CONFIG"


def _namespace(value: object, where: str) -> str:
    text = parse_text(value, where)
    if len(text.encode("utf-8", "replace")) > 128:
        raise ConfigError(f"{where}: {text!r} is over 128 bytes of UTF-8")
    return text


def _bind(value: object, where: str) -> str:
    text = parse_text(value, where)
    if text.startswith("unix:"):
        raise ConfigError(f"{where}: {text!r}: metrics are served on host:port only")
    return check_address(text, where, any_port=True)


def _setting(default: Any, parse: Callable[[Any, str], Any], **kwargs: Any) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse}, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """A client's settings, all checked; ``MEMKV_<NAME>`` in the environment."""

    servers: tuple[ServerAddress, ...] = _setting(
        (ServerAddress("127.0.0.1:9900", "127.0.0.1:9900"),), parse_servers
    )
    namespace: str = _setting("", _namespace)
    """Up to 128 bytes of UTF-8; keys of different namespaces never meet."""
    transport: str = _setting("auto", parse_transport)
    """``auto``: RDMA where it works, else the stream; ``tcp``: the stream; ``rdma``: a
    server without RDMA counts as down."""
    rdma_devices: str | None = _setting(None, parse_devices)
    """``mlx5_0,mlx5_1``; None: chosen by the address."""
    verbs_library: str | None = _setting(None, parse_text)
    """A file; None: ``libibverbs.so.1``."""
    auth_key: bytes | None = _setting(None, parse_auth_key, repr=False)
    """32 bytes, also set by ``auth_key_file``; None for open servers."""
    num_connections: int = _setting(4, whole_number(1, 64))
    """For payload, to each server; one more carries the rest."""
    prometheus_bind: str | None = _setting(None, _bind)
    """``host:port`` for the client's metrics; taken: the next free one of 64 ports."""
    lookup_timeout_ms: int = _setting(50, whole_number(1, 60_000))
    """The plugin: after it a lookup is a miss."""
    load_timeout_s: float = _setting(10.0, parse_seconds)
    """The plugin: after it a load or a put has failed."""
    lease_ms: int = _setting(60_000, whole_number(0, 600_000))
    """The plugin: how long a lookup with ``pin`` keeps what it found."""
    put_queue_size: int = _setting(256 * 1024**2, parse_size)
    """The plugin: bytes waiting to be stored; beyond it puts are dropped."""
    layerwise: bool = _setting(False, parse_flag)
    """The plugin: serve layer keys, at the price that a failed load raises."""
    allow_clear: bool = _setting(False, parse_flag)
    """The plugin: let LMCache's ``clear`` empty the namespace on the servers."""


class Explained(NamedTuple):
    """One setting as ``memkv config`` shows it; a secret's value is hidden."""

    name: str
    value: str
    source: str


_FIELDS = {field.name: field for field in dataclasses.fields(ClientConfig)}
_KEY, _KEY_FILE = "auth_key", "auth_key_file"
_IGNORED = {
    "license": "none is needed",
    "otel_endpoint": "there is no OpenTelemetry export",
}
KNOWN = frozenset({*_FIELDS, _KEY_FILE, *_IGNORED})
"""Every setting that :func:`load` takes."""
# LMCache's own, beside which ours stand
_LMCACHE_OWN = {"module_path", "class_name"}


@dataclass(frozen=True, slots=True)
class _Layer:
    """One place of the chain and what it holds."""

    values: Mapping[str, object]
    place: str
    is_environment: bool = False

    def where(self, name: str) -> str:
        """The setting as its user knows it."""
        return _variable(name) if self.is_environment else f"{name} in {self.place}"

    def source(self, name: str) -> str:
        return _variable(name) if self.is_environment else self.place


def load(
    overrides: Mapping[str, object] | None = None,
    lmcache: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ClientConfig:
    """The settings in force.

    ``overrides`` are a call's arguments (None: not given); ``lmcache`` is what
    LMCache's configuration holds under ``storage_plugin.<name>.``, without that prefix.
    Logs an INFO line for each setting that means nothing here, and a WARNING for an
    unknown ``MEMKV_*`` variable.  ConfigError: see the module.
    """
    layers = _layers(overrides, lmcache, environ)
    for name, reason in _IGNORED.items():
        for layer in layers:
            if name in layer.values:
                _log.info("%s is ignored: %s", layer.where(name), reason)
    return ClientConfig(
        **{name: value for name, (value, _) in _resolve(layers).items()}
    )


def explain(
    overrides: Mapping[str, object] | None = None,
    lmcache: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Explained, ...]:
    """Every setting with its value and where it came from, as :func:`load` sees it."""
    resolved = _resolve(_layers(overrides, lmcache, environ))
    return tuple(
        Explained(name, _shown(name, value), source)
        for name, (value, source) in resolved.items()
    )


def _layers(
    overrides: Mapping[str, object] | None,
    lmcache: Mapping[str, object] | None,
    environ: Mapping[str, str],
) -> list[_Layer]:
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    own = {k: v for k, v in (lmcache or {}).items() if k not in _LMCACHE_OWN}
    layers = [
        _Layer(given, "the call's arguments"),
        _Layer(own, "LMCache's configuration"),
        _Layer(_variables(environ), "the environment", is_environment=True),
    ]
    path = environ.get(_FILE)
    if path is not None:
        layers.append(_Layer(read_yaml(path, _FILE), path))
    for layer in layers:
        for name in layer.values:
            if name not in KNOWN:
                raise unknown_setting(name, KNOWN, layer.place)
    return layers


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _variables(environ: Mapping[str, str]) -> dict[str, object]:
    known = {_variable(name): name for name in KNOWN}
    found: dict[str, object] = {}
    for variable, value in environ.items():
        if variable in known:
            found[known[variable]] = value
        elif variable.startswith(_PREFIX) and variable != _FILE:
            nearest = difflib.get_close_matches(variable, [*known, _FILE], n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            _log.warning("%s is no setting of MemKV%s", variable, hint)
    return found


def _resolve(layers: Sequence[_Layer]) -> dict[str, tuple[Any, str]]:
    resolved: dict[str, tuple[Any, str]] = {}
    for name, field in _FIELDS.items():
        resolved[name] = field.default, "default"
        for layer in layers:
            if name == _KEY and _KEY_FILE in layer.values:
                if _KEY in layer.values:
                    raise ConfigError(
                        f"{layer.where(_KEY)} and {layer.where(_KEY_FILE)}: "
                        "only one of them can be the key"
                    )
                key = read_auth_key(layer.values[_KEY_FILE], layer.where(_KEY_FILE))
                resolved[name] = key, layer.source(_KEY_FILE)
                break
            if name in layer.values:
                parse = field.metadata["parse"]
                value = parse(layer.values[name], layer.where(name))
                resolved[name] = value, layer.source(name)
                break
    return resolved


def _shown(name: str, value: object) -> str:
    if value is None:
        return "none"
    if name == _KEY:
        return "(set)"
    if isinstance(value, tuple):
        return ",".join(
            server.address if server.name == server.address else "=".join(server)
            for server in value
        )
    return str(value).lower() if isinstance(value, bool) else str(value)
