"""How single values of settings are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import (
    parse_auth_key,
    parse_flag,
    parse_seconds,
    parse_size,
    read_auth_key,
    read_yaml,
    unknown_setting,
    whole_number,
)

KEY = "0123456789abcdefABCDEF" + "0" * 42


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (512, 512),
        ("512", 512),
        ("1B", 1),
        ("2 MiB", 2 * 1024**2),
        ("247 GiB", 247 * 1024**3),
        ("1TiB", 1024**4),
        ("1.5 gib", 3 * 512 * 1024**2),
        ("1 kb", 1000),
        ("0.5 GB", 500_000_000),
        (" 3 KiB ", 3072),
    ],
)
def test_sizes(value: object, size: int) -> None:
    """A size is a number of bytes, or a number with a binary or decimal unit."""
    assert parse_size(value, "memory") == size


@pytest.mark.parametrize(
    "value", ["", "GiB", "1 Gi", "1 GiBs", "-1", "1e3", "0.3 B", "1,5 GiB", None, True]
)
def test_wrong_sizes(value: object) -> None:
    """Anything else is an error that names setting and value."""
    with pytest.raises(ConfigError, match=r"^memory: ") as caught:
        parse_size(value, "memory")
    assert repr(value) in str(caught.value)


@given(st.integers(0, 2**62))
def test_sizes_print_and_parse(size: int) -> None:
    """Every number of bytes is read back exactly, with a unit too."""
    assert parse_size(str(size)) == size
    assert parse_size(f"{size} GiB") == size * 1024**3


def test_auth_keys(tmp_path: Path) -> None:
    """A key is 64 hex digits, in the setting or in a file, or its 32 bytes."""
    key = bytes.fromhex(KEY)
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert parse_auth_key(KEY) == key
    assert parse_auth_key(key) == key
    assert read_auth_key(str(file)) == key


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (KEY[:-1], "63 characters"),
        (KEY[:-1] + "g", "not all of them hex"),
        (int("1" * 64), "in quotes"),
        (None, "in quotes"),
        ("", "0 characters"),
    ],
)
def test_wrong_auth_keys_are_not_printed(value: object, says: str) -> None:
    """The error says what is wrong with a key, and never the key."""
    with pytest.raises(ConfigError, match=r"^MEMKV_AUTH_KEY: ") as caught:
        parse_auth_key(value, "MEMKV_AUTH_KEY")
    assert says in str(caught.value)
    assert not value or str(value)[:20] not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names the setting and the file."""
    with pytest.raises(ConfigError, match=r"^auth_key_file: '.*none' cannot be read"):
        read_auth_key(str(tmp_path / "none"))


def test_flags_numbers_and_seconds() -> None:
    """The other kinds of values, at their limits."""
    assert [parse_flag(value, "f") for value in (True, "YES", "1", "on")] == [True] * 4
    assert [parse_flag(value, "f") for value in (False, "no", 0, "Off")] == [False] * 4
    assert [whole_number(1, 64)(value, "n") for value in (1, "64")] == [1, 64]
    assert [parse_seconds(value, "s") for value in (1, "0.5", 3600)] == [1, 0.5, 3600]
    for parse, value in [
        (parse_flag, "maybe"),
        (whole_number(1, 64), 0),
        (whole_number(1, 64), 65),
        (whole_number(1, 64), 1.0),
        (whole_number(1, 64), True),
        (parse_seconds, 0),
        (parse_seconds, "nan"),
        (parse_seconds, "3600.1"),
    ]:
        with pytest.raises(ConfigError, match=r"^x: "):
            parse(value, "x")


@pytest.mark.parametrize("text", ["- a", "a", "1: 2", "{a", "\x00", "a: b: c"])
def test_files_that_hold_no_settings(text: str, tmp_path: Path) -> None:
    """The error names the variable and the file, on one line."""
    file = tmp_path / "memkv.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"^MEMKV_CONFIG: '.*memkv\.yaml' ") as caught:
        read_yaml(str(file), "MEMKV_CONFIG")
    assert "\n" not in str(caught.value)


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    """All settings commented out is fine."""
    file = tmp_path / "memkv.yaml"
    file.write_text("# nothing\n")
    assert read_yaml(str(file), "MEMKV_CONFIG") == {}


def test_unknown_settings_name_the_nearest() -> None:
    """A typing error is answered by what was meant, anything else by what there is."""
    known = ["servers", "namespace"]
    assert "did you mean servers?" in str(unknown_setting("sevrers", known, "f"))
    assert "known: namespace, servers" in str(unknown_setting("xyzzy", known, "f"))
