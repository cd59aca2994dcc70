# SPDX-License-Identifier: Apache-2.0
"""``memkv bench``: throughput and lookups beside what this machine gives."""

from __future__ import annotations

import dataclasses

import click

from memkv_lmcache.bench.ground import MIN_RDMA
from memkv_lmcache.bench.perftest import PACKAGE, Perftest
from memkv_lmcache.bench.run import (
    MAX_SIZE,
    SIZES,
    Lookups,
    Report,
    measure,
)
from memkv_lmcache.cli.common import SECONDS, Parsed, json_option, print_json
from memkv_lmcache.cli.show import print_table, size_text
from memkv_lmcache.errors import ConfigError
from memkv_lmcache.settings import parse_size, whole_number


def _sizes(value: str, where: str) -> tuple[int, ...]:
    sizes = tuple(parse_size(text, where) for text in value.split(","))
    for size in sizes:
        if not 1024 <= size <= MAX_SIZE or size % 1024:
            raise ConfigError(
                f"{where}: {size} bytes cannot be measured; write multiples of 1 KiB "
                f"up to {size_text(MAX_SIZE)}, such as 64KiB,4MiB"
            )
    return sizes


@click.command(short_help="Throughput and lookups on this machine.")
@click.option(
    "--transport",
    type=click.Choice(["tcp", "rdma"]),
    default="tcp",
    show_default=True,
    help="tcp: over the loopback; rdma: over a device of this host.",
)
@click.option(
    "--sizes",
    metavar="SIZE,...",
    default=",".join(size_text(size).replace(" ", "") for size in SIZES),
    show_default=True,
    type=Parsed("sizes", _sizes),
    help="Of the values.",
)
@click.option(
    "--seconds",
    default="0.3",
    show_default=True,
    type=SECONDS,
    help="For each figure in each round.",
)
@click.option(
    "--rounds",
    metavar="N",
    default="5",
    show_default=True,
    type=Parsed("number", whole_number(1, 1000)),
    help="Figures are medians over them.",
)
@json_option
def bench(
    transport: str, sizes: tuple[int, ...], seconds: float, rounds: int, as_json: bool
) -> None:
    """Measure GET, PUT and lookups through a server of its own on this host.

    RAW is the limit, measured in turns with ours.  On tcp it is a bare engine: the same
    loop and socket options, contiguous buffers, no hash, no tag, no store. It is
    compiled from the checkout's benchmarks/raw_loopback.c; where that or a C compiler
    is missing there is no RAW ("make bench" in a checkout has both).

    On rdma it is perftest on the same device: ib_write_bw for GET, ib_read_bw for PUT.
    Values are of 64 KiB or more, and there are no lookups, which travel as on tcp. GB
    is 10**9 bytes.

    \b
    Examples:
      memkv bench
      memkv bench --sizes 4MiB --seconds 1 --json
      memkv bench --transport rdma --sizes 1MiB,4MiB
    """
    small = [size for size in sizes if size < MIN_RDMA]
    if transport == "rdma" and small:
        raise ConfigError(
            f"--sizes: values of {size_text(small[0])} travel on the stream; with "
            f"--transport rdma write sizes of {size_text(MIN_RDMA)} or more"
        )
    say = _quiet if as_json else _say
    report = measure(sizes, seconds, rounds, say, transport)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print(report)


def _say(text: str) -> None:
    click.echo(f"* {text}", err=True)


def _quiet(text: str) -> None:
    pass


def _print(report: Report) -> None:
    columns = ("SIZE", ">BATCH", ">GET GB/s", ">RAW", ">RATIO")
    print_table(
        (*columns, ">PUT GB/s", ">RAW", ">RATIO"),
        [
            (
                size_text(one.size),
                str(one.batch),
                *map(_number, (one.get_gbps, one.raw_get_gbps, one.get_ratio)),
                *map(_number, (one.put_gbps, one.raw_put_gbps, one.put_ratio)),
            )
            for one in report.throughput
        ],
    )
    if report.lookups:
        click.echo()
        _print_lookups(report.lookups)
    if report.device:
        click.echo(f"\nby {report.device}")
    if not report.has_raw:
        needed = _NEEDED[report.transport]
        click.echo(f"memkv: no RAW figures: they need {needed}", err=True)


_NEEDED = {
    "tcp": "the checkout's benchmarks/raw_loopback.c and a C compiler (make bench)",
    "rdma": f"{Perftest.get_tool} and {Perftest.put_tool}, of the package {PACKAGE}",
}


def _print_lookups(looked: Lookups) -> None:
    print_table(
        ("LOOKUP", ">P50 ms", ">RAW", ">P99 ms", ">RAW", ">KEYS/s", ">RAW"),
        [
            (
                f"{looked.keys_per_batch} keys",
                *map(_number, (looked.p50_ms, looked.raw_p50_ms)),
                *map(_number, (looked.p99_ms, looked.raw_p99_ms)),
                str(looked.keys_per_s),
                str(looked.raw_keys_per_s or "-"),
            )
        ],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
