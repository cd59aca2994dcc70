# SPDX-License-Identifier: Apache-2.0
"""``memkv doctor``: will RDMA work from here, and if not, what mends it?"""

from __future__ import annotations

import logging
import shutil
import textwrap
from collections.abc import Sequence

import click

from memkv_lmcache.cli.common import (
    Exit,
    Parsed,
    exit_code,
    explain,
    json_option,
    print_json,
    server_options,
)
from memkv_lmcache.config import load
from memkv_lmcache.doctor.examine import Report, examine
from memkv_lmcache.doctor.findings import Finding, Level
from memkv_lmcache.doctor.memory import Wanted, wanted_memory
from memkv_lmcache.settings import parse_size

_TIMEOUT_S = 5.0
_COLORS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_WIDEST = 100


@click.command(short_help="Say whether RDMA will work, and what mends it.")
@server_options
@click.option(
    "--memory",
    metavar="SIZE",
    type=Parsed("size", parse_size),
    help="To be registered, such as 64GiB. Default: LMCACHE_MAX_LOCAL_CPU_SIZE (GB), "
    "else what LMCACHE_CONFIG_FILE says, else 5GiB as LMCache.",
)
@json_option
def doctor(
    servers: str | None,
    auth_key: bytes | None,
    timeout: float | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Say whether RDMA will work from this host to each server, and what mends it.

    Looks at libraries, modules, limits, devices and ports, then puts one random value
    of 64 KiB on each server by RDMA, in the namespace memkv-doctor, gets it back and
    deletes it. --timeout is for each server, 5 seconds unless said otherwise.

    \b
    Each finding has a level:
      ok    all is well
      note  it works, and could be better
      warn  it works, but not everywhere or not for everything
      fail  no RDMA; the lines with > below it say what mends it

    \b
    Exit codes:
      0  RDMA will work with every server
      1  it will not: something is wrong on this host or at a server's end
      2  wrong usage or setting
      3  a server cannot be reached at all
      4  auth: client and server disagree about the key

    \b
    Examples:
      memkv doctor
      memkv doctor --server memkv-[0-3].memkv:9900 --memory 64GiB
      memkv doctor --json
    """
    # the findings say what is wrong
    logging.getLogger("memkv_lmcache.tending").setLevel(logging.ERROR)
    given = {"servers": servers, "auth_key": auth_key}
    wanted = wanted_memory() if memory is None else Wanted(memory, "--memory")
    report = examine(
        load(given), wanted=wanted, timeout=timeout or _TIMEOUT_S, explain=explain
    )
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    raise click.exceptions.Exit(_code(report))


def _code(report: Report) -> Exit:
    """By the largest thing that is broken."""
    codes = [Exit.OK if report.rdma else Exit.ITEM]
    for server in report.servers:
        if server.error is not None:
            is_auth = exit_code(server.error) is Exit.AUTH
            codes.append(Exit.AUTH if is_auth else Exit.SERVER)
    return max(codes)


def _print(report: Report) -> None:
    _print_group("Host", report.host)
    _print_group("Devices", report.devices)
    of_servers = [finding for one in report.servers for finding in one.findings]
    _print_group("Servers", of_servers)
    failed = sum(finding.level is Level.FAIL for finding in report.findings)
    n = len(report.servers)
    if report.rdma:
        click.echo(f"RDMA works with {'the server' if n == 1 else f'all {n} servers'}.")
    else:
        proven = sum(server.is_proven for server in report.servers)
        click.echo(
            f"RDMA will not work as it is: {failed} to be mended (fail); proven with "
            f"{proven} of {n} server{'s' if n > 1 else ''}."
        )


def _print_group(title: str, findings: Sequence[Finding]) -> None:
    if not findings:
        return
    click.echo(click.style(title, bold=True))
    for finding in findings:
        _print_finding(finding)
    click.echo()


def _print_finding(finding: Finding) -> None:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    level = finding.level.name.lower()
    text = f"{finding.subject}: {finding.text}"
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=" " * 8,
        subsequent_indent=" " * 8,
        break_on_hyphens=False,
        break_long_words=False,
    )
    color = click.style(f"{level:4}", fg=_COLORS.get(finding.level))
    click.echo(f"  {color}  " + "\n".join(lines)[8:])
    for mend in finding.mend.splitlines():
        # a command is never cut: it is there to be copied
        click.echo(f"          > {mend}")
