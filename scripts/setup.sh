#!/bin/sh
# Sets up what the Makefile's targets need, each step only when it is not up to date:
#
#     scripts/setup.sh STEP...
#
#     system   compilers and headers, by apt where this is Debian and we are root
#     package  $VENV with this package in it: Python files are used where they lie,
#              the extension is rebuilt when a C file has changed
#     dev      what tests and lint need, into $VENV
#     engine   torch and LMCache, into $VENV
#     vllm     a CPU build of vLLM by a third party, for tests, into $VENV beside them
#     machine  qemu and what else tests/vm/run needs, by apt as system
#
# VENV is .venv unless it is set.  PYTHON, TORCH, TORCH_INDEX, LMCACHE and VLLM come from
# the Makefile.  All that is said goes to stderr, so that the output of what runs
# afterwards stays clean.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd -P)
export PIP_DISABLE_PIP_VERSION_CHECK=1

PYTHON=${PYTHON:-python3}
venv=${VENV:-.venv}
venv_python=$venv/bin/python
stamps=$venv/.setup
debian_packages="build-essential cmake ninja-build pkg-config libssl-dev libxxhash-dev \
libibverbs-dev python3-dev python3-venv iproute2"
machine_packages="qemu-system-x86 kmod busybox-static iproute2 libibverbs1 \
ibverbs-providers perftest"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 2; }
pip() { "$venv_python" -m pip --quiet "$@" >&2; }
checksum() { cksum | cut -d ' ' -f 1,2; }

# done_with NAME KEY: has step NAME been done with this KEY?
done_with() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }
mark_done() { mkdir -p "$stamps" && echo "$2" >"$stamps/$1"; }

missing_tools() {
    for tool in cc cmake ninja pkg-config; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    # Tests cut the network of namespaces, which takes root anyway.
    [ "$(id -u)" -ne 0 ] || command -v ip >/dev/null || echo ip
    if command -v pkg-config >/dev/null; then
        for library in libcrypto libxxhash libibverbs; do
            pkg-config --exists "$library" || echo "the headers of $library"
        done
    fi
    if ! command -v "$PYTHON" >/dev/null; then
        echo "$PYTHON"
    else
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo "the venv module of $PYTHON"
        [ -e "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
            echo "the headers of $PYTHON"
    fi
}

list_of() { echo "$1" | paste -s -d , - | sed 's/,/, /g'; }

missing_machine() {
    for tool in qemu-system-x86_64 depmod busybox rdma ib_write_bw; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    ls /usr/lib/*/libibverbs/librxe-*.so >/dev/null 2>&1 || echo "librxe"
}

# debian CHECK PACKAGES: CHECK prints what is missing, one a line.
debian() {
    missing=$("$1")
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        die "missing: $(list_of "$missing"). Install what Debian calls: $2"
    elif [ "$(id -u)" -ne 0 ]; then
        die "missing: $(list_of "$missing"). Run as root: apt-get install $2"
    fi
    say "missing: $(list_of "$missing"). Installing Debian packages: $2"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
        $2 >/dev/null
    missing=$("$1")
    [ -z "$missing" ] || die "still missing after that: $(list_of "$missing")"
}

system() { debian missing_tools "$debian_packages"; }
machine() { debian missing_machine "$machine_packages"; }

python_environment() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$PYTHON is $("$PYTHON" -V 2>&1); MemKV needs Python 3.10 or newer:" \
            "make PYTHON=/path/to/python3.12"
    # A moved checkout leaves an environment that points to where it was.
    if "$venv_python" -c '' 2>/dev/null && grep -qF "$root/$venv" "$venv/bin/activate"; then
        return 0
    fi
    say "making a Python environment in $venv"
    "$PYTHON" -m venv --clear "$venv" >&2
}

package() {
    python_environment
    build_key=$(checksum <pyproject.toml)
    if ! done_with build "$build_key"; then
        say "installing the build tools into $venv"
        pip install 'pip>=25.1' # the first that knows --group
        pip install --group build
        mark_done build "$build_key"
    fi
    sources_key=$(find CMakeLists.txt build_ffi.py pyproject.toml cmake libmemkv \
        memkv_lmcache/CMakeLists.txt -type f | LC_ALL=C sort | xargs cksum | checksum)
    if ! done_with package "$sources_key" || ! [ -x "$venv/bin/memkv" ]; then
        say "building memkv-lmcache and installing it into $venv"
        pip install --no-build-isolation -C "build-dir=build/$venv" --editable .
        mark_done package "$sources_key"
    fi
}

dev() {
    dev_key=$(checksum <pyproject.toml)
    done_with dev "$dev_key" && return 0
    say "installing the tools for tests and lint into $venv"
    pip install --group dev
    mark_done dev "$dev_key"
}

# pip's own configuration is asked first; $TORCH names a CPU build, so that neither source
# can bring the CUDA libraries along.
engine() {
    engine_key="$TORCH $LMCACHE"
    done_with engine "$engine_key" && return 0
    say "installing $TORCH into $venv (some 200 MB, once)"
    pip install "$TORCH" 2>/dev/null || pip install --extra-index-url "$TORCH_INDEX" "$TORCH"
    say "installing $LMCACHE into $venv (some 300 MB, once)"
    pip install "$TORCH" "$LMCACHE"
    mark_done engine "$engine_key"
}

# It brings builds of torchvision and its like that do not fit the CPU build of torch.
vllm() {
    vllm_key="$TORCH $LMCACHE $VLLM"
    done_with vllm "$vllm_key" && return 0
    say "installing $VLLM into $venv (some 700 MB, once)"
    pip install "$TORCH" "$LMCACHE" "$VLLM"
    pip uninstall --yes torchvision torchaudio torchcodec
    mark_done vllm "$vllm_key"
}

[ $# -gt 0 ] || die "usage: scripts/setup.sh system|package|dev|engine|vllm|machine..."
for step in "$@"; do
    case $step in
    system | package | dev | engine | vllm | machine) "$step" ;;
    *) die "no such step: $step" ;;
    esac
done
