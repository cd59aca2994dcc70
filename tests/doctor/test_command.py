"""``memkv doctor`` against real servers; RDMA on the fake verbs library."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from client.serving import served
from fake_rdma import FakeVerbs

from memkv_lmcache._ffi import NativeServer

from .conftest import Doctor

KEY = "5a" * 32
VALUE = 64 * 1024
RIGHT = {"level": "ok", "mend": ""}


@pytest.fixture
def server(verbs: FakeVerbs) -> Iterator[NativeServer]:
    with served(transport="rdma", verbs_library=verbs.path) as found:
        yield found


@pytest.fixture
def gone() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_rdma_that_works_is_proven(server: NativeServer, doctor: Doctor) -> None:
    """A value goes and comes by RDMA, nothing of it stays; exit code 0."""
    done = doctor("--server", server.address)
    assert done.code == 0
    assert "would use fake0 port 1, GID 1 (RoCE v2, 192.0.2.1)" in done.words
    assert f"all {2 * VALUE} bytes by RDMA (fake0 port 1" in done.words
    assert done.out.splitlines()[-1] == "RDMA works with the server."
    stats = server.stats()
    assert stats["bytes_remote"] == 2 * VALUE
    assert stats["values"] == 0


def test_a_unix_socket_is_as_good(
    tmp_path: Path, verbs: FakeVerbs, doctor: Doctor
) -> None:
    """Its payload goes by RDMA too."""
    address = f"unix:{tmp_path}/s"
    with served(address, transport="rdma", verbs_library=verbs.path):
        assert doctor("--server", address).code == 0


def test_json_is_one_object(server: NativeServer, doctor: Doctor) -> None:
    """With findings, devices and servers as the documentation says."""
    done = doctor("--server", f"a={server.address}", "--json")
    found = done.json
    assert found["rdma"] is True
    assert set(found) == {"rdma", "findings", "devices", "servers"}
    assert [device["name"] for device in found["devices"]] == ["fake0", "fake1"]
    [of_server] = found["servers"]
    assert of_server["server"] == "a"
    assert of_server["address"] == server.address
    assert of_server["chosen"] == {"device": "fake0", "port": 1, "gid_index": 1}
    assert of_server["proof"]["bytes_remote"] == 2 * VALUE
    for finding in found["findings"]:
        assert set(finding) == {"level", "subject", "text", "mend"}
        assert (finding["level"] == "ok") == (finding["mend"] == "")


def test_a_missing_library_is_to_be_installed(
    server: NativeServer, doctor: Doctor
) -> None:
    """The server is reached all the same; exit code 1."""
    missing = "/nonexistent/libibverbs.so.1"
    done = doctor("--server", server.address, MEMKV_VERBS_LIBRARY=missing)
    assert done.code == 1
    assert "> apt-get install libibverbs1 ibverbs-providers" in done.out
    assert missing in done.words
    assert "reached: " in done.words
    assert "RDMA was not tried" in done.words


def test_a_server_that_is_down_is_exit_code_3(gone: str, doctor: Doctor) -> None:
    """With the command that starts one."""
    done = doctor("--server", gone)
    assert done.code == 3
    assert "Connection refused; does a server run there" in done.words
    assert f"> memkv serve --address {gone}" in done.out


def test_a_server_that_says_nothing_is_given_up(doctor: Doctor) -> None:
    """--timeout holds; exit code 3."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert doctor("--server", address, "--timeout", "0.2").code == 3


def test_one_of_two_servers_hides_nothing_of_the_other(
    server: NativeServer, gone: str, doctor: Doctor
) -> None:
    """The proof of the one stands beside the trouble of the other, in their order."""
    done = doctor("--server", f"b={gone},a={server.address}", "--json")
    assert done.code == 3
    assert done.json["rdma"] is False
    proven = {one["server"]: one["rdma"] for one in done.json["servers"]}
    assert list(proven.items()) == [("b", False), ("a", True)]


def test_a_wrong_key_is_exit_code_4(verbs: FakeVerbs, doctor: Doctor) -> None:
    """It counts for more than a server that is away, and no key is shown."""
    settings = {"transport": "rdma", "verbs_library": verbs.path}
    with served(auth_key=bytes.fromhex(KEY), **settings) as keyed:
        done = doctor("--server", keyed.address, MEMKV_AUTH_KEY="a5" * 32)
        assert done.code == 4
        assert "> MEMKV_AUTH_KEY=" in done.out
        assert "a5" * 32 not in done.out
        right = doctor("--server", keyed.address, MEMKV_AUTH_KEY=KEY)
        assert right.code == 0
        assert KEY not in right.out


