# SPDX-License-Identifier: Apache-2.0
"""``memkv serve``: a server in this process, until it is told to end."""

from __future__ import annotations

import logging
from typing import Any

import click

from memkv_lmcache.addresses import check_address
from memkv_lmcache.cli.common import Parsed, json_option, print_json
from memkv_lmcache.cli.show import size_text
from memkv_lmcache.serve.config import admin_address, load
from memkv_lmcache.serve.host import Serving
from memkv_lmcache.serve.host import serve as run
from memkv_lmcache.settings import (
    parse_devices,
    parse_size,
    parse_transport,
    read_auth_key,
    whole_number,
)


def _address(value: str, where: str) -> str:
    return check_address(value, where, any_port=True)


@click.command(short_help="Run a server.")
@click.option("--config", "path", metavar="FILE", help="Settings as yaml; see below.")
@click.option(
    "--address",
    type=Parsed("address", _address),
    help="host:port, [v6]:port or unix:/path; port 0 picks a free one.  "
    "[default: 127.0.0.1:9900]",
)
@click.option(
    "--memory",
    metavar="SIZE",
    type=Parsed("size", parse_size),
    help="All it may use for values, such as 64GiB.  [default: 1GiB]",
)
@click.option(
    "--workers",
    metavar="N",
    type=Parsed("number", whole_number(1, 256)),
    help="Network threads.  [default: one a processor, up to 4]",
)
@click.option(
    "--transport",
    metavar="WAY",
    type=Parsed("way", parse_transport),
    help="auto: RDMA if it works; tcp: never; rdma: no start without it.  "
    "[default: auto]",
)
@click.option(
    "--rdma-devices",
    metavar="NAME,...",
    type=Parsed("devices", parse_devices),
    help="RDMA devices for any address, such as mlx5_0,mlx5_1.  [default: by the "
    "address in use]",
)
@click.option("--name", help="What clients place keys by.  [default: the address]")
@click.option(
    "--auth-key-file",
    "auth_key",
    metavar="FILE",
    type=Parsed("file", read_auth_key),
    help="Holds the key: 64 hex digits (openssl rand -hex 32). Default: the yaml's, "
    "else MEMKV_AUTH_KEY, else none.",
)
@click.option(
    "--admin",
    "admin_address",
    metavar="ADDRESS",
    type=Parsed("address", admin_address),
    help="host:port of health, status and metrics over HTTP, or off.  [default: "
    "127.0.0.1 and the port after the data port; off on a Unix socket]",
)
@json_option
def serve(path: str | None, as_json: bool, **settings: Any) -> None:
    """Run a server until SIGTERM or Ctrl-C ("memkv start" is the same).

    Once it accepts it says so in one line on stdout. An address that other hosts can
    reach needs a key. SIGTERM lets requests under way end and refuses new ones, Ctrl-C
    waits for hardly anything; a second signal kills.

    \b
    Examples:
      memkv serve
      memkv serve --address 0.0.0.0:9900 --memory 64GiB --auth-key-file /etc/memkv.key
      memkv serve --transport rdma    # does not start? memkv doctor says why
      memkv serve --address unix:/run/memkv.sock
      memkv serve --config memkv.yaml

    \b
    All that the yaml may say, with the defaults:
      network:
        address: 127.0.0.1:9900
        name: ...                # the address
        auth_key: ...            # 64 hex digits in quotes; or auth_key_file: PATH
        transport: auto          # rdma if it works; tcp: never; rdma: no start without
        workers: ...             # one a processor, up to 4
        max_connections: 16384
        admin_address: ...       # 127.0.0.1 and the next port; off: none
        drain_s: 5               # seconds for requests under way, after SIGTERM
      memory:
        max_size: 1 GiB          # pages, keys, headers and index: a hard bound
        page_size: 64 KiB        # a power of two, 4 KiB to 1 MiB
        default_ttl_s: 0         # seconds a value lives; 0: until evicted
      rdma:
        devices: ...             # [mlx5_0, mlx5_1]; by the address that is used
        verbs_library: ...       # libibverbs.so.1
      storage:
        mode: memory
    """
    logging.getLogger("memkv_lmcache").setLevel(logging.INFO)
    run(load(path, settings), _announce_json if as_json else _announce)


def _announce(serving: Serving) -> None:
    why = f" (no rdma: {serving.no_rdma})" if serving.no_rdma else ""
    click.echo(
        f"memkv serves on {serving.address}: memory {size_text(serving.memory)}, "
        f"transports {', '.join(serving.transports)}{why}, "
        f"auth {'on' if serving.auth else 'off'}, workers {serving.workers}, "
        f"name {serving.name}, "
        + (f"admin http://{serving.admin}" if serving.admin else "admin off")
    )


def _announce_json(serving: Serving) -> None:
    print_json(serving._asdict())
