"""A server with a key, and the command as its clients run it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .commands import KEY, Done, run, serving

_namespaces = itertools.count()

Memkv = Callable[..., Done]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose key is KEY."""
    with serving(
        *("--address", "127.0.0.1:0", "--memory", "256MiB", "--json"),
        folder=tmp_path_factory.mktemp("server"),
        MEMKV_AUTH_KEY=KEY,
    ) as (line, _):
        yield json.loads(line)["address"]


@pytest.fixture
def memkv(address: str, tmp_path: Path) -> Memkv:
    """Runs commands in ``tmp_path``, in a namespace of this test's own."""
    namespace = f"test-{next(_namespaces)}"

    def memkv(*arguments: str | Path, **changes: object) -> Done:
        settings = {
            "folder": tmp_path,
            "MEMKV_SERVERS": address,
            "MEMKV_AUTH_KEY": KEY,
            "MEMKV_NAMESPACE": namespace,
        }
        return run(*arguments, **{**settings, **changes})  # type: ignore[arg-type]

    return memkv
