"""The demo is the main job: store, SIGKILL, a fresh process, every byte."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from client.serving import served
from fake_rdma import build_fake_verbs

from memkv_lmcache.cli.main import main
from memkv_lmcache.client import Client
from memkv_lmcache.config import load
from memkv_lmcache.demo import values
from memkv_lmcache.demo.run import Outcome
from memkv_lmcache.processes import Server
from memkv_lmcache.ways import moved

from .commands import run

CHUNK_BYTES = 16 * 1024  # a token of the demo's model


def test_bytes_come_back_without_torch_or_lmcache(tmp_path: Path) -> None:
    """What a killed writer stored, a fresh process reads by its headers."""
    outcome = run("demo", "--bytes", "--json", "--chunks", "20", folder=tmp_path).json
    assert outcome["verified"] is True
    assert outcome["stored_chunks"] == outcome["warm_hit_chunks"] == 20
    assert outcome["bytes"] == 20 * 2 * 1024**2
    assert outcome["server_get_items"] == 20
    assert outcome["server_get_bytes"] == outcome["bytes"]
    assert outcome["put_gbps"] > 0
    assert outcome["get_gbps"] > 0


def test_it_says_how_the_bytes_travelled(tmp_path: Path) -> None:
    """By the counters of each process' own client, and by the server's."""
    outcome = run(
        *("demo", "--bytes", "--json", "--chunks", "2", "--transport", "tcp"),
        folder=tmp_path,
    ).json
    size = outcome["bytes"]
    assert outcome["bytes_inline"] == outcome["put_bytes_inline"] == size
    assert outcome["server_bytes_inline"] == 2 * size
    for name in ("bytes_remote", "put_bytes_remote", "server_bytes_remote"):
        assert outcome[name] == 0


def test_plain_values_lie_in_registered_memory(tmp_path: Path) -> None:
    """What both workers do, in one process: the fake verbs library reaches no other."""
    library = str(build_fake_verbs(tmp_path))
    with served(transport="rdma", verbs_library=library) as server:
        settings = {"servers": server.address, "transport": "rdma"}
        config = load({**settings, "verbs_library": library})
        with Client(config=config) as writer, Client(config=config) as reader:
            assert values._store(writer, 20)["chunks"] == 20
            assert values._load(reader)["right"] == 20
            for client in (writer, reader):
                size = 20 * 2 * 1024**2
                assert moved(client) == {"bytes_remote": size, "bytes_inline": 0}


@pytest.mark.parametrize("what", [["--bytes"], []])
def test_without_rdma_the_reason_is_named(tmp_path: Path, what: list[str]) -> None:
    """One line and no traceback: what is missing, and which command knows more."""
    done = run(
        *("demo", "--json", "--transport", "rdma", *what),
        folder=tmp_path,
        MEMKV_VERBS_LIBRARY="/nonexistent/libibverbs.so",
    )
    assert done.code == 2
    assert done.out == b""
    [line] = done.err.splitlines()
    for words in ("transport rdma", "/nonexistent/libibverbs.so", "memkv doctor"):
        assert words in line


def test_one_copied_byte_is_enough() -> None:
    """Whichever of the three says so, and however much went by RDMA."""
    outcome = Outcome(
        stored_chunks=1,
        warm_hit_chunks=1,
        bytes=100,
        verified=True,
        put_gbps=1.0,
        get_gbps=1.0,
        server_get_items=1,
        server_get_bytes=100,
        bytes_remote=100,
        bytes_inline=0,
        put_bytes_remote=100,
        put_bytes_inline=0,
        server_bytes_remote=200,
        server_bytes_inline=0,
        warm_start_s=1.0,
    )
    assert outcome.is_uncopied
    for name in ("bytes_inline", "put_bytes_inline", "server_bytes_inline"):
        assert not replace(outcome, **{name: 1}).is_uncopied
    for name in ("bytes_remote", "put_bytes_remote"):
        assert not replace(outcome, **{name: 99}).is_uncopied
    assert not replace(outcome, server_bytes_remote=199).is_uncopied


def test_a_fresh_engine_starts_warm(tmp_path: Path) -> None:
    """Real LMCache engines in two processes: every chunk is a hit, byte for byte."""
    done = run(
        *("demo", "--json", "--chunks", "3", "--chunk-size", "64"),
        folder=tmp_path,
        timeout=280,
    )
    outcome = done.json
    assert outcome["verified"] is True
    assert outcome["stored_chunks"] == outcome["warm_hit_chunks"] == 3
    assert outcome["bytes"] == 3 * 64 * CHUNK_BYTES
    assert outcome["server_get_items"] == 3
    assert outcome["server_get_bytes"] == outcome["bytes"]
    assert outcome["prefill_s"] > 0


def test_the_table_says_it_to_humans(tmp_path: Path) -> None:
    """Steps on stderr, the result on stdout."""
    done = run(
        *("demo", "--bytes", "--chunks", "2", "--transport", "tcp"), folder=tmp_path
    )
    assert done.code == 0
    assert "killed by SIGKILL" in done.err
    table = dict(line.rsplit("  ", 1) for line in done.out.decode().splitlines())
    shown = {name.strip(): value.strip() for name, value in table.items()}
    assert shown["chunks found by a fresh process"] == "2 (100%)"
    assert shown["moved by RDMA"] == "0 B"
    assert shown["copied by the CPU on the stream"] == "4 MiB"
    assert shown["every byte as it was"] == "yes"


def test_nothing_is_verified_that_the_server_did_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader's word alone is not enough: the command ends with 1."""
    names = "get_hits", "get_bytes", "bytes_remote", "bytes_inline"
    monkeypatch.setattr(Server, "counters", lambda self: dict.fromkeys(names, 0))
    assert main(["demo", "--bytes", "--json", "--chunks", "1"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["warm_hit_chunks"] == 1
    assert outcome["verified"] is False


def test_without_the_engine_both_ways_on_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line: what is missing, how to install it, and what works without."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("torch", "lmcache") else find_spec(name),
    )
    assert main(["demo"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    for words in ("lmcache, torch", "pip install '.[lmcache]'", "memkv demo --bytes"):
        assert words in line


def test_settings_of_the_user_do_not_reach_the_demo(tmp_path: Path) -> None:
    """It talks to its own server, whatever MEMKV_* says."""
    outcome = run(
        *("demo", "--bytes", "--json", "--chunks", "1"),
        folder=tmp_path,
        MEMKV_SERVERS="127.0.0.1:1",
        MEMKV_AUTH_KEY="11" * 32,
        MEMKV_NAMESPACE="mine",
    ).json
    assert outcome["verified"] is True
