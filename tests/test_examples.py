"""The examples are what the README shows; they build and run as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.commands import environment, serving
from support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


def run(*command: str | Path, folder: Path, **settings: str) -> str:
    """Runs a command to its good end and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment(**settings),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(
        *("--address", "127.0.0.1:0", "--memory", "64MiB", "--json"),
        folder=tmp_path_factory.mktemp("server"),
    ) as (line, _):
        yield json.loads(line)["address"]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C library is installed."""
    top = tmp_path_factory.mktemp("library")
    build = top / "build"
    run(
        *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DBUILD_TESTING=OFF"),
        f"--install-prefix={top / 'prefix'}",
        folder=top,
    )
    run("cmake", "--build", build, folder=top)
    run("cmake", "--install", build, folder=top)
    return top / "prefix"


@pytest.mark.parametrize("name", ["put_get.c", "put_get.py"])
def test_the_readme_shows_the_example_as_it_is(name: str) -> None:
    """Whoever copies from the README has the program that is tested here."""
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    language = {"c": "c", "py": "python"}[name.rpartition(".")[2]]
    assert f"```{language}\n{text}```" in README


def test_the_c_example_stores_and_reads(
    prefix: Path, address: str, tmp_path: Path
) -> None:
    """It compiles without a warning with what pkg-config says, twice in a row."""
    [found] = prefix.rglob("memkv.pc")
    flags = run(
        *("pkg-config", "--cflags", "--libs", "memkv"),
        folder=tmp_path,
        PKG_CONFIG_PATH=str(found.parent),
    ).split()
    source = ROOT / "examples/put_get.c"
    run("cc", *STRICT, source, "-o", "put_get", *flags, folder=tmp_path)
    for _ in range(2):
        said = run("./put_get", address, folder=tmp_path)
        assert said == "computed once, by any process\n"


def test_the_python_example_stores_and_reads(address: str, tmp_path: Path) -> None:
    """By argument or by MEMKV_SERVERS, twice in a row."""
    program = ROOT / "examples/put_get.py"
    first = run(sys.executable, program, address, folder=tmp_path)
    again = run(sys.executable, program, folder=tmp_path, MEMKV_SERVERS=address)
    assert first == again
    assert first.splitlines() == [f"chunk-{i} OK equal" for i in range(8)]
