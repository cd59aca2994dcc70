# SPDX-License-Identifier: Apache-2.0
"""How a setting's value is read: sizes, keys, numbers, flags and the yaml around them.

For the client's and the server's configuration alike.  Every parser takes the value and
``where``, the setting as its user knows it, and every ConfigError begins with that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from memkv_lmcache.errors import ConfigError

_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)")
_UNITS = {
    **{"": 1, "b": 1},
    **{f"{u}ib": 1024**n for n, u in enumerate("kmgt", 1)},
    **{f"{u}b": 1000**n for n, u in enumerate("kmgt", 1)},
}
_FLAGS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def parse_size(value: object, where: str = "size") -> int:
    """Bytes from a number or a text such as ``512``, ``2 MiB``, ``1.5 GiB``, ``1 GB``.

    ConfigError, beginning with ``where``: anything else, or a fraction of a byte.
    """
    match = _SIZE.fullmatch(str(value).strip())
    unit = _UNITS.get(match[3].lower()) if match else None
    if isinstance(value, bool) or match is None or unit is None:
        raise ConfigError(
            f"{where}: {value!r} is no size; write bytes, or a number with KiB, MiB, "
            "GiB or TiB, such as 2 GiB"
        )
    digits, fraction = match[1], match[2] or ""
    scale: int = 10 ** len(fraction)
    size: int = int(digits + fraction) * unit // scale
    if size * scale != int(digits + fraction) * unit:
        raise ConfigError(f"{where}: {value!r} is no whole number of bytes")
    return size


def parse_auth_key(value: object, where: str = "auth_key") -> bytes:
    """The 32 bytes of a key, given as such or as 64 hex digits.

    The key never enters an error's text.
    """
    if isinstance(value, bytes) and len(value) == 32:
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{where}: the key is text; put its 64 hex digits in quotes")
    text = value.strip()
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise ConfigError(
            f"{where}: the key is 64 hex digits (openssl rand -hex 32); "
            f"this is {len(text)} characters"
            + (", not all of them hex" if len(text) == 64 else "")
        )
    return bytes.fromhex(text)


def read_auth_key(value: object, where: str = "auth_key_file") -> bytes:
    """The key in the file that ``value`` names."""
    path = parse_text(value, where)
    try:
        text = Path(path).expanduser().read_text("ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: {path!r} cannot be read: {error}") from None
    return parse_auth_key(text, f"{where} {path!r}")


def read_yaml(path: str, where: str) -> dict[str, Any]:
    """The mapping in a yaml file; an empty file is an empty one."""
    try:
        loaded = yaml.safe_load(Path(path).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: {path!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where}: {path!r} is no yaml: {problem}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(f"{where}: {path!r} does not hold a mapping of settings")
    return loaded


def unknown_setting(name: str, known: Iterable[str], place: str) -> ConfigError:
    """The error for a setting that nobody knows, naming the nearest known one."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
    return ConfigError(f"unknown setting {name!r} in {place}; {hint}")


def parse_text(value: object, where: str) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {value!r} is not text; put it in quotes")
    return value


def parse_transport(value: object, where: str) -> str:
    """How payload may travel."""
    if value not in ("auto", "tcp", "rdma"):
        raise ConfigError(f"{where}: {value!r} is not one of auto, tcp, rdma")
    return str(value)


def parse_devices(value: object, where: str) -> str | None:
    """RDMA devices, ``mlx5_0,mlx5_1`` or a list of them; None: none is named."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(
        isinstance(name, str) and re.fullmatch(r"\s*[\w.:-]*\s*", name)
        for name in names
    ):
        raise ConfigError(
            f"{where}: {value!r} does not name devices; write mlx5_0,mlx5_1 or a list"
        )
    return ",".join(filter(None, (name.strip() for name in names))) or None


def parse_flag(value: object, where: str) -> bool:
    """true or false, also as yes/no, on/off, 1/0."""
    flag = _FLAGS.get(str(value).lower())
    if flag is None:
        raise ConfigError(f"{where}: {value!r} is not true or false")
    return flag


def whole_number(low: int, high: int) -> Callable[[object, str], int]:
    """A parser of whole numbers from ``low`` to ``high``."""

    def parse(value: object, where: str) -> int:
        text = str(value)
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ConfigError(
                f"{where}: {value!r} is not a whole number from {low} to {high}"
            )
        return int(text)

    return parse


def parse_seconds(value: object, where: str) -> float:
    """Seconds over 0, up to an hour."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text) or not 0 < float(text) <= 3600:
        raise ConfigError(f"{where}: {value!r} is not a number of seconds up to 3600")
    return float(text)
