"""Commands that are about a whole fleet: listing, erasing, and watching it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.commands import MEMKV, environment, run
from client.serving import served

from memkv_lmcache import Client
from memkv_lmcache.client import Put

KEYS = [b"key-%d" % i for i in range(40)]


@pytest.fixture
def servers() -> Iterator[str]:
    with served() as one, served() as two:
        setting = f"s0={one.address},s1={two.address}"
        for namespace in ("mine", "theirs"):
            with Client(setting, namespace=namespace) as client:
                client.put_many([Put(key, b"value") for key in KEYS])
        yield setting


def count(servers: str, namespace: str) -> int:
    with Client(servers, namespace=namespace) as client:
        return len(list(client.list()))


def test_ls_lists_all_servers(servers: str, tmp_path: Path) -> None:
    """Each value once, with where it is."""
    done = run("ls", "-s", servers, "-n", "mine", "--json", folder=tmp_path)
    entries = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(entry["key"].encode() for entry in entries) == sorted(KEYS)
    assert {entry["server"] for entry in entries} == {"s0", "s1"}


def test_rm_erases_a_namespace_that_is_named(servers: str, tmp_path: Path) -> None:
    """With --yes, since nobody can be asked here; the other one stays."""
    where = ("-s", servers, "--namespace", "mine")
    refused = run("rm", *where, folder=tmp_path)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert count(servers, "mine") == len(KEYS)
    done = run("rm", *where, "--yes", "--json", folder=tmp_path)
    erased = done.json["erased"]
    assert erased.keys() == {"s0", "s1"}
    assert sum(erased.values()) == len(KEYS)
    assert count(servers, "mine") == 0
    assert count(servers, "theirs") == len(KEYS)


def test_rm_erases_nothing_that_is_not_named(servers: str, tmp_path: Path) -> None:
    """A namespace of the environment is not enough, even with --yes."""
    for more in ((), ("--yes",)):
        done = run(
            *("rm", "-s", servers, *more), folder=tmp_path, MEMKV_NAMESPACE="mine"
        )
        assert done.code == 2
        assert "--namespace" in done.err
    assert count(servers, "mine") == len(KEYS)


def test_rm_says_which_server_it_could_not_empty(servers: str, tmp_path: Path) -> None:
    """The others are empty then, and the exit code says that one is not."""
    with served() as gone:
        address = gone.address
    where = ("-s", f"{servers},gone={address}", "--namespace", "mine")
    done = run("rm", *where, "--yes", folder=tmp_path)
    assert done.code == 3
    assert "gone" in done.err
    assert count(servers, "mine") == 0


def test_stat_watches_servers(servers: str, tmp_path: Path) -> None:
    """Again and again until it is interrupted; a server that is away has a row too."""
    with served() as gone:
        address = gone.address
    command = (*MEMKV, "stat", "-s", f"{servers},gone={address}", "--watch", "0.1")
    for more in ((), ("--json",)):
        with subprocess.Popen(
            [*command, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(),
        ) as watch:
            assert watch.stdout is not None
            assert watch.stderr is not None
            try:
                lines = [watch.stdout.readline() for _ in range(8)]
                watch.send_signal(signal.SIGINT)
                assert watch.wait(20) == 128 + signal.SIGINT
                assert watch.stderr.read().strip() == ""
            finally:
                watch.kill()
        if more:
            for line in lines[:3]:
                one, two, away = json.loads(line)
                assert (one["values"] + two["values"]) == 2 * len(KEYS)
                assert "refused" in away["error"]
        else:
            assert lines[0].startswith("SERVER")
            assert lines[4].startswith("SERVER")
            assert [line.split()[0] for line in lines[5:8]] == ["s0", "s1", "gone"]
            assert "refused" in lines[7]


def test_watching_is_not_for_keys(servers: str, tmp_path: Path) -> None:
    """One of the two."""
    done = run("stat", "-s", servers, "--watch", "1", "key", folder=tmp_path)
    assert done.code == 2
