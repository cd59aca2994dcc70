"""A server's life: what it says, what it listens on, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cli.commands import KEY, MEMKV, end, environment, run, serving

from memkv_lmcache import Client

SMALL = ("--memory", "16MiB")
ANY_PORT = ("--address", "127.0.0.1:0")


def test_one_line_says_what_it_serves(tmp_path: Path) -> None:
    """Address with the real port, memory, transports, auth; then it accepts."""
    with serving(*ANY_PORT, *SMALL, "--workers", "2", folder=tmp_path) as (line, child):
        address = line.split()[3].removesuffix(":")
        assert not address.endswith(":0")
        for words in ("memory 16 MiB", "transports tcp", "auth off", "workers 2"):
            assert words in line
        assert run("ping", "-s", address, folder=tmp_path).code == 0
        assert end(child) == 0
        assert child.stdout is not None
        assert child.stdout.read() == ""


def test_json_says_the_same(tmp_path: Path) -> None:
    """For whoever starts a server from a program."""
    with serving(
        *(*ANY_PORT, *SMALL, "--name", "memkv-0", "--json"),
        folder=tmp_path,
        MEMKV_AUTH_KEY=KEY,
    ) as (line, _):
        said = json.loads(line)
    assert said["name"] == "memkv-0"
    assert said["memory"] == 16 * 1024**2
    assert said["transports"] == ["tcp"]
    assert said["auth"] is True


def test_start_is_serve(tmp_path: Path) -> None:
    """The name that users of the other product know."""
    done = run("start", *SMALL, "--address", "bad", folder=tmp_path)
    assert "--address" in done.err
    assert done.code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    """Exit code 0 and no complaint, also with a client connected."""
    with serving(*ANY_PORT, *SMALL, "--json", folder=tmp_path) as (line, child):
        address = json.loads(line)["address"]
        with Client(address, namespace="", auth_key=None) as client:
            assert client.put(b"key", b"value")
            assert end(child, number) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_it_serves_on_a_unix_socket_and_leaves_none_behind(tmp_path: Path) -> None:
    """The socket goes when the server does."""
    socket = tmp_path / "s"
    address = f"unix:{socket}"
    with serving("--address", address, *SMALL, folder=tmp_path) as (line, child):
        assert "transports unix" in line
        assert run("put", "k", "-s", address, stdin=b"x", folder=tmp_path).code == 0
        assert run("get", "k", "-s", address, folder=tmp_path).out == b"x"
        assert end(child) == 0
    assert not socket.exists()


def test_a_yaml_configures_it(tmp_path: Path) -> None:
    """Ignored settings are said on stderr, and the rest holds."""
    (tmp_path / "memkv.yaml").write_text(
        "network: {address: '127.0.0.1:0', name: memkv-7}\n"
        "memory: {max_size: 32 MiB}\n"
        "license: abc\n"
    )
    with serving("--config", "memkv.yaml", "--json", folder=tmp_path) as (line, child):
        said = json.loads(line)
        assert (said["name"], said["memory"]) == ("memkv-7", 32 * 1024**2)
        assert end(child) == 0
        assert child.stderr is not None
        assert "license in memkv.yaml is ignored" in child.stderr.read()


def test_it_takes_more_connections_than_the_usual_limit_of_files(
    tmp_path: Path,
) -> None:
    """A soft limit of 64 open files does not stop the 100th client."""
    limited = ["sh", "-c", 'ulimit -S -n 64 && exec "$@"', "sh"]
    command = [*limited, *MEMKV, "serve", *ANY_PORT, *SMALL, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as child:
        assert child.stdout is not None
        try:
            address = json.loads(child.stdout.readline())["address"]
            host, _, port = address.rpartition(":")
            peers = [socket.create_connection((host, int(port))) for _ in range(100)]
            assert run("ping", "-s", address, folder=tmp_path).code == 0
            for peer in peers:
                peer.close()
        finally:
            child.kill()
