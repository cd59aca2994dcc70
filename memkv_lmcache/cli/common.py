# SPDX-License-Identifier: Apache-2.0
"""What the commands share: exit codes, their options, a client, how failures read."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import logging
from collections.abc import Callable
from typing import Any

import click

from memkv_lmcache.addresses import parse_servers
from memkv_lmcache.client import Client, Result
from memkv_lmcache.config import load
from memkv_lmcache.errors import (
    AuthError,
    ClientClosed,
    ConnectionLost,
    MemKVError,
    RequestError,
    ServerBusy,
    Status,
    Timeout,
    error_for,
)
from memkv_lmcache.settings import parse_seconds, read_auth_key
from memkv_lmcache.tending import UP


class Exit(enum.IntEnum):
    """How a command ends; ``memkv --help`` and the README say it in words."""

    OK = 0
    ITEM = 1
    USAGE = 2
    SERVER = 3
    AUTH = 4


def exit_code(error: MemKVError) -> Exit:
    """The exit code of a failure: by the largest thing that is broken."""
    if isinstance(error, AuthError):
        return Exit.AUTH
    if isinstance(error, ConnectionLost | ClientClosed | Timeout | ServerBusy):
        return Exit.SERVER
    return Exit.ITEM if isinstance(error, RequestError) else Exit.USAGE


def _servers(value: str, where: str) -> str:
    """The text as it is, once it is known to be right."""
    parse_servers(value, where)
    return value


class Parsed(click.ParamType):  # type: ignore[type-arg]  # older: not generic
    """An option read by one of our own parsers, so that yaml and shell agree."""

    def __init__(self, name: str, parse: Callable[[Any, str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return self._parse(value, param.opts[-1] if param else self.name)


SECONDS = Parsed("seconds", parse_seconds)

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")

_SERVER_OPTIONS = (
    click.option(
        "-s",
        "--server",
        "servers",
        metavar="ADDRESS,...",
        type=Parsed("servers", _servers),
        help="Where the servers are: host:port, [v6]:port, unix:/path, name=host:port "
        "or host-[0-3]:port. Default: MEMKV_SERVERS, else 127.0.0.1:9900.",
    ),
    click.option(
        "--auth-key-file",
        "auth_key",
        metavar="FILE",
        type=Parsed("file", read_auth_key),
        help="Holds the key: 64 hex digits. Default: MEMKV_AUTH_KEY.",
    ),
    click.option("--timeout", type=SECONDS, help="Give up after that many seconds."),
)


_namespace_option = click.option(
    "-n",
    "--namespace",
    help="Keys live in it; up to 128 bytes. Default: MEMKV_NAMESPACE, else the empty "
    "one.",
)


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which servers, and how to get in."""
    for option in reversed(_SERVER_OPTIONS):
        option(command)
    return command


def with_client(timeout: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a client and a client as its first argument.

    ``timeout`` is the default of ``--timeout``, in seconds.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            names = ("servers", "namespace", "auth_key")
            settings = {name: given.pop(name) for name in names}
            limit = given.pop("timeout") or timeout
            # a command is over before anybody could scrape it, and says what is wrong
            logging.getLogger("memkv_lmcache.tending").setLevel(logging.ERROR)
            config = dataclasses.replace(load(settings), prometheus_bind=None)
            with Client(config=config, timeout=limit) as client:
                command(client, **given)

        return server_options(_namespace_option(run))

    return decorate


def failure(client: Client, result: Result, key: str) -> MemKVError:
    """What became of one item, in words that say what is wrong and where."""
    status = result.status
    error = error_for(status)
    if status is Status.NOT_FOUND:
        return error_for(status, f"{key}: no such key")
    if status is Status.TOO_LARGE:
        text = f"{key}: over what a server takes: 4 GiB, and a quarter of its memory"
        return error_for(status, text)
    if isinstance(error, ConnectionLost | AuthError | Timeout):
        states = client.state()
        wrong = [explain(name, s) for name, s in states.items() if not is_fine(s)]
        return error_for(status, "; ".join(wrong) or f"{key}: no answer in time")
    return error_for(status, f"{key}: {error.text}")


def is_fine(state: str) -> bool:
    """Whether the server is up, and is the one that we take it for."""
    return state.startswith(UP) and "calls itself" not in state


def explain(server: str, trouble: str) -> str:
    """One line about a server that is not up."""
    text = f"{server}: {trouble.removeprefix('down: ').removeprefix(f'{server}: ')}"
    if ": auth: " in text:
        text += "; the key is MEMKV_AUTH_KEY or --auth-key-file"
    elif "refused" in text:
        text += "; does a server run there (memkv serve)?"
    return text


def raise_worst(errors: list[MemKVError]) -> None:
    """Says all but the worst of ``errors`` and raises that; none: returns."""
    if not errors:
        return
    worst = max(errors, key=exit_code)
    for error in errors:
        if error is not worst:
            click.echo(f"memkv: {error.text}", err=True)
    raise worst


def print_json(value: Any) -> None:
    """One JSON text on a line of its own."""
    click.echo(json.dumps(value, ensure_ascii=False))
