"""Findings from what the verbs library describes, whatever that is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from memkv_lmcache.doctor.devices import (
    check_devices,
    check_library,
    chosen_text,
    usable,
)
from memkv_lmcache.doctor.findings import Level, has_failed
from memkv_lmcache.doctor.host import Host
from memkv_lmcache.doctor.memory import Wanted

from .trees import GIB, assert_mended, build, only

FIVE = Wanted(5 * GIB, "LMCache's default")
GOOD: dict[str, Any] = {
    "name": "mlx5_0",
    "kind": "ib",
    "error": "",
    "firmware": "22.31.1014",
    "max_mr_size": 2**64 - 1,
    "max_mr": 16777216,
    "max_qp": 131072,
    "ports": [
        {
            "number": 1,
            "state": "active",
            "link": "ethernet",
            "mtu": 4096,
            "speed_gbps": 100,
            "gids": [
                {"index": 0, "type": "RoCE v1", "address": "192.0.2.7"},
                {"index": 3, "type": "RoCE v2", "address": "192.0.2.7"},
            ],
        }
    ],
}
PORT = "mlx5_0 port 1"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(build(tmp_path, {}), environ={})


def device(**changes: Any) -> Any:
    return {**copy.deepcopy(GOOD), **changes}


def with_port(**changes: Any) -> Any:
    return device(ports=[{**copy.deepcopy(GOOD["ports"][0]), **changes}])


def test_a_good_device_has_nothing_to_mend(host: Host) -> None:
    """Its port shows link, interface, MTU, speed and addresses."""
    findings = check_devices(host, [device()], [], FIVE)
    assert {finding.level for finding in findings} == {Level.OK}
    text = only(findings, PORT).text
    for part in ("Ethernet on ens1", "MTU 4096", "100 Gbit/s", "RoCE v2 192.0.2.7"):
        assert part in text


def test_a_missing_library_is_to_be_installed() -> None:
    """By apt or dnf; one that the user names, by naming none."""
    found = check_library(None, "no verbs library: cannot open", False)
    assert_mended(
        found,
        Level.FAIL,
        "apt-get install libibverbs1 ibverbs-providers",
        "dnf install libibverbs",
    )
    assert "verbs_library" not in found.mend
    found = check_library(None, "no verbs library: /x: cannot open", True)
    assert_mended(found, Level.FAIL, "remove the setting verbs_library")


def test_a_build_without_rdma_is_to_be_made_again() -> None:
    """With the headers."""
    found = check_library(None, "this build has no RDMA: it was made without", False)
    assert_mended(found, Level.FAIL, "apt-get install libibverbs-dev")


def test_a_port_that_is_down_is_to_be_raised(host: Host) -> None:
    """By its interface's name; no fault where another port is up or is meant."""
    down = with_port(state="down", gids=[])
    findings = check_devices(host, [down], [], FIVE)
    assert_mended(only(findings, PORT), Level.FAIL, "ip link set ens1 up")
    other = device(name="mlx5_1")
    findings = check_devices(host, [down, other], [], FIVE)
    assert only(findings, PORT).level is Level.WARN
    findings = check_devices(host, [down, other], ["mlx5_1"], FIVE)
    assert only(findings, PORT).level is Level.NOTE
    assert not has_failed(findings)


def test_infiniband_that_waits_needs_a_subnet_manager(host: Host) -> None:
    """Its cable is fine."""
    findings = check_devices(
        host, [with_port(state="init", link="infiniband")], [], FIVE
    )
    assert_mended(only(findings, PORT), Level.FAIL, "systemctl start opensm")


@pytest.mark.parametrize(("mtu", "level"), [(1024, Level.NOTE), (4096, Level.OK)])
def test_small_packets_are_noted(host: Host, mtu: int, level: Level) -> None:
    """On Ethernet the interface's MTU decides."""
    found = only(check_devices(host, [with_port(mtu=mtu)], [], FIVE), PORT)
    assert found.level is level
    assert ("ip link set ens1 mtu 4200" in found.mend) is (level is Level.NOTE)


def test_roce_v1_alone_is_warned_of(host: Host) -> None:
    """It crosses no router."""
    one = with_port(gids=[{"index": 0, "type": "RoCE v1", "address": "fe80::1"}])
    found = only(check_devices(host, [one], [], FIVE), PORT)
    assert_mended(found, Level.WARN, "ip addr add", "RoCE v2")


def test_a_port_without_address_is_a_fault(host: Host) -> None:
    """On Ethernet the GIDs are the interface's addresses."""
    found = only(check_devices(host, [with_port(gids=[])], [], FIVE), PORT)
    assert_mended(found, Level.FAIL, "ip addr add")


