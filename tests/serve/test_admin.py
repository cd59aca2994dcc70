"""The HTTP for operators: what it says, where it listens, and that it is bounded."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.commands import end, run, serving
from client.serving import served
from prometheus_client.parser import text_string_to_metric_families
from support import wait_until

from memkv_lmcache import Client
from memkv_lmcache.client import Get
from memkv_lmcache.errors import MemKVError, Status
from memkv_lmcache.serve.admin import (
    DEGRADED,
    HEALTHY,
    UNHEALTHY,
    Admin,
    Health,
    Pages,
)

MIB = 1024**2
SMALL = ("--address", "127.0.0.1:0", "--memory", "256MiB", "--workers", "2", "--json")


def fetch(address: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def page(address: str, path: str) -> tuple[int, Any]:
    """Status and JSON of a page."""
    code, body = fetch(address, path)
    return code, json.loads(body)


def metrics(address: str) -> dict[str, float]:
    """Each sample of the metrics, by its name and labels."""
    code, body = fetch(address, "/v1/metrics")
    assert code == 200
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a server says of itself, for tests that leave it running."""
    folder = tmp_path_factory.mktemp("admin")
    with serving(*SMALL, "--name", "memkv-7", folder=folder) as (line, _):
        yield json.loads(line)


def test_a_server_is_healthy_and_ready(said: dict[str, Any]) -> None:
    """Both with 200, once its workers run."""
    wait_until(lambda: page(said["admin"], "/v1/health")[1]["status"] == HEALTHY)
    assert page(said["admin"], "/v1/health") == (200, {"status": HEALTHY, "reason": ""})
    assert page(said["admin"], "/v1/ready") == (200, {"ready": True, "reason": ""})


def test_its_status_is_what_it_said_and_what_it_counts(said: dict[str, Any]) -> None:
    """Settings and counters in one JSON object."""
    code, status = page(said["admin"], "/v1/status?pretty")
    assert code == 200
    assert said.items() <= status.items()
    assert status["name"] == "memkv-7"
    assert status["counters"]["capacity_bytes"] > 0
    assert status["uptime_s"] > 0


def test_its_metrics_count_what_clients_do(said: dict[str, Any]) -> None:
    """The names that dashboards know, and what is behind them."""
    before = metrics(said["admin"])
    with Client(said["address"]) as client:
        client.put(b"key", bytes(1000))
        assert client.get(b"key") == bytes(1000)
        assert client.stat(b"absent") is None
    after = metrics(said["admin"])
    assert after["memkv_info memkv-7 " + after_version(said)] == 1
    grown = {name: after[name] - before[name] for name in after if name in before}
    for name, by in {
        "memkv_blocks_total": 1,
        "memkv_read_total": 1,
        "memkv_read_bytes_total": 1000,
        "memkv_write_total": 1,
        "memkv_write_bytes_total": 1000,
        "memkv_items_total stat": 1,
        "memkv_hits_total get": 1,
        "memkv_storage_usable_bytes": 0,
    }.items():
        assert grown[name] == by, name
    assert grown["memkv_storage_used_bytes"] >= 1000
    assert after["memkv_draining"] == 0


def after_version(said: dict[str, Any]) -> str:
    """The version that the status page shows."""
    version: str = page(said["admin"], "/v1/status")[1]["version"]
    return version


def test_every_counter_of_the_server_is_a_metric(said: dict[str, Any]) -> None:
    """None is forgotten, whatever the library counts."""
    counters = page(said["admin"], "/v1/status")[1]["counters"]
    shown = " ".join(metrics(said["admin"]))
    renamed = {"values": "blocks", "capacity_bytes": "usable", "put_stored": "write"}
    renamed["connections_total"] = "connections_accepted"
    for name in counters:
        kind, _, what = name.rpartition("_")
        words = renamed.get(name, name if f"memkv_{name}" in shown else what)
        assert words in shown, (name, kind)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/healthy", "/v2/health", "/%00"])
def test_other_pages_are_not_found(said: dict[str, Any], path: str) -> None:
    """With the names of those there are."""
    code, body = page(said["admin"], path)
    assert code == 404
    assert "/v1/health" in body["error"]


def test_only_reading_is_possible(said: dict[str, Any]) -> None:
    """HEAD answers like GET, without a body; anything else is refused."""
    assert fetch(said["admin"], "/v1/health", "HEAD") == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        assert fetch(said["admin"], "/v1/health", method)[0] == 501


def test_it_listens_beside_the_data_port_on_loopback(tmp_path: Path) -> None:
    """Data port + 1 unless it is said otherwise; on a Unix socket nothing."""
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as data:
            port = data.getsockname()[1]
        address = f"127.0.0.1:{port}"
        with serving(*SMALL, "--address", address, folder=tmp_path) as (line, child):
            admin = json.loads(line)["admin"]
            assert end(child) == 0
        if admin:  # the next port was free
            assert admin == f"127.0.0.1:{port + 1}"
            break
    else:
        pytest.fail("20 times the next port was taken")
    unix = ("--address", f"unix:{tmp_path}/s", "--json")
    with serving(*unix, folder=tmp_path) as (line, _):
        assert json.loads(line)["admin"] == ""
    with serving(*unix, "--admin", "127.0.0.1:0", folder=tmp_path) as (line, _):
        assert page(json.loads(line)["admin"], "/v1/ready")[0] == 200
    with serving(*SMALL, "--admin", "off", folder=tmp_path) as (line, _):
        assert json.loads(line)["admin"] == ""


