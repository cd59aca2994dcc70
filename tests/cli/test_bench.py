"""`memkv bench`: the figures are there; how large they are is not a test's affair."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from client.serving import served
from fake_rdma import build_fake_verbs

from memkv_lmcache import Client
from memkv_lmcache.bench import ground
from memkv_lmcache.cli.main import main
from memkv_lmcache.config import load

from .commands import run

QUICK = ("bench", "--seconds", "0.02", "--rounds", "1")
ON_RDMA = (*QUICK, "--transport", "rdma", "--sizes", "64KiB,4MiB")

# Both ends of a tool: 300 and 500 MiB/s.
PERFTEST = """#!/bin/sh
echo "$(basename "$0") $*" >> "{calls}"
size=$(echo "$*" | sed 's/.*-s \\([0-9]*\\).*/\\1/')
case "$0" in *write*) rate=300.00 ;; *) rate=500.00 ;; esac
case "$*" in *127.0.0.1)
    echo " Mtu             : 4096[B]"
    echo " #bytes  #iterations  BW peak[MB/sec]  BW average[MB/sec]  MsgRate[Mpps]"
    echo " $size    16               999.95             $rate          0.000036"
esac
"""


class ServerHere(contextlib.ExitStack):
    """Stands for the server's process: the fake library knows one process' memory."""

    no_rdma = ""

    def __init__(
        self,
        folder: Path,
        memory: int,
        workers: int,
        *,
        rdma_devices: str | None,
        verbs_library: str | None,
    ) -> None:
        super().__init__()
        assert workers == 1
        self._where = {"rdma_devices": rdma_devices, "verbs_library": verbs_library}
        server = self.enter_context(served(memory=memory, **self._where))
        assert server.why_no_rdma is None
        self.address = server.address

    def client(self, **settings: object) -> Client:
        return Client(config=load({**settings, **self._where, "servers": self.address}))


Bench = Callable[..., int]


@pytest.fixture
def bench_here(monkeypatch: pytest.MonkeyPatch, verbs_library: str) -> Bench:
    """Runs ``memkv bench`` in this process, on RDMA, and returns its exit code."""

    def bench(*arguments: str, **environ: str) -> int:
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("MEMKV_VERBS_LIBRARY", verbs_library)
        monkeypatch.setattr(ground, "Server", ServerHere)
        return main([*ON_RDMA, *arguments])

    return bench


def with_perftest(folder: Path) -> str:
    """A PATH with the tools in front; what they are told is in ``folder / calls``."""
    for name in ("ib_write_bw", "ib_read_bw"):
        tool = folder / name
        tool.write_text(PERFTEST.format(calls=folder / "calls"))
        tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def verbs_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


def test_each_figure_stands_beside_the_raw_one(tmp_path: Path) -> None:
    """GET, PUT and lookups of ours, and of the bare engine in the same run."""
    report = run(*QUICK, "--sizes", "64KiB,4MiB", "--json", folder=tmp_path).json
    assert report["transport"] == "tcp"
    assert report["device"] is None
    assert report["has_raw"] is True
    assert report["raw_get"] == report["raw_put"] == "raw_loopback.c"
    assert [one["size"] for one in report["throughput"]] == [65_536, 4 * 1024**2]
    assert report["throughput"][0]["batch"] == 64
    for one in report["throughput"]:
        assert one["bytes_inline"] >= 3 * one["batch"] * one["size"]
        assert one["bytes_remote"] == 0
        for way in ("get", "put"):
            ours, raw = one[f"{way}_gbps"], one[f"raw_{way}_gbps"]
            assert ours > 0
            assert raw > 0
            assert abs(one[f"{way}_ratio"] - ours / raw) < 0.02
    looked = report["lookups"]
    assert looked["keys_per_batch"] == 1000
    assert 0 < looked["p50_ms"] <= looked["p99_ms"]
    assert looked["raw_p50_ms"] > 0
    assert looked["keys_per_s"] > 0


def test_without_a_compiler_it_measures_ours_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    """As after a plain pip install: no raw figures, and how to get them."""
    done = run(*QUICK, "--sizes", "64KiB", folder=tmp_path, CC="no-such-compiler")
    assert done.code == 0
    assert "make bench" in done.err
    assert b"64 KiB" in done.out
    quiet = run(
        *(*QUICK, "--sizes", "64KiB", "--json"), folder=tmp_path, CC="no-such-compiler"
    ).json
    assert quiet["has_raw"] is False
    assert quiet["throughput"][0]["raw_get_gbps"] is None
    assert quiet["throughput"][0]["get_gbps"] > 0


def test_on_rdma_perftest_is_raw_and_nothing_goes_inline(
    tmp_path: Path, bench_here: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """ib_write_bw beside GET, ib_read_bw beside PUT, of the size and on the device."""
    assert bench_here("--json", PATH=with_perftest(tmp_path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["transport"] == "rdma"
    assert report["device"].startswith("fake0 port 1")
    assert (report["raw_get"], report["raw_put"]) == ("ib_write_bw", "ib_read_bw")
    assert report["lookups"] is None
    for one in report["throughput"]:
        assert one["bytes_inline"] == 0
        assert one["bytes_remote"] >= 4 * one["batch"] * one["size"]
        for way, raw in (("get", 300), ("put", 500)):
            assert one[f"raw_{way}_gbps"] == round(raw * 1024**2 / 1e9, 3)
            ours = one[f"{way}_gbps"]
            assert ours > 0
            assert abs(one[f"{way}_ratio"] - ours / (raw * 1024**2 / 1e9)) < 0.01
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("-d fake0 -i 1 " in call for call in calls)
    tools = {"ib_write_bw", "ib_read_bw"}
    assert {call.split()[0] for call in calls if "-s 4194304" in call} == tools


def test_without_perftest_it_measures_ours_and_names_the_package(
    tmp_path: Path, bench_here: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The devices of MEMKV_RDMA_DEVICES are those of server and client."""
    assert bench_here(PATH=str(tmp_path), MEMKV_RDMA_DEVICES="fake1") == 0
    said = capsys.readouterr()
    assert "ib_write_bw and ib_read_bw, of the package perftest" in said.err
    assert "by fake1 port 1" in said.out


