"""The demo is the main job: store, SIGKILL, a fresh process, every byte."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from memkv_lmcache.cli.main import main
from memkv_lmcache.processes import Server

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
    done = run("demo", "--bytes", "--chunks", "2", folder=tmp_path)
    assert done.code == 0
    assert "killed by SIGKILL" in done.err
    table = dict(line.rsplit("  ", 1) for line in done.out.decode().splitlines())
    shown = {name.strip(): value.strip() for name, value in table.items()}
    assert shown["chunks found by a fresh process"] == "2 (100%)"
    assert shown["every byte as it was"] == "yes"


def test_nothing_is_verified_that_the_server_did_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader's word alone is not enough: the command ends with 1."""
    monkeypatch.setattr(
        Server, "counters", lambda self: {"get_hits": 0, "get_bytes": 0}
    )
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