def test_names_that_do_not_exist_are_a_fault(host: Host) -> None:
    """The text says which there are."""
    findings = check_devices(host, [device()], ["mlx5_0", "mlx5_7"], FIVE)
    found = only(findings, "rdma_devices")
    assert_mended(found, Level.FAIL, "MEMKV_RDMA_DEVICES=mlx5_0")
    assert "mlx5_7; there is: mlx5_0" in found.text


def test_a_device_takes_only_so_much_memory_at_once(host: Host) -> None:
    """Pieces suffice, if there may be enough of them; small ones suit small values."""
    half = device(max_mr_size=GIB // 2, max_mr=10)
    assert only(check_devices(host, [half], [], FIVE), "mlx5_0").level is Level.OK
    few = device(max_mr_size=GIB // 2, max_mr=9)
    found = only(check_devices(host, [few], [], FIVE), "mlx5_0")
    assert_mended(found, Level.FAIL, "LMCACHE_MAX_LOCAL_CPU_SIZE=4 ")
    small = device(max_mr_size=4 * 1024**2)
    found = only(check_devices(host, [small], [], FIVE), "mlx5_0")
    assert_mended(found, Level.NOTE, "LMCACHE_CHUNK_SIZE")
    assert "values over 1 MiB" in found.text


def test_a_device_that_cannot_be_used_says_why(host: Host) -> None:
    """A fault where it is the only one, or was asked for by name."""
    iwarp = device(name="cxgb4_0", kind="iwarp", error="neither IB nor RoCE", ports=[])
    findings = check_devices(host, [iwarp], [], FIVE)
    assert_mended(only(findings, "cxgb4_0"), Level.FAIL, "RoCE or InfiniBand")
    both = [iwarp, device()]
    assert only(check_devices(host, both, [], FIVE), "cxgb4_0").level is Level.WARN
    named = check_devices(host, both, ["cxgb4_0"], FIVE)
    assert only(named, "cxgb4_0").level is Level.FAIL
    assert usable(both, ["cxgb4_0"]) == []


def test_devices_that_only_the_kernel_sees_lack_their_library(host: Host) -> None:
    """The providers, a package of their own."""
    found = only(check_devices(host, [], [], FIVE), "devices")
    assert_mended(found, Level.FAIL, "apt-get install ibverbs-providers")


def test_a_choice_names_its_address() -> None:
    """The GID's, if it is there."""
    described = {"devices": [GOOD]}
    choice: Any = {"device": "mlx5_0", "port": 1, "gid_index": 3}
    text = "mlx5_0 port 1, GID 3 (RoCE v2, 192.0.2.7)"
    assert chosen_text(described, choice) == text
    choice["gid_index"] = 9
    assert chosen_text(described, choice) == "mlx5_0 port 1, GID 9"


# ---- whatever it says ----------------------------------------------------------------

names = st.sampled_from(["mlx5_0", "mlx5_1", "rxe0", ""]) | st.text(max_size=8)
counts = st.integers(0, 2**64 - 1)
gids = st.fixed_dictionaries(
    {
        "index": st.integers(0, 255),
        "type": st.sampled_from(["RoCE v2", "RoCE v1", "InfiniBand"]),
        "address": st.text(max_size=40),
    }
)
ports = st.fixed_dictionaries(
    {
        "number": st.integers(1, 255),
        "state": st.sampled_from(["active", "down", "init", "armed", "other"]),
        "link": st.sampled_from(["ethernet", "infiniband"]),
        "mtu": st.integers(0, 65536),
        "speed_gbps": st.integers(0, 2000) | st.sampled_from([2.5, 0.5]),
        "gids": st.lists(gids, max_size=5),
    }
)
devices = st.fixed_dictionaries(
    {
        "name": names,
        "kind": st.sampled_from(["ib", "iwarp", "other"]),
        "error": st.just("") | st.text(max_size=30),
        "firmware": st.text(max_size=10),
        "max_mr_size": counts,
        "max_mr": st.integers(-(2**31), 2**31 - 1),
        "max_qp": st.integers(-(2**31), 2**31 - 1),
        "ports": st.lists(ports, max_size=3),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([device(name="\0")], [], 1)
@given(st.lists(devices, max_size=4), st.lists(names, max_size=3), st.integers(1))
def test_any_description_gives_findings(
    host: Host, described: list[Any], named: list[str], size: int
) -> None:
    """No exception; what is not ok can be mended; no use without a fault; as JSON."""
    findings = check_devices(host, described, named, Wanted(size, "--memory"))
    for finding in findings:
        assert (finding.level is Level.OK) == (finding.mend == "")
        json.dumps(finding.as_json())
    if not usable(described, named):
        assert has_failed(findings)