def test_a_tool_that_fails_says_why(
    tmp_path: Path, bench_here: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends the run: half of a comparison is none."""
    path = with_perftest(tmp_path)
    (tmp_path / "ib_read_bw").write_text("#!/bin/sh\necho no such device >&2\nexit 1\n")
    assert bench_here(PATH=path) == 1
    said = capsys.readouterr()
    assert "ib_read_bw" in said.err
    assert "no such device" in said.err
    assert said.out == ""


def test_bytes_on_the_stream_are_no_figures_of_rdma(
    tmp_path: Path,
    bench_here: Bench,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the memory is not registered, though the client says that it is: the run
    fails and says so."""
    register = Client.register
    monkeypatch.setattr(Client, "registered_bytes", lambda client: 1 << 40)
    monkeypatch.setattr(
        Client, "register", lambda client, memory: register(client, memory[: 2 << 20])
    )
    assert bench_here(PATH=with_perftest(tmp_path)) == 2
    assert "bytes travelled on the stream" in capsys.readouterr().err


def test_without_rdma_it_says_why_and_what_helps(tmp_path: Path) -> None:
    """Exit code 2: this host cannot do it."""
    done = run(*ON_RDMA, folder=tmp_path, MEMKV_VERBS_LIBRARY="no-such-library.so")
    assert done.code == 2
    assert "no-such-library.so" in done.err
    assert "memkv doctor" in done.err
    assert done.out == b""


def test_sizes_that_never_go_by_rdma_are_refused(tmp_path: Path) -> None:
    """Rather than measured on the stream."""
    done = run("bench", "--transport", "rdma", "--sizes", "4KiB", folder=tmp_path)
    assert done.code == 2
    assert "64 KiB" in done.err
