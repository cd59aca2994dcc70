"""Each fault of a host's kernel or container is found, with what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkv_lmcache.doctor.findings import Level
from memkv_lmcache.doctor.host import (
    Host,
    check_container,
    check_kernel,
    check_nodes,
)

from .trees import assert_mended, build, only

NO_DEVICE = {"sys/class/infiniband": None}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def host(root: Path, files: dict[str, str | None], **given: object) -> Host:
    build(root, files)
    return Host(root, **{"environ": {}, **given})  # type: ignore[arg-type]


def test_a_healthy_host_has_nothing_to_mend(tmp_path: Path) -> None:
    """All is ok, and nothing is said of containers."""
    healthy = host(tmp_path, {})
    findings = check_kernel(healthy, False) + check_nodes(healthy, False)
    assert {finding.level for finding in findings} == {Level.OK}
    assert check_container(healthy, True) == []


def test_a_module_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    """Without ib_uverbs nothing works."""
    bare = host(tmp_path, {"sys/class/infiniband_verbs": None})
    found = only(check_kernel(bare, False), "kernel")
    assert_mended(found, Level.FAIL, "modprobe ib_uverbs")


def test_a_loaded_module_without_its_class_is_enough(tmp_path: Path) -> None:
    """/sys/module has it where /sys/class has no device yet."""
    files = {"sys/class/infiniband_verbs": None, "sys/module/ib_uverbs/refcnt": "0"}
    found = only(check_kernel(host(tmp_path, files), False), "kernel")
    assert found.level is Level.OK


def test_a_host_without_a_device_is_told_of_soft_roce(tmp_path: Path) -> None:
    """With an interface of its own, a real one that is up before others."""
    interfaces: dict[str, str | None] = {
        **NO_DEVICE,
        "sys/class/net/docker0/operstate": "up",
        "sys/class/net/enp3s0/operstate": "up",
        "sys/class/net/enp3s0/device/vendor": "0x1af4",
        "sys/class/net/lo/operstate": "unknown",
    }
    found = only(check_kernel(host(tmp_path, interfaces), False), "driver")
    soft = "modprobe rdma_rxe && rdma link add rxe0 type rxe netdev enp3s0"
    assert_mended(found, Level.FAIL, soft)


def test_a_nic_without_its_driver_is_recognized(tmp_path: Path) -> None:
    """By its PCI vendor, among devices that are no NICs."""
    files: dict[str, str | None] = {
        **NO_DEVICE,
        "sys/bus/pci/devices/0000:00:02.0/class": "0x030000",
        "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086",
        "sys/bus/pci/devices/0000:01:00.0/class": "0x020700",
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x15b3",
    }
    found = only(check_kernel(host(tmp_path, files), False), "driver")
    assert_mended(found, Level.FAIL, "modprobe mlx5_ib", "modprobe rdma_rxe")


def test_a_container_loads_no_modules(tmp_path: Path) -> None:
    """The command says where it is to be typed."""
    files = {**NO_DEVICE, "sys/class/infiniband_verbs": None, ".dockerenv": ""}
    for found in check_kernel(host(tmp_path, files), False):
        assert_mended(found, Level.FAIL, "on the host, not in here: modprobe")


def test_what_the_library_uses_cannot_be_missing(tmp_path: Path) -> None:
    """A /sys that shows nothing is no fault where a device can be used."""
    files = {**NO_DEVICE, "sys/class/infiniband_verbs": None}
    findings = check_kernel(host(tmp_path, files), True)
    assert [finding.level for finding in findings] == [Level.NOTE, Level.NOTE]


def test_soft_roce_is_called_so(tmp_path: Path) -> None:
    """With the interface that it uses, which is the port's."""
    soft = host(tmp_path, {"sys/class/infiniband/rxe0/parent": "eth0\n"})
    found = only(check_kernel(soft, False), "driver")
    assert found.text == "mlx5_0, rxe0 (Soft-RoCE on eth0)"
    assert soft.netdev("rxe0", 1) == "eth0"
    assert soft.netdev("mlx5_9", 1) == ""


def test_device_files_that_are_not_there_are_missed(tmp_path: Path) -> None:
    """In a container they were not passed in, elsewhere the module makes them."""
    bare = host(tmp_path, {"dev/infiniband": None})
    [found] = check_nodes(bare, False)
    assert_mended(found, Level.FAIL, "modprobe ib_uverbs")
    build(tmp_path, {"run/.containerenv": "", "dev/infiniband": None})
    [found] = check_nodes(bare, False)
    assert_mended(found, Level.FAIL, "--device /dev/infiniband", "--cap-add IPC_LOCK")


def test_device_files_that_may_not_be_opened_are_named(tmp_path: Path) -> None:
    """A fault if none may be; one that may is enough."""
    files: dict[str, str | None] = {"dev/infiniband/uverbs1": ""}
    closed = host(tmp_path, files, may_use=lambda path: False)
    [found] = check_nodes(closed, False)
    assert_mended(found, Level.FAIL, "chmod a+rw /dev/infiniband")
    assert "uverbs0, uverbs1" in found.text
    half = Host(tmp_path, environ={}, may_use=lambda path: path.name == "uverbs1")
    [found] = check_nodes(half, False)
    assert found.level is Level.NOTE
    assert "uverbs1" not in found.text


def test_without_a_device_there_is_no_file_to_be_missed(tmp_path: Path) -> None:
    """The finding of the driver says it all."""
    bare = host(tmp_path, {**NO_DEVICE, "dev/infiniband": None})
    assert check_nodes(bare, False) == []


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"proc/1/cgroup": "0::/system.slice/docker-12ab.scope\n"}, "docker"),
        ({"proc/1/cgroup": "11:cpu:/kubepods/burstable/pod12\n"}, "kubernetes"),
        ({"proc/1/cgroup": None}, ""),
        ({"var/run/secrets/kubernetes.io/serviceaccount/token": "x"}, "kubernetes"),
        ({}, ""),
    ],
)
def test_containers_are_recognized(
    tmp_path: Path, files: dict[str, str | None], kind: str
) -> None:
    """By their marks."""
    assert host(tmp_path, files).container == kind


def test_a_container_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Devices, and the right to lock memory; with flags, or a pod's settings."""
    docker = host(tmp_path, {".dockerenv": "", "dev/infiniband": None})
    [found] = check_container(docker, False)
    assert_mended(found, Level.NOTE, "--ulimit memlock=-1", "--network host")
    assert "without /dev/infiniband and without the right" in found.text
    pod = Host(tmp_path, environ=KUBERNETES)
    [found] = check_container(pod, False)
    assert_mended(found, Level.NOTE, "device plugin", "add: [IPC_LOCK]")


def test_a_container_that_has_all_is_fine(tmp_path: Path) -> None:
    """No advice then."""
    [found] = check_container(host(tmp_path, {".dockerenv": ""}), True)
    assert found.level is Level.OK
