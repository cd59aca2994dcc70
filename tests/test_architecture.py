"""The rule of arrows: what each part may know.  A new file finds its place here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

MAX_LINES = 600

LIBRARY = ROOT / "libmemkv/src"
# A folder may include itself and these; client and server never know each other.
C_FOLDERS = {
    "": set(),
    "protocol": set(),
    "net": {"protocol"},
    "client": {"protocol", "net"},
    "server": {"protocol", "net"},
}
FOR_EVERYBODY = {"memkv/memkv.h", "status.h", "text.h"}

PACKAGE = ROOT / "memkv_lmcache"
# A part (a module, or a folder with all in it) may import parts of lower layers.
PYTHON_LAYERS = (
    "_memkv errors exporter",
    "addresses arena header hints keys metrics settings workers",
    "config ops startup tensors",
    "_ffi",
    "figures tending",
    "client",
    "__init__",
    "erase landing processes puts ways",
    "l2 lookups",
    "backend bench demo doctor l2_adapter serve",
    "cli",
    "__main__",
)
LAYER = {part: n for n, parts in enumerate(PYTHON_LAYERS) for part in parts.split()}
ENGINES = {"lmcache", "torch"}
MAY_IMPORT_ENGINES = {"backend", "demo", "l2_adapter", "landing", "puts", "tensors"}


def includes(source: Path) -> Iterator[str]:
    """Yields what a C file includes, with its quotes or brackets."""
    pattern = r'^\s*#\s*include\s+("[^"]+"|<[^>]+>)'
    yield from re.findall(pattern, source.read_text(encoding="utf-8"), re.MULTILINE)


def c_files() -> list[Path]:
    """Lists the library's private sources and headers."""
    return sorted(LIBRARY.rglob("*.[ch]"))


def python_files() -> list[Path]:
    """Lists the package's modules."""
    return sorted(PACKAGE.rglob("*.py"))


def imports(source: Path) -> Iterator[str]:
    """Yields the full name of each module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import hides where it points"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(source: Path) -> str:
    """Names the part of the package that a file belongs to."""
    return source.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(source: Path) -> set[str]:
    """Names the parts of the package that a file imports."""
    parts = {part_of(path) for path in python_files()} | {"_memkv"}
    names = [f"{name}.__init__".split(".") for name in imports(source)]
    ours = {name[1] for name in names if name[0] == "memkv_lmcache"}
    return {part if part in parts else "__init__" for part in ours}


def test_c_includes_point_down() -> None:
    """A folder of the C library includes itself and the folders below it, no other."""
    for source in c_files():
        folder = str(source.relative_to(LIBRARY).parent).removeprefix(".")
        for include in includes(source):
            if include.startswith("<") or include.strip('"') in FOR_EVERYBODY:
                continue
            target = str(Path(include.strip('"')).parent).removeprefix(".")
            assert target in C_FOLDERS[folder] | {folder}, f"{source}: {include}"


def test_every_c_file_is_built() -> None:
    """CMake names each source of the library and each C test, so that none rots."""
    for folder in (ROOT / "libmemkv", ROOT / "tests/c"):
        listed = re.findall(r"[\w/.]+", (folder / "CMakeLists.txt").read_text("utf-8"))
        for source in folder.rglob("*.c"):
            name = source.relative_to(folder)
            assert {str(name), name.stem} & set(listed), source


def test_one_file_knows_the_hash_and_one_the_cryptography() -> None:
    """Only checksum.c includes xxHash, and only auth.c includes OpenSSL."""
    for source in c_files():
        text = " ".join(includes(source))
        assert "xxh" not in text or source.name == "checksum.c", source
        assert "openssl/" not in text or source.name == "auth.c", source


def test_python_imports_point_down() -> None:
    """A part of the package imports parts of lower layers, and a folder itself."""
    for source in python_files():
        part = part_of(source)
        assert part in LAYER, f"{source}: say in PYTHON_LAYERS where it stands"
        for other in parts_imported(source) - {part}:
            assert LAYER[other] < LAYER[part], f"{source} imports {other}"


def test_one_module_knows_the_extension() -> None:
    """Only _ffi.py imports the extension: no cdata is seen above it."""
    users = {
        part_of(path) for path in python_files() if "_memkv" in parts_imported(path)
    }
    assert users == {"_ffi"}


def test_few_modules_know_the_engines() -> None:
    """Only the plugins and what serves them import torch or LMCache."""
    for source in python_files():
        found = ENGINES & {name.split(".")[0] for name in imports(source)}
        assert not found or part_of(source) in MAY_IMPORT_ENGINES, source


def test_the_package_imports_without_the_engines() -> None:
    """Client, server and command line never load torch or LMCache."""
    program = (
        "import sys\n"
        "import memkv_lmcache, memkv_lmcache.cli.main\n"
        "print(sorted({'torch', 'lmcache'} & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_files_stay_readable_at_one_sitting() -> None:
    """No source file, ours or a test's, is longer than MAX_LINES."""
    for folder in ("libmemkv", "memkv_lmcache", "tests", "benchmarks", "examples"):
        for source in (ROOT / folder).rglob("*.*"):
            if source.suffix in {".c", ".h", ".py"}:
                lines = source.read_text(encoding="utf-8").count("\n")
                assert lines <= MAX_LINES, f"{source} has {lines} lines"
