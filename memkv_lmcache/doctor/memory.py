# SPDX-License-Identifier: Apache-2.0
"""Memory to be registered: how much, what may be locked, and what makes it cheaper."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from memkv_lmcache.doctor.findings import Finding, Level, ok, trouble
from memkv_lmcache.doctor.host import Host
from memkv_lmcache.doctor.mends import permanent_memlock
from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import read_yaml

_GIB = 1024**3
_DEFAULT_GIB = 5.0  # LMCache's own
VARIABLE, _FIELD = "LMCACHE_MAX_LOCAL_CPU_SIZE", "max_local_cpu_size"
_IPC_LOCK = 14
_WHOLE_RANGE = "4294967295"


class Wanted(NamedTuple):
    """Bytes to be registered, and who says so."""

    size: int
    source: str


def wanted_memory(environ: Mapping[str, str] = os.environ) -> Wanted:
    """LMCache's arena, as its own settings in force say.

    ConfigError: they are no number of GB.
    """
    path = environ.get("LMCACHE_CONFIG_FILE")
    if VARIABLE in environ:
        return _wanted(environ[VARIABLE], VARIABLE)
    if path is not None:
        found = read_yaml(path, "LMCACHE_CONFIG_FILE").get(_FIELD)
        if found is not None:
            return _wanted(found, f"{_FIELD} in {path}")
    return _wanted(_DEFAULT_GIB, "LMCache's default")


def _wanted(value: object, source: str) -> Wanted:
    try:
        size = int(float(str(value)) * _GIB)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(f"{source}: {value!r} is not a number of GB over 0")
    return Wanted(size, source)


def size_text(size: int) -> str:
    """Bytes for a human, rounded down: a limit must not look like more."""
    for unit, scale in (("TiB", 1024**4), ("GiB", _GIB), ("MiB", 1024**2)):
        if size >= scale:
            return f"{size * 10 // scale / 10:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size // 1024} KiB"


# ---- locked memory -------------------------------------------------------------------


def may_lock(host: Host, size: int) -> bool:
    """Whether the kernel lets us register so much."""
    limits = _limits(host)
    soft = limits[0] if limits else None
    return _is_lifted(host) or soft is None or soft >= size


def check_memlock(host: Host, wanted: Wanted) -> Finding:
    """RLIMIT_MEMLOCK, which a registration counts against."""
    limits = _limits(host)
    if _is_lifted(host):
        return ok("memlock", "CAP_IPC_LOCK lifts the limit of locked memory")
    if limits is None:
        return trouble(
            Level.NOTE, "memlock", "/proc/self/limits does not say it", ["ulimit -l"]
        )
    soft, hard = limits
    if soft is None:
        return ok("memlock", "locked memory is unlimited")
    need = size_text(wanted.size)
    if soft >= wanted.size:
        return ok("memlock", f"{_limit_text(soft)} may be locked, for {need}")
    text = (
        f"{_limit_text(soft)} may be locked (hard limit: {_limit_text(hard)}), but "
        f"{need} are to be registered ({wanted.source})"
    )
    mends = list(permanent_memlock(host.container))
    if hard is None or hard >= wanted.size:
        most = "unlimited" if hard is None else str(hard // 1024)
        mends.insert(0, f"ulimit -l {most}   (in the shell that starts the engine)")
    return trouble(Level.FAIL, "memlock", text, mends)


def _limits(host: Host) -> tuple[int | None, int | None] | None:
    """Soft and hard in bytes, None for unlimited."""
    pattern = r"Max locked memory\s+(\w+)\s+(\w+)"
    found = re.search(pattern, host.text("proc/self/limits"))
    if found is None:
        return None
    numbers = [int(n) if n.isdigit() else None for n in found.groups()]
    return numbers[0], numbers[1]


def _limit_text(limit: int | None) -> str:
    return "unlimited" if limit is None else size_text(limit)


def _is_lifted(host: Host) -> bool:
    """The kernel asks for the capability in its first user namespace: that of root in
    a rootless container does not count."""
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", host.text("proc/self/status"), re.M)
    ids = host.text("proc/self/uid_map").split()
    is_first = not ids or ids == ["0", "0", _WHOLE_RANGE]
    return found is not None and is_first and bool(int(found[1], 16) >> _IPC_LOCK & 1)


# ---- pages ---------------------------------------------------------------------------


def check_pages(host: Host, wanted: Wanted) -> list[Finding]:
    """Whether there is so much memory, and in how large pages."""
    memory = {
        name: int(number)
        for name, number in re.findall(r"(\w+):\s+(\d+)", host.text("proc/meminfo"))
    }
    return [
        *_check_total(memory.get("MemTotal", 0) * 1024, wanted),
        *_check_huge(memory, wanted),
        *_check_transparent(host),
    ]


def _check_total(total: int, wanted: Wanted) -> list[Finding]:
    if total == 0 or total >= wanted.size:
        return []
    text = (
        f"this host has {size_text(total)}, but {size_text(wanted.size)} are to be "
        f"registered ({wanted.source})"
    )
    mends = [f"{VARIABLE}=... (GB), or --memory ..., as there is"]
    return [trouble(Level.WARN, "memory", text, mends)]


def _check_huge(memory: Mapping[str, int], wanted: Wanted) -> list[Finding]:
    size = memory.get("Hugepagesize", 0) * 1024
    if size == 0:
        return []
    total, free = memory.get("HugePages_Total", 0), memory.get("HugePages_Free", 0)
    need = -(-wanted.size // size)
    said = f"{free} of {total} pages of {size_text(size)} are free"
    if free >= need:
        return [ok("huge pages", said)]
    text = f"{said}; with {need} free, registering and transfers take less time"
    pages = max(total - free, 0) + need
    mends = [f"sysctl vm.nr_hugepages={pages}   (memkv serve takes them)"]
    return [trouble(Level.NOTE, "huge pages", text, mends)]


def _check_transparent(host: Host) -> list[Finding]:
    path = "sys/kernel/mm/transparent_hugepage/enabled"
    found = re.search(r"\[(\w+)\]", host.text(path))
    if found is None:
        return []
    subject = "transparent huge pages"
    if found[1] != "never":
        return [ok(subject, found[1])]
    text = "never: memory is registered in pages of 4 KiB, which takes longer"
    return [trouble(Level.NOTE, subject, text, [f"echo madvise > /{path}"])]
