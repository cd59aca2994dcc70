"""Bad input gets one clear line, the exit code of its kind, and never a traceback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest

from .commands import KEY, Done, run, serving
from .conftest import Memkv

OTHER_KEY = "a5" * 32


def one_line(done: Done) -> str:
    """The message of a failure: a single line that names the program."""
    assert "Traceback" not in done.err
    [line] = done.err.splitlines()
    assert line.startswith("memkv: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["ls"], {"MEMKV_SERVERS": "nonsense"}, ["MEMKV_SERVERS", "host:port"]),
        (["ls"], {"MEMKV_SERVERS": "a:1,,b:2"}, ["MEMKV_SERVERS", "empty"]),
        (["ls"], {"MEMKV_SERVERS": "a:99999"}, ["MEMKV_SERVERS", "1..65535"]),
        (["ls", "--server", "nonsense"], {}, ["--server", "host:port"]),
        (["ls"], {"MEMKV_AUTH_KEY": "12ab"}, ["MEMKV_AUTH_KEY", "64 hex digits"]),
        (["ls", "--auth-key-file", "none"], {}, ["--auth-key-file", "none"]),
        (["ls"], {"MEMKV_CONFIG": "none.yaml"}, ["MEMKV_CONFIG", "none.yaml"]),
        (["ls"], {"MEMKV_CONFIG": "bad.yaml"}, ["severs", "did you mean servers"]),
        (["ls"], {"MEMKV_CONFIG": "broken.yaml"}, ["MEMKV_CONFIG", "no yaml"]),
        (["ls", "--timeout", "soon"], {}, ["--timeout", "seconds"]),
        (["ls", "--limit", "-1"], {}, ["--limit", "whole number"]),
        (["ls", "--colour"], {}, ["--colour", "memkv ls --help"]),
        (["put"], {}, ["KEY", "memkv put --help"]),
        (["put", "key", "absent.bin"], {}, ["absent.bin", "No such file"]),
        (["put", "k" * 513], {}, ["KEY", "1 to 512 bytes", "513"]),
        (["get", ""], {}, ["KEY", "1 to 512 bytes"]),
        (["get", "hex:xyz"], {}, ["KEY", "hex"]),
        (["get", "key", "--json"], {}, ["--json", "FILE"]),
        (["frobnicate"], {}, ["frobnicate", "memkv --help"]),
        (["serve", "--memory", "lots"], {}, ["--memory", "GiB"]),
        (["serve", "--memory", "4KiB"], {}, ["memory", "at least"]),
        (["serve", "--workers", "0"], {}, ["--workers", "1"]),
        (["serve", "--transport", "udp"], {}, ["--transport", "auto, tcp, rdma"]),
        (["serve", "--transport", "rdma", "--rdma-devices", "none0"], {}, ["rdma: "]),
        (["serve", "--rdma-devices", "a b"], {}, ["--rdma-devices", "mlx5_0"]),
        (["serve", "--address", "nowhere"], {}, ["--address", "host:port"]),
        (["serve", "--address", "0.0.0.0:0"], {}, ["0.0.0.0:0", "key"]),
        (["serve", "--config", "none.yaml"], {}, ["--config", "none.yaml"]),
        (["serve", "--config", "bad.yaml"], {}, ["severs", "bad.yaml"]),
        (["serve"], {"MEMKV_AUTH_KEY": "12ab"}, ["MEMKV_AUTH_KEY", "64 hex digits"]),
        (["demo", "--chunks", "0"], {}, ["--chunks", "1"]),
        (["bench", "--sizes", "4MiB,3"], {}, ["--sizes", "KiB"]),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_with_what_would_be_right(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], said: list[str]
) -> None:
    """One line that names the setting; exit code 2."""
    (tmp_path / "bad.yaml").write_text("severs: [a:1]\n")
    (tmp_path / "broken.yaml").write_text("servers: [\n")
    done = run(*arguments, folder=tmp_path, **settings)
    line = one_line(done)
    for words in said:
        assert words in line
    assert done.code == 2


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Two servers on one port: the second says so and exits 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--address", address, folder=tmp_path)
    assert "port in use" in one_line(done)
    assert address in done.err
    assert done.code == 2


@pytest.mark.parametrize("key", [OTHER_KEY, None], ids=["other key", "no key"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["ping"],
        ["stat"],
        ["ls"],
        ["get", "a"],
        ["rm", "a"],
        ["stat", "a"],
        ["put", "a"],
    ],
    ids=" ".join,
)
def test_a_wrong_key_is_said_once(
    tmp_path: Path, address: str, arguments: list[str], key: str | None
) -> None:
    """One line with the word auth, exit code 4."""
    settings = {"MEMKV_SERVERS": address}
    if key is not None:
        settings["MEMKV_AUTH_KEY"] = key
    done = run(*arguments, folder=tmp_path, **settings)
    assert ": auth: " in one_line(done)
    assert done.code == 4


def test_a_wrong_key_is_not_tried_again_and_again(tmp_path: Path) -> None:
    """A command with a wrong key knocks a few times at most, whatever its time-out."""
    with serving(
        *("--address", "127.0.0.1:0", "--memory", "16MiB", "--json"),
        folder=tmp_path,
        MEMKV_AUTH_KEY=KEY,
    ) as (line, _):
        servers = json.loads(line)["address"]
        for _ in range(3):
            done = run(
                *("get", "a", "--timeout", "5"),
                folder=tmp_path,
                MEMKV_SERVERS=servers,
                MEMKV_AUTH_KEY=OTHER_KEY,
            )
            assert done.code == 4
        right = {"MEMKV_SERVERS": servers, "MEMKV_AUTH_KEY": KEY}
        [state] = run("stat", "--json", folder=tmp_path, **right).json
    assert 3 <= state["auth_failures"] <= 9


@pytest.mark.parametrize(
    "arguments",
    [["ping"], ["stat"], ["ls"], ["get", "a"], ["rm", "a"], ["put", "a"]],
    ids=" ".join,
)
def test_a_server_that_is_not_there_is_exit_code_3(
    tmp_path: Path, arguments: list[str]
) -> None:
    """The line names the server and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    done = run(*arguments, "--server", address, folder=tmp_path)
    line = one_line(done)
    assert address in line
    assert "refused" in line
    assert done.code == 3


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    """--timeout holds: one line, exit code 3."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run("get", "a", "-s", address, "--timeout", "0.2", folder=tmp_path)
    one_line(done)
    assert done.code == 3


def test_what_answers_but_is_no_server_of_ours_is_exit_code_3(tmp_path: Path) -> None:
    """A web server, say: the line tells what it seems to be not."""
    with socket.create_server(("127.0.0.1", 0)) as web:
        address = f"127.0.0.1:{web.getsockname()[1]}"

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = web.accept()
                    with peer:
                        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
                        peer.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("ping", "-s", address, folder=tmp_path)
        web.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "not a memkv server" in one_line(done)
    assert done.code == 3


def test_one_server_of_two_being_down_hides_nothing_of_the_other(
    memkv: Memkv, address: str
) -> None:
    """ls and stat show what they get, then exit by what they did not get."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        down = f"127.0.0.1:{gone.getsockname()[1]}"
    memkv("put", "key", stdin=b"x")
    for command in ("ls", "stat", "ping"):
        done = memkv(command, "--json", MEMKV_SERVERS=f"{address},{down}")
        assert done.code == 3
        assert down in one_line(done)
        assert json.loads(done.out)


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    """Whoever types `memkv` sees the commands, examples and exit codes; exit code 2."""
    done = run(folder=tmp_path)
    assert done.code == 2
    for words in ("serve", "Exit codes", "memkv demo --bytes"):
        assert words in done.err


@pytest.mark.parametrize(
    "command",
    ["serve", "start", "demo", "bench", "ping", "stat", "ls", "get", "put", "rm"],
)
def test_help_has_examples(tmp_path: Path, command: str) -> None:
    """Each command's help shows how it is typed."""
    done = run(command, "--help", folder=tmp_path)
    assert done.code == 0
    assert b"Examples:\n    memkv " in done.out
