# SPDX-License-Identifier: Apache-2.0
"""Commands and settings that mend things, where more than one finding needs them."""

from __future__ import annotations

INSTALL = (
    "apt-get install libibverbs1 ibverbs-providers   (Debian, Ubuntu)",
    "dnf install libibverbs   (Fedora, RHEL)",
)
BUILD = (
    "apt-get install libibverbs-dev, then install memkv again   (Debian, Ubuntu)",
    "dnf install rdma-core-devel, then install memkv again   (Fedora, RHEL)",
)
LIBRARY_SETTING = ("remove the setting verbs_library: memkv config shows where it is",)
DOCKER = (
    "docker run --device /dev/infiniband --cap-add IPC_LOCK --ulimit memlock=-1 "
    "--network host ...",
)
KUBERNETES = (
    "an RDMA device plugin, and its resource in the pod's resources.limits",
    "securityContext: {capabilities: {add: [IPC_LOCK]}}",
)
NAME_DEVICES = (
    "name the server by its address in the RDMA NIC's network, see ip route",
    "or MEMKV_RDMA_DEVICES=..., a device that reaches it all the same",
)
THERE = ("on the server's host: memkv doctor",)
SERVE_DEVICES = (
    *THERE,
    "there: memkv serve --rdma-devices NAME, or --address in its RDMA NIC's network",
)
UDP_PORT = (
    "on both hosts: iptables -I INPUT -p udp --dport 4791 -j ACCEPT",
    "the MTU of the whole path carries 4200 bytes: ping -M do -s 4172 HOST",
)
OPENSM = ("start a subnet manager in the fabric: systemctl start opensm",)


def soft_roce(netdev: str) -> str:
    """RDMA over a NIC that has none, to try it."""
    return f"modprobe rdma_rxe && rdma link add rxe0 type rxe netdev {netdev}"


def permanent_memlock(container: str) -> tuple[str, ...]:
    """What raises the hard limit of locked memory, where we run."""
    if container == "kubernetes":
        return (KUBERNETES[1], "LimitMEMLOCK=infinity: systemctl edit containerd")
    if container:
        return DOCKER
    return (
        "LimitMEMLOCK=infinity under [Service]: systemctl edit UNIT",
        "* - memlock unlimited in /etc/security/limits.conf, then log in again",
    )
