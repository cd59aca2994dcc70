"""The clients' metrics: what they count, and that a host's processes do not collide."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from client.serving import served
from peer import Peer, stall
from prometheus_client.parser import text_string_to_metric_families
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.errors import _MISS_REASONS
from memkv_lmcache.metrics import MISS, Counters

PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from memkv_lmcache import Client
from memkv_lmcache.config import load
with Client(config=load({"servers": "127.0.0.1:1", "prometheus_bind": sys.argv[1]})):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[NativeServer]:
    with served() as found:
        yield found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Each sample by its name and its labels' values, in the order of their names."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_a_client_does_is_counted(
    server: NativeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients of one server and namespace are summed; one that closes is gone."""
    port = free_port()
    monkeypatch.setenv("MEMKV_PROMETHEUS_BIND", f"127.0.0.1:{port}")
    counters = Counters()
    counters.count("put_dropped", 3)
    counters.miss("header_mismatch")
    from memkv_lmcache.config import load

    config = load({"servers": f"s0={server.address}", "namespace": "n"})
    with Client(config=config, counters=counters) as one:
        with Client(config=config) as two:
            one.put(b"key", b"12345")
            assert one.get(b"key") == two.get(b"key") == b"12345"
            assert two.stat(b"absent") is None
            seen = scrape(port)
        assert seen["memkv_client_server_up", "n", "s0"] == 1
        assert seen["memkv_client_registered_bytes", "n"] == 0
        assert seen["memkv_client_ops_total", "n", "get", "s0"] == 2
        assert seen["memkv_client_hits_total", "n", "get", "s0"] == 2
        assert seen["memkv_client_read_bytes_total", "n", "s0"] == 10
        assert seen["memkv_client_written_bytes_total", "n", "s0"] == 5
        assert seen["memkv_client_misses_total", "n", "absent", "s0"] == 1
        assert seen["memkv_client_events_total", "dials", "n", "s0"] >= 2
        assert seen["memkv_plugin_events_total", "put_dropped", "n"] == 3
        assert seen["memkv_plugin_misses_total", "n", "header_mismatch"] == 1
        seen = scrape(port)
        assert seen["memkv_client_ops_total", "n", "get", "s0"] == 1
    assert not any("s0" in labels for labels in scrape(port))


def test_a_server_that_is_down_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    """The gauge falls, and the misses have a reason."""
    from memkv_lmcache.config import load

    bind = f"127.0.0.1:{free_port()}"
    config = load({"servers": "s0=127.0.0.1:1", "prometheus_bind": bind}, environ={})
    with Client(config=config) as client:
        wait_until(lambda: client.state()["s0"].startswith("down"))
        client.stat_many([b"a", b"b"])
        seen = scrape(int(bind.rpartition(":")[2]))
        assert seen["memkv_client_server_up", "", "s0"] == 0
        assert seen["memkv_client_misses_total", "", "server_down", "s0"] == 2
        assert client.stats()["s0"].misses == {"server_down": 2}


def test_processes_of_one_host_take_the_next_port() -> None:
    """Three ranks with one setting: three ports, and the log says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        bind = f"127.0.0.1:{first}"
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, bind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        ports = set()
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "open\n"
        for rank in ranks:
            _, err = rank.communicate("")
            assert rank.returncode == 0, err
            found = re.search(r"client metrics are on http://127.0.0.1:(\d+)/", err)
            assert found is not None, err
            ports.add(int(found[1]))
    assert len(ports) == 3
    assert all(first < port < first + 64 for port in ports)


def test_what_cannot_be_bound_never_fails_a_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning, and the client works without metrics."""
    from memkv_lmcache.config import load

    caplog.set_level(logging.WARNING)
    config = load({"prometheus_bind": "192.0.2.1:9400"}, environ={})
    with Client(config=config):
        [text] = [r.getMessage() for r in caplog.records if "metrics" in r.message]
    assert text.startswith("no client metrics: 192.0.2.1:9400: ")


def test_each_miss_of_the_library_has_a_reason_of_the_list() -> None:
    """One list of reasons, whoever counts."""
    with Client("127.0.0.1:1") as client:
        names = client._native.stats()
    reasons = {name.removeprefix(MISS) for name in names if name.startswith(MISS)}
    assert reasons - {"other"} <= set(_MISS_REASONS.values())


def test_misses_are_counted_by_their_reason(server: NativeServer) -> None:
    """Absent, too small, timed out: each where it happened."""
    with Client(server.address) as client:
        client.put(b"key", b"12345")
        client.stat_many([b"a", b"b"])
        with pytest.raises(Exception, match="5 bytes"):
            client.get_into(b"key", bytearray(2))
        assert client.stats()[server.address].misses == {
            "absent": 2,
            "header_mismatch": 1,
        }
    with Peer(stall) as peer, Client(peer.address) as client:
        begin = time.monotonic()
        client.stat_many([b"key"], timeout=0.1)
        assert time.monotonic() - begin < 2
        assert client.stats()[peer.address].misses == {"timeout": 1}
