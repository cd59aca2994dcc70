"""How much may be registered, by the kernel's rules, and what raises it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkv_lmcache.doctor.findings import Level
from memkv_lmcache.doctor.host import Host
from memkv_lmcache.doctor.memory import (
    Wanted,
    check_memlock,
    check_pages,
    may_lock,
    size_text,
    wanted_memory,
)
from memkv_lmcache.errors import ConfigError

from .trees import (
    GIB,
    ROOT_CAPS,
    assert_mended,
    build,
    limits,
    meminfo,
    only,
    status,
)

FIVE = Wanted(5 * GIB, "LMCache's default")
LITTLE = {"proc/self/limits": limits("8388608", "8388608")}


def host(root: Path, files: dict[str, str | None], **environ: str) -> Host:
    return Host(build(root, files), environ=environ)


# ---- how much ------------------------------------------------------------------------


def test_the_memory_is_what_lmcache_will_allocate(tmp_path: Path) -> None:
    """The variable wins over the file, the file over LMCache's default of 5 GiB."""
    path = tmp_path / "lmcache.yaml"
    path.write_text("chunk_size: 256\nmax_local_cpu_size: 2.5\n")
    named = {"LMCACHE_CONFIG_FILE": str(path)}
    assert wanted_memory({}) == FIVE
    assert wanted_memory(named).size == 5 * GIB // 2
    assert str(path) in wanted_memory(named).source
    wanted = wanted_memory({**named, "LMCACHE_MAX_LOCAL_CPU_SIZE": "80"})
    assert wanted == Wanted(80 * GIB, "LMCACHE_MAX_LOCAL_CPU_SIZE")
    path.write_text("chunk_size: 256\n")
    assert wanted_memory(named) == FIVE


@pytest.mark.parametrize("value", ["lots", "-1", "0", "nan", "inf", ""])
def test_a_size_that_is_none_is_named(value: str) -> None:
    """As any other wrong setting."""
    with pytest.raises(ConfigError, match="LMCACHE_MAX_LOCAL_CPU_SIZE"):
        wanted_memory({"LMCACHE_MAX_LOCAL_CPU_SIZE": value})


def test_a_limit_never_looks_like_more() -> None:
    """Sizes are rounded down."""
    assert size_text(5 * GIB - 1) == "4.9 GiB"
    assert size_text(5 * GIB) == "5 GiB"
    assert size_text(64 * 1024) == "64 KiB"


# ---- locked memory -------------------------------------------------------------------


def test_a_low_limit_is_a_fault_with_its_settings(tmp_path: Path) -> None:
    """Where the hard limit is low as well, only its owner can raise it."""
    low = host(tmp_path, LITTLE)
    found = check_memlock(low, FIVE)
    assert_mended(found, Level.FAIL, "LimitMEMLOCK=infinity", "limits.conf")
    assert "8 MiB" in found.text
    assert "5 GiB" in found.text
    assert "ulimit" not in found.mend
    assert not may_lock(low, FIVE.size)


@pytest.mark.parametrize(
    ("hard", "command"),
    [("unlimited", "ulimit -l unlimited"), (str(8 * GIB), "ulimit -l 8388608")],
)
def test_a_soft_limit_can_be_raised_by_its_user(
    tmp_path: Path, hard: str, command: str
) -> None:
    """To the hard one, by ulimit, which counts in KiB."""
    files: dict[str, str | None] = {"proc/self/limits": limits("8388608", hard)}
    assert_mended(check_memlock(host(tmp_path, files), FIVE), Level.FAIL, command)


@pytest.mark.parametrize("soft", ["unlimited", str(5 * GIB)])
def test_a_limit_that_suffices_is_fine(tmp_path: Path, soft: str) -> None:
    """Also to the byte."""
    enough = host(tmp_path, {"proc/self/limits": limits(soft, "unlimited")})
    assert check_memlock(enough, FIVE).level is Level.OK
    assert may_lock(enough, FIVE.size)


def test_the_capability_lifts_the_limit(tmp_path: Path) -> None:
    """CAP_IPC_LOCK, and no other one."""
    files = {**LITTLE, "proc/self/status": status(f"{1 << 14:016x}")}
    assert check_memlock(host(tmp_path, files), FIVE).level is Level.OK
    others = {**LITTLE, "proc/self/status": status(f"{~(1 << 14) & (1 << 40) - 1:x}")}
    assert check_memlock(host(tmp_path, others), FIVE).level is Level.FAIL


def test_root_of_a_rootless_container_lifts_nothing(tmp_path: Path) -> None:
    """The kernel asks for the capability in its first user namespace."""
    files = {
        **LITTLE,
        "proc/self/status": status(ROOT_CAPS),
        "proc/self/uid_map": "         0       1000          1\n",
    }
    assert check_memlock(host(tmp_path, files), FIVE).level is Level.FAIL


def test_in_a_container_the_limit_comes_from_outside(tmp_path: Path) -> None:
    """Flags of docker run, or a pod's capabilities."""
    files: dict[str, str | None] = {**LITTLE, ".dockerenv": ""}
    docker = check_memlock(host(tmp_path, files), FIVE)
    assert_mended(docker, Level.FAIL, "--ulimit memlock=-1")
    pod = check_memlock(host(tmp_path, files, KUBERNETES_SERVICE_HOST="x"), FIVE)
    assert_mended(pod, Level.FAIL, "add: [IPC_LOCK]", "systemctl edit containerd")


def test_a_proc_that_says_nothing_is_said(tmp_path: Path) -> None:
    """No fault is made up, and no exception."""
    files: dict[str, str | None] = {"proc/self/limits": None, "proc/meminfo": None}
    files["sys/kernel/mm/transparent_hugepage"] = None
    bare = host(tmp_path, files)
    assert_mended(check_memlock(bare, FIVE), Level.NOTE, "ulimit -l")
    assert check_pages(bare, FIVE) == []


# ---- pages ---------------------------------------------------------------------------


def test_huge_pages_are_counted_in_full(tmp_path: Path) -> None:
    """Those in use stay; what is free is part of what is needed."""
    files: dict[str, str | None] = {"proc/meminfo": meminfo(huge=100, free=60)}
    found = only(check_pages(host(tmp_path, files), FIVE), "huge pages")
    assert_mended(found, Level.NOTE, f"sysctl vm.nr_hugepages={40 + 2560} ")
    enough = host(tmp_path, {"proc/meminfo": meminfo(huge=2600, free=2560)})
    assert only(check_pages(enough, FIVE), "huge pages").level is Level.OK


def test_more_than_there_is_is_warned_of(tmp_path: Path) -> None:
    """It cannot be registered, whatever the limits say."""
    small = host(tmp_path, {"proc/meminfo": meminfo(total_gib=4)})
    found = only(check_pages(small, FIVE), "memory")
    assert_mended(found, Level.WARN, "LMCACHE_MAX_LOCAL_CPU_SIZE")


def test_transparent_huge_pages_that_are_off_are_noted(tmp_path: Path) -> None:
    """With the command that lets memkv have them."""
    path = "sys/kernel/mm/transparent_hugepage/enabled"
    off = host(tmp_path, {path: "always madvise [never]"})
    found = only(check_pages(off, FIVE), "transparent huge pages")
    assert_mended(found, Level.NOTE, f"echo madvise > /{path}")
