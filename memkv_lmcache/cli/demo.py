# SPDX-License-Identifier: Apache-2.0
"""``memkv demo``: shows on this machine what MemKV is for."""

from __future__ import annotations

import dataclasses
import importlib.util

import click

from memkv_lmcache.cli.common import Exit, Parsed, json_option, print_json
from memkv_lmcache.cli.show import print_table, size_text
from memkv_lmcache.demo import run
from memkv_lmcache.demo.run import Outcome
from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import parse_transport, whole_number

_NEEDED = ("lmcache", "torch", "transformers")
_COUNT = 8
_BYTES_COUNT = 64


@click.command(short_help="Store, kill, start afresh, find everything again.")
@click.option(
    "--bytes", "as_bytes", is_flag=True, help="Without LMCache: plain values."
)
@click.option(
    "--chunks",
    metavar="N",
    type=Parsed("number", whole_number(1, 256)),
    help=f"How many to store.  [default: {_COUNT}; with --bytes {_BYTES_COUNT}]",
)
@click.option(
    "--chunk-size",
    metavar="TOKENS",
    default="256",
    show_default=True,
    type=Parsed("number", whole_number(16, 1024)),
    help="Tokens a chunk; 16 KiB each.",
)
@click.option(
    "--transport",
    default="auto",
    show_default=True,
    type=Parsed("transport", parse_transport),
    help="auto: RDMA where it works; tcp; or rdma: nothing else, all of it uncopied.",
)
@json_option
def demo(
    as_bytes: bool,
    chunks: int | None,
    chunk_size: int,
    transport: str,
    as_json: bool,
) -> None:
    """Store a prompt's KV cache, lose the engine, and start warm.

    Starts a server. A first process computes the KV cache of a prompt with a small
    random Llama and stores it through a real LMCache engine; SIGKILL ends it. A second
    process, with nothing but the prompt and an empty cache, gets every chunk back.
    Every byte is compared, and the server's own counters must agree.

    With --transport rdma the engines' memory is registered first, and no CPU may copy
    a byte of the values on the way between it and the server: the counters of both
    processes and of the server must say so. MEMKV_RDMA_DEVICES and MEMKV_VERBS_LIBRARY
    say where RDMA is looked for, and "memkv doctor" what is missing.

    \b
    Examples:
      memkv demo
      memkv demo --bytes             # needs neither torch nor LMCache
      memkv demo --json --chunks 16
      memkv demo --transport rdma
    """
    if not as_bytes:
        _check_engine()
    say = _quiet if as_json else _say
    if as_bytes:
        outcome = run.values(chunks or _BYTES_COUNT, transport, say)
    else:
        outcome = run.prompts(chunks or _COUNT, chunk_size, transport, say)
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        _print(outcome)
    if not outcome.verified:
        raise click.exceptions.Exit(Exit.ITEM)


def _check_engine() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not installed; either pip install '.[lmcache]' in "
            "the checkout, or run memkv demo --bytes, which needs none of them"
        )


def _say(text: str) -> None:
    click.echo(f"* {text}", err=True)


def _quiet(text: str) -> None:
    pass


def _print(outcome: Outcome) -> None:
    hits = outcome.warm_hit_chunks / outcome.stored_chunks
    rows = [
        ("chunks stored", str(outcome.stored_chunks)),
        ("chunks found by a fresh process", f"{outcome.warm_hit_chunks} ({hits:.0%})"),
        ("read", size_text(outcome.bytes)),
        ("counted by the server", size_text(outcome.server_get_bytes)),
        ("moved by RDMA", size_text(outcome.bytes_remote)),
        ("copied by the CPU on the stream", size_text(outcome.bytes_inline)),
        ("put", f"{outcome.put_gbps:.2f} GB/s"),
        ("get", f"{outcome.get_gbps:.2f} GB/s"),
        ("warm start", f"{outcome.warm_start_s * 1000:.0f} ms"),
    ]
    if outcome.prefill_s is not None:
        saved = outcome.prefill_s - outcome.warm_start_s
        rows.append(("instead of a prefill of", f"{outcome.prefill_s * 1000:.0f} ms"))
        rows.append(("time saved", f"{saved * 1000:.0f} ms"))
    rows.append(("every byte as it was", "yes" if outcome.verified else "NO"))
    print_table(("", ""), rows)
