#!/bin/sh
# Runs pytest on an extension built with AddressSanitizer and UBSan, in an environment of
# its own that shares what is installed in .venv:
#
#     scripts/pytest-asan.sh tests/wire
set -eu
cd "$(dirname "$0")/.."
asan=$PWD/build/asan-python

.venv/bin/python -m venv --without-pip "$asan"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site .venv >"$(site "$asan")/shared.pth"
# On one line, or CMake takes the second flag for something else.
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
.venv/bin/python -m pip --quiet --python "$asan/bin/python" install --editable . \
    --no-deps --no-build-isolation --ignore-installed \
    -Cbuild-dir="$asan/build" -Ccmake.build-type=Debug -Cinstall.strip=false \
    -Ccmake.define.CMAKE_C_FLAGS="$flags"

# Python itself leaks by design, so that leaks are looked for in the C tests.
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD=$(cc -print-file-name=libasan.so) exec "$asan/bin/python" .venv/bin/pytest "$@"
