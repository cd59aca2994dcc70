"""Hosts made of files: what the kernel would say in /proc, /sys and /dev."""

from __future__ import annotations

from pathlib import Path

from memkv_lmcache.doctor.findings import Finding, Level

GIB = 1024**3
NOBODY, ROOT_CAPS = "0000000000000000", "000001ffffffffff"


def limits(soft: str, hard: str) -> str:
    """/proc/self/limits, of which one line matters."""
    return (
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max open files            1024                 1048576              files\n"
        f"Max locked memory         {soft:<20} {hard:<20} bytes\n"
    )


def status(capabilities: str) -> str:
    """/proc/self/status."""
    return f"Name:\tmemkv\nCapInh:\t{NOBODY}\nCapEff:\t{capabilities}\n"


def meminfo(total_gib: int = 64, huge: int = 0, free: int = 0) -> str:
    """/proc/meminfo."""
    return (
        f"MemTotal:       {total_gib * 1024**2} kB\nMemFree:  100 kB\n"
        f"HugePages_Total:    {huge}\nHugePages_Free:     {free}\n"
        "Hugepagesize:       2048 kB\n"
    )


HEALTHY = {
    "sys/class/infiniband_verbs/abi_version": "6",
    "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0": "ens1",
    "sys/class/infiniband/mlx5_0/device/net/ens1/mtu": "9000",
    "dev/infiniband/uverbs0": "",
    "dev/infiniband/rdma_cm": "",
    "proc/self/limits": limits("unlimited", "unlimited"),
    "proc/self/status": status(NOBODY),
    "proc/self/uid_map": "         0          0 4294967295",
    "proc/1/cgroup": "0::/init.scope\n",
    "proc/meminfo": meminfo(huge=4096, free=4096),
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
}


def build(root: Path, files: dict[str, str | None]) -> Path:
    """A healthy host but for ``files``; None: it is not there, nor is what is below."""
    gone = [path for path, text in files.items() if text is None]
    for path, text in {**HEALTHY, **files}.items():
        if text is None or any(path.startswith(f"{each}/") for each in gone):
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def only(findings: list[Finding], subject: str) -> Finding:
    """The one finding of a subject."""
    [found] = [finding for finding in findings if finding.subject == subject]
    return found


def assert_mended(finding: Finding, level: Level, *commands: str) -> None:
    """It is that bad, and each of ``commands`` is part of a line that mends it."""
    assert finding.level is level
    for command in commands:
        assert any(command in line for line in finding.mend.splitlines()), finding
