"""put, get, stat, ls and rm on a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from memkv_lmcache import Client
from memkv_lmcache.config import load
from memkv_lmcache.header import ShapeHeader, Tensor, pack

from .commands import KEY, MEMKV, environment
from .conftest import Memkv

SIZES = [0, 1, 4096, 65_537, 20 * 1024**2 + 3]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_back_as_it_was(memkv: Memkv, tmp_path: Path, size: int) -> None:
    """put, then get into another file: the same bytes, and nothing beside it."""
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert memkv("put", "key", "a", "--json").json["stored"] is True
    assert memkv("get", "key", "b", "--json").json["size"] == size
    assert (tmp_path / "b").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("size", SIZES)
def test_values_go_through_pipes(memkv: Memkv, size: int) -> None:
    """Without a file put reads standard input and get writes standard output."""
    data = os.urandom(size)
    assert memkv("put", "key", stdin=data).code == 0
    done = memkv("get", "key")
    assert (done.code, done.out) == (0, data)


def test_get_keeps_a_device_a_device(memkv: Memkv) -> None:
    """What is no regular file is written to, not replaced."""
    memkv("put", "key", stdin=b"abc")
    assert memkv("get", "key", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_a_failed_get_leaves_the_old_file(memkv: Memkv, tmp_path: Path) -> None:
    """FILE appears whole or not at all, and no half of it stays behind."""
    (tmp_path / "a").write_bytes(b"old")
    assert memkv("get", "absent", "a").code == 1
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_get_writes_has_the_usual_permissions(
    memkv: Memkv, tmp_path: Path
) -> None:
    """The umask alone decides, as for any file that a program makes."""
    memkv("put", "key", stdin=b"abc")
    memkv("get", "key", "a")
    (tmp_path / "usual").touch()
    modes = {os.stat(tmp_path / name).st_mode for name in ("a", "usual")}
    assert len(modes) == 1


def test_a_value_of_that_size_stays_unless_replaced(memkv: Memkv) -> None:
    """Values never change by themselves; the second put says so."""
    assert memkv("put", "key", "--json", stdin=b"old").json["stored"] is True
    again = memkv("put", "key", stdin=b"new")
    assert again.code == 0
    assert "stays" in again.err
    assert memkv("get", "key").out == b"old"
    assert memkv("put", "key", "--replace", stdin=b"new").code == 0
    assert memkv("get", "key").out == b"new"


def test_a_value_of_another_size_replaces(memkv: Memkv) -> None:
    """Its shape header differs, so the newer one holds."""
    memkv("put", "key", stdin=b"old")
    memkv("put", "key", stdin=b"newer")
    assert memkv("get", "key").out == b"newer"


@pytest.mark.parametrize("key", ["k" * 512, "hex:00ff0a", "ä key", "hex:6865783a"])
def test_any_key_can_be_typed_and_is_shown_as_typed(memkv: Memkv, key: str) -> None:
    """512 bytes, bytes that are no text, blanks, and a key that begins like hex."""
    assert memkv("put", "--", key, stdin=b"x").code == 0
    assert json.loads(memkv("ls", "--json").out)["key"] == key
    assert memkv("get", "--", key).out == b"x"
    assert memkv("rm", "--", key).code == 0


def test_a_value_over_the_servers_limit_fails_alone(memkv: Memkv) -> None:
    """A quarter of the server's memory is the most; more is one line and exit 1."""
    done = memkv("put", "key", stdin=bytes(65 * 1024**2))
    assert done.code == 1
    assert "a quarter of its memory" in done.err


def test_a_value_lives_as_long_as_it_was_given(memkv: Memkv) -> None:
    """With --ttl it is gone by itself; a thousandth of a second is over at once."""
    memkv("put", "key", "--ttl", "0.001", stdin=b"x")
    assert memkv("stat", "key").code == 1


def test_rm_removes_what_is_there_and_says_what_is_not(memkv: Memkv) -> None:
    """An absent key makes it exit 1, and the others are gone all the same."""
    memkv("put", "a", stdin=b"x")
    done = memkv("rm", "a", "b", "--json")
    assert done.code == 1
    assert json.loads(done.out) == {"removed": ["a"]}
    assert done.err.splitlines() == ["memkv: b: no such key"]
    assert memkv("stat", "a").code == 1


def test_ls_explains_values_by_their_shape_headers(memkv: Memkv, address: str) -> None:
    """Type, shape and the full text of a key that is stored under its hash."""
    text = "model@1@0@" + "a" * 500
    key = b"memkv-h2:" + b"0" * 64
    tensor = Tensor("bfloat16", (2, 4, 16, 8))
    namespace = memkv("config", "--json").json["namespace"]["value"]
    settings = {"servers": address, "auth_key": KEY, "namespace": namespace}
    with Client(config=load(settings, environ={})) as client:
        header = pack(ShapeHeader(tensor.nbytes, 1, (tensor,), text), key)
        client.put(key, bytes(tensor.nbytes), header)
        client.put(b"bare", b"abc", b"no shape header")
    table = memkv("ls").out.decode()
    assert "bfloat16[2, 4, 16, 8]" in table
    assert text in table
    assert "no shape header" in table
    lines = [json.loads(line) for line in memkv("ls", "--json").out.splitlines()]
    found = {line["key"]: line for line in lines}
    assert found[key.decode()]["text"] == text
    assert found[key.decode()]["tensors"] == [
        {"dtype": "bfloat16", "shape": [2, 4, 16, 8]}
    ]
    assert found["bare"]["tensors"] == []


def test_ls_stops_at_its_limit_and_says_so(memkv: Memkv) -> None:
    """Nobody takes a part of the list for the whole."""
    for key in ("a", "b", "c"):
        memkv("put", key, stdin=b"x")
    done = memkv("ls", "--limit", "2")
    assert len(done.out.splitlines()) == 3
    assert "--limit 0" in done.err
    assert memkv("ls", "--limit", "3").err == ""
    assert len(memkv("ls", "--limit", "0", "--json").out.splitlines()) == 3


def test_stat_tells_of_servers_and_of_keys(memkv: Memkv, address: str) -> None:
    """Without keys the server's counters, with keys their sizes."""
    memkv("put", "key", stdin=b"abc")
    memkv("get", "key")
    [server] = memkv("stat", "--json").json
    assert server["server"] == address
    assert server["get_hits"] >= 1
    [value] = memkv("stat", "key", "--json").json
    assert (value["key"], value["size"]) == ("key", 3)
    assert memkv("stat").out
    assert b"bytes" in memkv("stat", "key").out


def test_ping_says_who_answers(memkv: Memkv, address: str) -> None:
    """Name, version and whether a key is asked for."""
    [answer] = memkv("ping", "--json").json
    assert answer["server"] == answer["name"] == address
    assert answer["auth"] is True
    assert address in memkv("ping").out.decode()


def test_config_shows_values_and_places_but_no_key(memkv: Memkv, address: str) -> None:
    """Each setting says where it comes from; the key stays secret."""
    done = memkv("config")
    assert KEY not in done.out.decode() + done.err
    shown = memkv("config", "--json").json
    assert shown["servers"] == {"value": address, "source": "MEMKV_SERVERS"}
    assert shown["auth_key"]["value"] == "(set)"
    assert shown["layerwise"]["source"] == "default"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`memkv config | head -0` says nothing on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*MEMKV, "config"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""