def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for(
    tmp_path: Path,
) -> None:
    """A server does not fail for an address that nobody chose."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        asked = f"127.0.0.1:{port}"
        done = run("serve", *SMALL, "--admin", asked, folder=tmp_path)
        assert done.code == 2
        assert asked in done.err
        assert "in use" in done.err
        data = f"127.0.0.1:{port - 1}"
        try:
            with serving(*SMALL, "--address", data, folder=tmp_path) as (line, child):
                assert json.loads(line)["admin"] == ""
                assert end(child) == 0
                assert child.stderr is not None
                assert "going on without it" in child.stderr.read()
        except AssertionError as error:
            if "in use" not in str(error):  # the port before it is somebody's
                raise


@pytest.fixture
def health() -> list[Health]:
    """The one item is what the pages of ``admin`` say."""
    return [Health(HEALTHY, True)]


@pytest.fixture
def admin(health: list[Health]) -> Iterator[Admin]:
    pages = Pages(lambda: health[0], dict, lambda: b"")
    found = Admin("127.0.0.1:0", pages)
    yield found
    found.close()


def test_only_who_cannot_serve_is_answered_503(
    admin: Admin, health: list[Health]
) -> None:
    """A draining server is alive, but not for new clients."""
    health[0] = Health(DEGRADED, False, "draining")
    assert page(admin.address, "/v1/health")[0] == 200
    assert page(admin.address, "/v1/ready") == (
        503,
        {"ready": False, "reason": "draining"},
    )
    health[0] = Health(UNHEALTHY, False, "no worker")
    code, body = page(admin.address, "/v1/health")
    assert (code, body["status"], body["reason"]) == (503, UNHEALTHY, "no worker")


def test_idle_connections_are_bounded_and_cut(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that say nothing cost neither memory nor, for long, the others' answers."""
    monkeypatch.setattr("memkv_lmcache.serve.admin._MAX_AGE_S", 0.2)
    host, _, port = admin.address.rpartition(":")
    threads = threading.active_count()
    idle = [socket.create_connection((host, int(port))) for _ in range(60)]
    try:

        def answers() -> bool:
            try:
                return page(admin.address, "/v1/health")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        assert threading.active_count() <= threads + 20
        wait_until(answers)
    finally:
        for one in idle:
            one.close()


def test_a_draining_server_ends_what_is_under_way_and_refuses_the_rest(
    tmp_path: Path,
) -> None:
    """SIGTERM in the middle of a get: its bytes arrive, new requests go elsewhere."""
    size = 48 * MIB
    with (
        serving(*SMALL, folder=tmp_path) as (line, child),
        served() as other,
    ):
        said = json.loads(line)
        value = b"value of the server that leaves" * (size // 31)
        with Client(said["address"]) as slow:
            slow.put(b"big", value)
            buffer = bytearray(len(value))
            results: list[Status] = []

            def read() -> None:
                [result] = slow.get_many_into([Get(b"big", buffer)], timeout=30)
                results.append(result.status)

            reader = threading.Thread(target=read)
            reader.start()
            wait_until(lambda: buffer[0] != 0)
            child.send_signal(signal.SIGTERM)
            reader.join()
            # it may have been faster than the signal, or cut by a busy machine's delay
            assert results == [Status.OK]
            assert buffer == value
        assert child.wait(20) == 0
        with Client([said["address"], other.address]) as fleet:
            for i in range(50):
                assert fleet.put(b"%d" % i, b"value")


def test_draining_is_bounded(tmp_path: Path) -> None:
    """A client that never takes its bytes cannot keep a server from ending."""
    (tmp_path / "memkv.yaml").write_text("network: {drain_s: 0.5}\n")
    with serving("--config", "memkv.yaml", *SMALL, folder=tmp_path) as (line, child):
        said = json.loads(line)
        with Client(said["address"]) as client:
            client.put(b"big", bytes(32 * MIB))
            ask_and_never_read(said["address"], tmp_path)
            begin = time.monotonic()
            child.send_signal(signal.SIGTERM)
            wait_until(lambda: page_or_none(said["admin"]) in (503, None))
            assert child.wait(20) == 0
            assert time.monotonic() - begin < 0.5 + 3


def page_or_none(admin: str) -> int | None:
    """The status of /v1/ready, if somebody answers."""
    try:
        return page(admin, "/v1/ready")[0]
    except (OSError, http.client.HTTPException):
        return None


def ask_and_never_read(address: str, folder: Path) -> None:
    """A process that asks for the value and is stopped while it comes."""
    program = (
        "import sys\n"
        "from memkv_lmcache import Client\n"
        "client = Client(sys.argv[1])\n"
        "room = bytearray(32 * 1024 * 1024)\n"
        "import os, signal, threading\n"
        "def stop():\n"
        "    while client.stats()[sys.argv[1]].counters['get_ops'] == 0: pass\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "threading.Thread(target=stop, daemon=True).start()\n"
        "while True:\n"
        "    client.get_into(b'big', room)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, address], cwd=folder)
    _stopped.append(child)
    wait_until(lambda: _state(child.pid) == "T")


_stopped: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _kill_the_stopped() -> Iterator[None]:
    yield
    while _stopped:
        child = _stopped.pop()
        child.kill()
        child.wait()


def _state(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    return text.rpartition(")")[2].split()[0]


def test_a_client_of_a_draining_server_alone_gets_an_error(tmp_path: Path) -> None:
    """Nowhere else to go: refused by name, or no longer there."""
    with serving(*SMALL, folder=tmp_path) as (line, child):
        address = json.loads(line)["address"]
        with Client(address) as client:
            assert client.put(b"key", b"value")
            assert end(child) == 0
            with pytest.raises(MemKVError):
                client.get(b"key", timeout=5)
