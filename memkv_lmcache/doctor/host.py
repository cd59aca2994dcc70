# SPDX-License-Identifier: Apache-2.0
"""This host's kernel and container: modules, drivers, device files.

All that the kernel says is read below a root, so that tests can build one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from memkv_lmcache.doctor.findings import Finding, Level, ok, trouble
from memkv_lmcache.doctor.mends import DOCKER, KUBERNETES, soft_roce

_DEVICES = "sys/class/infiniband"
_NODES = "dev/infiniband"
# PCI vendors of NICs with RDMA, and the module that gives it
_VENDORS = {
    "0x15b3": "mlx5_ib",
    "0x14e4": "bnxt_re",
    "0x8086": "irdma",
    "0x1077": "qedr",
}
_NETWORK_CLASSES = ("0x0200", "0x0207")
_CGROUPS = {
    "kubepods": "kubernetes",
    "docker": "docker",
    "libpod": "podman",
    "containerd": "containerd",
    "lxc": "lxc",
}


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


class Host:
    """What the files below ``root`` say.  What cannot be read is not there."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        environ: Mapping[str, str] = os.environ,
        may_use: Callable[[Path], bool] = _may_use,
    ) -> None:
        self._root = root
        self._environ = environ
        self._may_use = may_use

    def text(self, path: str) -> str:
        """A file's text without white space around it."""
        try:
            return (self._root / path).read_text("utf-8", "replace").strip()
        except (OSError, ValueError):
            return ""

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted."""
        try:
            return sorted(os.listdir(self._root / path))
        except (OSError, ValueError):
            return []

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self._root / path).exists()

    def link(self, path: str) -> str:
        """The last name of what a symbolic link points to."""
        try:
            return Path(os.readlink(self._root / path)).name
        except (OSError, ValueError):
            return ""

    @property
    def devices(self) -> list[str]:
        """The RDMA devices that the kernel has."""
        return self.names(_DEVICES)

    @property
    def container(self) -> str:
        """The kind of container that we run in; empty: none, as far as can be seen."""
        if "KUBERNETES_SERVICE_HOST" in self._environ or self.has(
            "var/run/secrets/kubernetes.io"
        ):
            return "kubernetes"
        for path, kind in (
            (".dockerenv", "docker"),
            ("run/.containerenv", "podman"),
        ):
            if self.has(path):
                return kind
        cgroup = self.text("proc/1/cgroup")
        return next((kind for mark, kind in _CGROUPS.items() if mark in cgroup), "")

    @property
    def usable_nodes(self) -> list[str]:
        """The device files that we may open."""
        nodes = [name for name in self.names(_NODES) if name.startswith("uverbs")]
        return [name for name in nodes if self._may_use(self._root / _NODES / name)]

    @property
    def all_nodes(self) -> list[str]:
        """The device files."""
        return [name for name in self.names(_NODES) if name.startswith("uverbs")]

    def netdev(self, device: str, port: int) -> str:
        """The network interface of a port; empty: unknown."""
        folder = f"{_DEVICES}/{device}"
        beside = self.names(f"{folder}/device/net")
        return (
            self.text(f"{folder}/ports/{port}/gid_attrs/ndevs/0")
            or next(iter(beside), "")
            or self.text(f"{folder}/parent")
        )

    def any_netdev(self) -> str:
        """An interface that Soft-RoCE could use, the likeliest first."""
        names = [name for name in self.names("sys/class/net") if name != "lo"]
        real = [n for n in names if self.has(f"sys/class/net/{n}/device")]
        up = [n for n in names if self.text(f"sys/class/net/{n}/operstate") == "up"]
        return next(iter([*(n for n in real if n in up), *up, *real]), "eth0")

    def idle_nic(self) -> str:
        """The module for a NIC that may have RDMA but no driver for it; or empty."""
        for slot in self.names("sys/bus/pci/devices"):
            folder = f"sys/bus/pci/devices/{slot}"
            if self.text(f"{folder}/class")[:6] in _NETWORK_CLASSES:
                module = _VENDORS.get(self.text(f"{folder}/vendor"))
                if module is not None:
                    return module
        return ""


def check_kernel(host: Host, is_seen: bool) -> list[Finding]:
    """Modules and drivers.  ``is_seen``: the verbs library uses a device already, so
    that nothing of this can be in the way."""
    level = Level.NOTE if is_seen else Level.FAIL
    return [_check_verbs(host, level), _check_driver(host, level)]


def _check_verbs(host: Host, level: Level) -> Finding:
    if host.has("sys/class/infiniband_verbs") or host.has("sys/module/ib_uverbs"):
        return ok("kernel", "ib_uverbs is there")
    mends = [_outside(host, "modprobe ib_uverbs")]
    return trouble(level, "kernel", "the module ib_uverbs is not loaded", mends)


def _outside(host: Host, command: str) -> str:
    return f"on the host, not in here: {command}" if host.container else command


def _check_driver(host: Host, level: Level) -> Finding:
    if host.devices:
        named = []
        for device in host.devices:
            driver = host.link(f"{_DEVICES}/{device}/device/driver")
            below = host.text(f"{_DEVICES}/{device}/parent")
            if below:
                driver = f"Soft-RoCE on {below}"
            named.append(f"{device} ({driver})" if driver else device)
        return ok("driver", ", ".join(named))
    module = host.idle_nic()
    mends = [_outside(host, soft_roce(host.any_netdev()))]
    text = "the kernel has no RDMA device"
    if module:
        text += f"; there is a NIC that may be one, with the module {module}"
        mends.insert(0, _outside(host, f"modprobe {module}"))
    return trouble(level, "driver", text, mends)


def check_nodes(host: Host, is_seen: bool) -> list[Finding]:
    """The files by which a process reaches the devices; none where there is no device
    to be reached."""
    if not host.devices:
        return []
    found, usable = host.all_nodes, host.usable_nodes
    if found and len(usable) == len(found):
        return [ok("/dev/infiniband", f"{', '.join(found)}: can be opened")]
    is_bad = not usable and not is_seen
    level = Level.FAIL if is_bad else Level.NOTE
    if not found:
        text = "no uverbs file there, though the kernel has devices"
        mends = _container_mends(host) or ["modprobe ib_uverbs && udevadm settle"]
        return [trouble(level, "/dev/infiniband", text, mends)]
    closed = ", ".join(name for name in found if name not in usable)
    text = f"no permission to read and write {closed}"
    mends = _container_mends(host) or [
        "apt-get install rdma-core   (its udev rules open them to all)",
        "or: chmod a+rw /dev/infiniband/uverbs*",
    ]
    return [trouble(level, "/dev/infiniband", text, mends)]


def _container_mends(host: Host) -> list[str]:
    if host.container == "kubernetes":
        return list(KUBERNETES)
    return list(DOCKER) if host.container else []


def check_container(host: Host, may_lock: bool) -> list[Finding]:
    """What a container has to be given.  ``may_lock``: enough memory, as it is."""
    kind = host.container
    if not kind:
        return []
    lacks = [] if host.all_nodes else ["/dev/infiniband"]
    if not may_lock:
        lacks.append("the right to lock memory")
    if not lacks:
        return [ok("container", f"{kind}; it has the devices, and may lock memory")]
    text = f"this is a container ({kind}) without {' and without '.join(lacks)}"
    return [trouble(Level.NOTE, "container", text, _container_mends(host))]
