# SPDX-License-Identifier: Apache-2.0
"""The RDMA devices as the verbs library shows them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from memkv_lmcache.doctor.findings import Finding, Level, ok, trouble
from memkv_lmcache.doctor.host import Host
from memkv_lmcache.doctor.memory import VARIABLE, Wanted, size_text
from memkv_lmcache.doctor.mends import (
    BUILD,
    DOCKER,
    INSTALL,
    KUBERNETES,
    LIBRARY_SETTING,
    OPENSM,
)

_PIECE = 1024**3
_ANY_CHUNK = 4 * 64 * 1024**2  # LMCache's largest have 60 MiB, and may lie across two
_MTU = 4096
_FRAME = 4200  # carries 4096 bytes and all headers
_SHOWN = 3  # GIDs of a port
_LINKS = {"ethernet": "Ethernet", "infiniband": "InfiniBand"}


class Gid(TypedDict):
    """An address of a port; ``type`` is ``RoCE v2``, ``RoCE v1`` or ``InfiniBand``."""

    index: int
    type: str
    address: str


class Port(TypedDict):
    """``mtu`` is the active one in bytes."""

    number: int
    state: str
    link: str
    mtu: int
    speed_gbps: float
    gids: list[Gid]


class Device(TypedDict):
    """``error``: why it cannot be used; then the rest may be empty."""

    name: str
    kind: str
    error: str
    firmware: str
    max_mr_size: int
    max_mr: int
    max_qp: int
    ports: list[Port]


class Chosen(TypedDict):
    """What a connection would use."""

    device: str
    port: int
    gid_index: int


class Described(TypedDict):
    """What ``_ffi.describe_rdma`` tells as JSON."""

    library: str
    devices: list[Device]
    chosen: Chosen | None
    reason: str


def check_library(described: Described | None, why: str, is_set: bool) -> Finding:
    """``described`` None: there is no library, ``why`` says the reason.  ``is_set``:
    the user names the library."""
    subject = "verbs library"
    if described is not None:
        return ok(subject, f"{described['library']} loads")
    mends: Sequence[str] = INSTALL
    if "build has no RDMA" in why:
        mends = BUILD
    elif is_set:
        mends = (*LIBRARY_SETTING, *INSTALL)
    return trouble(Level.FAIL, subject, why, mends)


def usable(devices: Iterable[Device], named: Collection[str]) -> list[Device]:
    """Those that can be used; with ``named`` devices, only those."""
    return [
        device
        for device in devices
        if not device["error"] and (not named or device["name"] in named)
    ]


def check_devices(
    host: Host, devices: Sequence[Device], named: Sequence[str], wanted: Wanted
) -> list[Finding]:
    """``named``: the setting ``rdma_devices``, empty if it is not set."""
    findings = _check_names(devices, named)
    if not devices and host.devices:
        findings.append(_unseen(host))
    good = usable(devices, named)
    is_up = any(
        _is_up(port) and port["gids"] for device in good for port in device["ports"]
    )
    for device in sorted(devices, key=lambda device: device["name"]):
        is_meant = not named or device["name"] in named
        worst = Level.FAIL if is_meant else Level.NOTE
        if device["error"]:
            is_needed = device["name"] in named or not good
            level = worst if is_needed else min(worst, Level.WARN)
            findings.append(_unusable(host, device, level))
            continue
        findings.append(_check_size(device, wanted, worst))
        level = min(worst, Level.WARN) if is_up else worst
        for port in device["ports"]:
            netdev = host.netdev(device["name"], port["number"])
            findings += _check_port(device, port, netdev, level)
    return findings


def _check_names(devices: Sequence[Device], named: Sequence[str]) -> list[Finding]:
    known = [device["name"] for device in devices]
    missing = [name for name in named if name not in known]
    if not missing:
        return []
    text = f"there is no device {', '.join(missing)}; there is: " + (
        ", ".join(known) or "none"
    )
    mends = [f"MEMKV_RDMA_DEVICES={known[0]}"] if known else []
    mends.append("or remove rdma_devices: they are found by the address in use")
    return [trouble(Level.FAIL, "rdma_devices", text, mends)]


def _unseen(host: Host) -> Finding:
    text = f"the verbs library shows none of the kernel's: {', '.join(host.devices)}"
    mends = ("apt-get install ibverbs-providers   (the drivers' other half)",)
    return trouble(Level.FAIL, "devices", text, (*mends, *_pass_in(host)))


def _pass_in(host: Host) -> tuple[str, ...]:
    if host.container == "kubernetes":
        return KUBERNETES
    return DOCKER if host.container else ()


def _unusable(host: Host, device: Device, level: Level) -> Finding:
    error = device["error"]
    if device["kind"] != "ib":
        mends: Sequence[str] = ("use a NIC with RoCE or InfiniBand, or Soft-RoCE",)
    elif "memory" in error:
        mends = ("ulimit -l unlimited", *_pass_in(host))
    else:
        mends = _pass_in(host) or (
            "chmod a+rw /dev/infiniband/uverbs*; rdma-core's udev rules do so",
            f"dmesg | grep -i {device['name']}",
        )
    return trouble(level, device["name"], error, mends)


def _check_size(device: Device, wanted: Wanted, level: Level) -> Finding:
    """Memory is registered in pieces, as large as the device takes up to ``_PIECE``."""
    text = f"firmware {device['firmware'] or 'unknown'}"
    most = device["max_mr_size"]
    piece = min(most, _PIECE) if most > 0 else _PIECE
    n = -(-wanted.size // piece)
    if 0 < device["max_mr"] < n:
        text += (
            f"; registers {device['max_mr']} pieces of {size_text(piece)}, but "
            f"{size_text(wanted.size)} are to be registered ({wanted.source})"
        )
        mends = [f"{VARIABLE}={device['max_mr'] * piece // 1024**3} or less"]
        return trouble(level, device["name"], text, mends)
    if piece < _ANY_CHUNK:
        text += (
            f"; registers {size_text(most)} at once, so that values over "
            f"{size_text(most // 4)} may travel by the stream"
        )
        mends = ["LMCACHE_CHUNK_SIZE=..., so that a chunk is no larger"]
        return trouble(min(level, Level.NOTE), device["name"], text, mends)
    return ok(device["name"], f"{text}, registers memory of any size")


# ---- ports ---------------------------------------------------------------------------


def _is_up(port: Port) -> bool:
    return port["state"] == "active"


def _check_port(device: Device, port: Port, netdev: str, level: Level) -> list[Finding]:
    """``level``: of a port that carries nothing."""
    subject = f"{device['name']} port {port['number']}"
    link = _LINKS.get(port["link"], port["link"])
    if not _is_up(port):
        text = f"{port['state']}, {link}" + (f" on {netdev}" if netdev else "")
        return [trouble(level, subject, text, _raise_port(port, netdev))]
    text = f"active, {link}" + (f" on {netdev}" if netdev else "")
    text += f", MTU {port['mtu']}, {port['speed_gbps']:g} Gbit/s, {_gids_text(port)}"
    is_roce = port["link"] == "ethernet"
    device_text = netdev or "NETDEV"
    if not port["gids"]:
        mends = [f"ip addr add ADDRESS/24 dev {device_text}"] if is_roce else OPENSM
        return [trouble(level, subject, text, mends)]
    if is_roce and not any(gid["type"] == "RoCE v2" for gid in port["gids"]):
        text += "; without RoCE v2 it reaches only hosts of the same Ethernet segment"
        mends = [
            f"ip addr add ADDRESS/24 dev {device_text}, if it has none",
            "else a NIC, firmware or driver option that gives RoCE v2",
        ]
        return [trouble(min(level, Level.WARN), subject, text, mends)]
    if is_roce and 0 < port["mtu"] < _MTU:
        text += "; packets of 4096 bytes would cost less"
        mends = [
            f"ip link set {device_text} mtu {_FRAME}, or 9000, on both hosts and the "
            "switches between"
        ]
        return [trouble(Level.NOTE, subject, text, mends)]
    return [ok(subject, text)]


def _raise_port(port: Port, netdev: str) -> Sequence[str]:
    if port["link"] == "infiniband" and port["state"] in ("init", "armed"):
        return OPENSM
    if port["link"] == "infiniband":
        return ("plug in the cable, and look at the switch: ibstat",)
    device = netdev or "NETDEV"
    return (f"ip link set {device} up", f"or mend the cable: ethtool {device}")


def _rank(gid: Gid) -> tuple[bool, bool]:
    """The likeliest to be used first."""
    return gid["type"] != "RoCE v2", gid["address"].startswith("fe80:")


def _gids_text(port: Port) -> str:
    gids = sorted(port["gids"], key=_rank)
    shown = [f"{gid['type']} {gid['address']}" for gid in gids[:_SHOWN]]
    if len(gids) > _SHOWN:
        shown.append(f"{len(gids) - _SHOWN} more GIDs")
    return ", ".join(shown) or "no GID"


def chosen_text(described: Mapping[str, Any], chosen: Chosen) -> str:
    """A choice for a human: ``mlx5_0 port 1, GID 3 (RoCE v2, 192.0.2.7)``."""
    text = f"{chosen['device']} port {chosen['port']}, GID {chosen['gid_index']}"
    for device in described["devices"]:
        for port in device["ports"]:
            for gid in port["gids"]:
                where = (device["name"], port["number"], gid["index"])
                if where == (chosen["device"], chosen["port"], chosen["gid_index"]):
                    return f"{text} ({gid['type']}, {gid['address']})"
    return text