def test_a_device_that_is_not_used_may_refuse_the_memory(
    server: NativeServer, verbs: FakeVerbs, doctor: Doctor
) -> None:
    """The proof goes by the other one."""
    with verbs.scripted("refuse_reg_mr 2"):  # with fake1
        done = doctor("--server", server.address)
    assert done.code == 0
    assert "proven: " in done.words


def test_the_server_says_why_it_made_no_link(verbs: FakeVerbs, doctor: Doctor) -> None:
    """InfiniBand there and RoCE here do not meet; only the server knows."""
    settings = {"transport": "rdma", "verbs_library": verbs.path}
    devices = "device fake0 roce 192.0.2.1; device fake1 ib fe80::1"
    with (
        verbs.scripted(devices),
        served(rdma_devices="fake1", **settings) as server,
    ):
        done = doctor("--server", server.address, MEMKV_RDMA_DEVICES="fake0")
    assert done.code == 1
    assert "the last one it refused: no RDMA port is up that reaches" in done.words
    assert "looked at: fake1" in done.words
    assert "> there: memkv serve --rdma-devices" in done.out


def test_a_server_without_rdma_is_to_be_mended_there(
    verbs: FakeVerbs, doctor: Doctor
) -> None:
    """Its own reason is shown; exit code 1."""
    with served(verbs_library="/nonexistent/libibverbs.so.1") as server:
        done = doctor("--server", server.address)
    assert done.code == 1
    assert "the server has no RDMA: no verbs library" in done.words
    assert "> on the server's host: memkv doctor" in done.out
    with served(transport="tcp") as server:
        done = doctor("--server", server.address)
    assert done.code == 1
    assert "> network.transport: auto in its yaml" in done.out


def test_rdma_that_is_switched_off_is_said(
    server: NativeServer, doctor: Doctor
) -> None:
    """Also that it would work."""
    done = doctor("--server", server.address, MEMKV_TRANSPORT="tcp")
    assert done.code == 1
    assert "switched off by the setting transport: tcp" in done.words
    assert "> MEMKV_TRANSPORT=auto" in done.out
    assert "proven: " in done.words


def test_a_device_that_does_not_exist_is_named(
    server: NativeServer, doctor: Doctor
) -> None:
    """With those that do."""
    done = doctor("--server", server.address, MEMKV_RDMA_DEVICES="mlx5_0")
    assert done.code == 1
    assert "there is no device mlx5_0; there is: fake0, fake1" in done.words
    assert "> MEMKV_RDMA_DEVICES=fake0" in done.out


def test_memory_that_cannot_be_registered_is_why(
    server: NativeServer, verbs: FakeVerbs, doctor: Doctor
) -> None:
    """The link stands, but nothing goes by it."""
    with verbs.scripted("refuse reg_mr"):
        done = doctor("--server", server.address)
    assert done.code == 1
    assert "RDMA was tried, and failed: cannot register" in done.words
    assert "> ulimit -l unlimited" in done.out


def test_a_link_that_cannot_be_made_is_why(
    server: NativeServer, verbs: FakeVerbs, doctor: Doctor
) -> None:
    """In the client's own words."""
    with verbs.scripted("refuse create_qp"):
        done = doctor("--server", server.address)
    assert done.code == 1
    assert "RDMA was tried, and failed: " in done.words


def test_packets_that_do_not_arrive_are_a_firewall(
    server: NativeServer, verbs: FakeVerbs, doctor: Doctor
) -> None:
    """The link stands, no byte moves: given up after --timeout, and nothing stays."""
    with verbs.scripted("hold"):
        done = doctor("--server", server.address, "--timeout", "0.5")
    assert done.code == 1
    assert "but bytes do not come through it" in done.words
    assert "> on both hosts: iptables -I INPUT -p udp --dport 4791" in done.out
    assert server.stats()["values"] == 0


@pytest.mark.parametrize(
    "arguments", [["--memory", "lots"], ["--timeout", "soon"], ["--frobnicate"]]
)
def test_wrong_usage_is_exit_code_2(doctor: Doctor, arguments: list[str]) -> None:
    """As with every command."""
    assert doctor(*arguments).code == 2


def test_the_help_tells_the_exit_codes(doctor: Doctor) -> None:
    """And shows how it is typed."""
    done = doctor("--help")
    assert done.code == 0
    for words in ("Exit codes:", "3 a server cannot be reached", "memkv doctor"):
        assert words in done.words
