# SPDX-License-Identifier: Apache-2.0
"""The adapter's own settings, and the client's that may stand beside them.  No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memkv_lmcache.config import KNOWN, ClientConfig, load
from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import (
    parse_flag,
    parse_seconds,
    parse_text,
    unknown_setting,
    whole_number,
)

_PLACE = "adapter_params"
_PREFIX, _NAMESPACE = "prefix", "namespace"
#: LMCache takes an object's memory back 300 s after it lent it for reading.
_MAX_GRACE = 240.0


def _grace(value: object, where: str) -> float:
    seconds = parse_seconds(value, where)
    if seconds > _MAX_GRACE:
        raise ConfigError(
            f"{where}: {value!r} is over {_MAX_GRACE:g} seconds; LMCache takes its "
            "memory back after 300"
        )
    return seconds


def _setting(default: Any, parse: Callable[[Any, str], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Settings:
    """What ``adapter_params`` says, all checked."""

    client: ClientConfig
    num_workers: int = _setting(4, whole_number(1, 64))
    """Threads for loads, and as many for stores."""
    blocks_per_op: int = _setting(32, whole_number(1, 1024))
    """Objects that a thread moves at a time."""
    load_failure_grace_s: float = _setting(0.0, _grace)
    """When a load or a store is over at the latest; default: ``load_timeout_s``."""
    lmcache_eviction: bool = _setting(False, parse_flag)
    """Let LMCache delete on the servers, for everybody."""


_OWN = {
    field.name: field.metadata["parse"]
    for field in dataclasses.fields(L2Settings)
    if field.metadata
}


def parse(params: Mapping[str, object]) -> L2Settings:
    """The settings in force, with the client's from its chain.

    ``prefix`` is another name of ``namespace``.  ConfigError: an unknown setting, or a
    value that cannot be.
    """
    known = {*_OWN, *KNOWN, _PREFIX}
    for name in params:
        if name not in known:
            raise unknown_setting(name, known, _PLACE)
    rest = {name: value for name, value in params.items() if name not in _OWN}
    if _PREFIX in rest:
        prefix = parse_text(rest.pop(_PREFIX), f"{_PREFIX} in {_PLACE}")
        if rest.setdefault(_NAMESPACE, prefix) != prefix:
            raise ConfigError(
                f"{_PREFIX} and {_NAMESPACE} in {_PLACE}: they are one setting, and "
                f"cannot be {prefix!r} and {rest[_NAMESPACE]!r}"
            )
    client = load(lmcache=rest)
    own = {
        name: read(params[name], f"{name} in {_PLACE}")
        for name, read in _OWN.items()
        if name in params
    }
    own.setdefault("load_failure_grace_s", min(client.load_timeout_s, _MAX_GRACE))
    return L2Settings(client=client, **own)


HELP = """\
MemKV's adapter_params, all optional:
- prefix (str): the namespace on the servers; objects of different ones never meet
- num_workers (int): threads for loads, and as many for stores (default 4)
- blocks_per_op (int): objects that a thread moves at a time (default 32)
- load_failure_grace_s (number): a load or a store is over by then (default: what
  load_timeout_s is, 10)
- lmcache_eviction (bool): let LMCache delete on the servers (default false)
- any setting of the client, such as servers or lookup_timeout_ms; see `memkv config`
"""
