"""What users get: the installed C library, the extension, the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from support import ROOT

from memkv_lmcache import _memkv

HEADER = ROOT / "libmemkv/include/memkv/memkv.h"
HEADER_TEXT = HEADER.read_text(encoding="utf-8")
CONSUMER = ROOT / "tests/compile_check.c"
WITHOUT_RDMA = ROOT / "tests/without_rdma.c"
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Wundef", "-pedantic", "-Werror"]


def run(*command: str | Path, **options: object) -> str:
    """Runs a command to its good end and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def api_names() -> set[str]:
    """Names the functions that the public header exports."""
    found = re.findall(r"^MEMKV_API [^;(]*?(memkv_\w+)\(", HEADER_TEXT, re.MULTILINE)
    return set(found)


def version() -> str:
    """Reads the version where both builds read it."""
    (found,) = re.findall(r'MEMKV_VERSION_STRING "(.*)"', HEADER_TEXT)
    return str(found)


def symbols_defined(library: Path) -> set[str]:
    """Names the symbols that a shared object offers to others."""
    lines = run("nm", "--dynamic", "--defined-only", library).splitlines()
    return {line.split()[-1] for line in lines}


def install(top: Path, *options: str) -> tuple[Path, str]:
    """Installs the C library; its prefix, and what CMake said of it."""
    said = run(
        "cmake", "-S", ROOT, "-B", top / "build", "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=Debug", "-DBUILD_TESTING=OFF",
        f"--install-prefix={top / 'prefix'}", *options,
    )  # fmt: skip
    run("cmake", "--build", top / "build")
    run("cmake", "--install", top / "build")
    return top / "prefix", said


@pytest.fixture(scope="module")
def installed_static(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The static library; without RDMA, as where rdma-core's headers are missing."""
    options = "-DBUILD_SHARED_LIBS=OFF", "-DMEMKV_WITH_RDMA=OFF"
    return install(tmp_path_factory.mktemp("static"), *options)


@pytest.fixture(scope="module")
def installed_shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The shared library."""
    return install(tmp_path_factory.mktemp("shared"), "-DBUILD_SHARED_LIBS=ON")


@pytest.fixture(params=["static", "shared"])
def prefix(request: pytest.FixtureRequest) -> Path:
    """Where the C library is installed, in one of its two forms."""
    found: tuple[Path, str] = request.getfixturevalue(f"installed_{request.param}")
    return found[0]


def run_consumer(prefix: Path, source: Path, program: Path) -> None:
    """Builds a C program with nothing but what pkg-config says, and runs it."""
    (found,) = prefix.rglob("memkv.pc")
    flags = run(
        "pkg-config", "--cflags", "--libs", "memkv",
        env={"PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(found.parent)},
    ).split()  # fmt: skip
    run("cc", "-std=c11", *STRICT, source, "-o", program, *flags)
    run(program, env={"LD_LIBRARY_PATH": str(found.parent.parent)})


def test_pkg_config_is_enough_to_build_a_consumer(prefix: Path, tmp_path: Path) -> None:
    """A C program builds with nothing but what pkg-config says, and runs."""
    run_consumer(prefix, CONSUMER, tmp_path / "consumer")


def test_find_package_is_enough_to_build_a_consumer(
    prefix: Path, tmp_path: Path
) -> None:
    """A CMake project builds with find_package(memkv) and memkv::memkv, and runs."""
    shutil.copy(CONSUMER, tmp_path / "consumer.c")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(consumer LANGUAGES C)\n"
        f"find_package(memkv {version()} REQUIRED)\n"
        "add_executable(consumer consumer.c)\n"
        "target_link_libraries(consumer PRIVATE memkv::memkv)\n"
    )
    build = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    run(build / "consumer")


def test_the_shared_library_exports_what_the_header_says(prefix: Path) -> None:
    """The shared library's symbols are exactly the MEMKV_API functions."""
    libraries = [path for path in prefix.rglob("libmemkv.so") if path.is_file()]
    if not libraries:
        assert list(prefix.rglob("libmemkv.a"))
        return
    assert symbols_defined(libraries[0]) == api_names()


def test_a_build_without_rdma_works_and_says_what_it_left_out(
    installed_static: tuple[Path, str], tmp_path: Path
) -> None:
    """CMake says so, and so does whatever needs RDMA; all else works."""
    prefix, said = installed_static
    assert "built without RDMA" in said
    run_consumer(prefix, WITHOUT_RDMA, tmp_path / "consumer")


@pytest.mark.parametrize(
    "compiler", [("cc", "-x", "c", "-std=c11"), ("c++", "-x", "c++", "-std=c++11")]
)
def test_the_header_compiles_alone(compiler: tuple[str, ...]) -> None:
    """The public header is clean C11 and C++11, by itself and before any other."""
    run(*compiler, *STRICT, "-fsyntax-only", f"-I{HEADER.parent.parent}", CONSUMER)


def test_the_compile_check_uses_every_macro() -> None:
    """No macro of the public header can rot unseen."""
    macros = set(re.findall(r"#define (MEMKV_\w+) ", HEADER_TEXT))
    used = set(re.findall(r"\bMEMKV_\w+", CONSUMER.read_text(encoding="utf-8")))
    assert macros <= used


def test_the_extension_exports_its_init_function_only() -> None:
    """Importing the extension adds none of the library's names to the process."""
    assert symbols_defined(Path(_memkv.__file__)) == {"PyInit__memkv"}


def test_the_extension_needs_no_rdma_library() -> None:
    """The extension loads on a host without rdma-core."""
    dynamic = run("readelf", "--dynamic", "--wide", _memkv.__file__)
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert not [name for name in needed if "ibverbs" in name or "rdmacm" in name]


def test_python_sees_every_function_of_the_library() -> None:
    """No MEMKV_API function stands outside the regions that CFFI reads."""
    assert api_names() <= set(dir(_memkv.lib))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel as `pip install .` does, with the build tools at hand."""
    top = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
        f"-Cbuild-dir={top / 'build'}", "-w", top, ROOT,
    )  # fmt: skip
    (path,) = top.glob("*.whl")
    return path


def test_the_wheel_fits_every_supported_python(wheel: Path) -> None:
    """One wheel serves Python 3.10 and later, and carries the header's version."""
    assert wheel.name.startswith(f"memkv_lmcache-{version()}-cp310-abi3-linux_")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel has our Python files, the extension and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = (ROOT / "memkv_lmcache").rglob("*.*")
    sources = {path for path in ours if path.suffix in {".py", ".pyi", ".typed"}}
    expected = {str(path.relative_to(ROOT)) for path in sources}
    assert names == expected | {"memkv_lmcache/_memkv.abi3.so"}


def test_an_installed_wheel_works_inside_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    """After `pip install .` the sources in the current folder do not get in the way."""
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    run(
        sys.executable, "-m", "pip", "--python", environment / "bin/python",
        "install", "--no-deps", "--no-index", "--ignore-installed", wheel,
    )  # fmt: skip
    said = run(environment / "bin/memkv", "demo", "--bytes", "--json", cwd=ROOT)
    assert '"verified": true' in said
