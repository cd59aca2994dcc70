# SPDX-License-Identifier: Apache-2.0
"""``memkv``: the group of commands, and what becomes of their failures.

A failure is one line on stderr and an exit code by its kind, never a traceback.
"""

from __future__ import annotations

import copy
import logging
import signal
from collections.abc import Sequence

import click

from memkv_lmcache._ffi import version
from memkv_lmcache.cli.bench import bench
from memkv_lmcache.cli.common import Exit, exit_code
from memkv_lmcache.cli.config import config
from memkv_lmcache.cli.demo import demo
from memkv_lmcache.cli.doctor import doctor
from memkv_lmcache.cli.get import get
from memkv_lmcache.cli.ls import ls
from memkv_lmcache.cli.ping import ping
from memkv_lmcache.cli.put import put
from memkv_lmcache.cli.rm import rm
from memkv_lmcache.cli.serve import serve
from memkv_lmcache.cli.stat import stat
from memkv_lmcache.errors import MemKVError
from memkv_lmcache.processes import WorkerFailed

_COMMANDS = (serve, demo, bench, doctor, ping, stat, ls, get, put, rm, config)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(version(), prog_name="memkv", message="%(prog)s %(version)s")
@click.pass_context
def memkv(context: click.Context) -> None:
    """A context-memory store for LLM inference: servers that keep KV cache chunks.

    \b
    Try it, with two terminals:
      memkv serve                      # here a server
      memkv put greeting hello.txt     # there a client
      memkv ls
      memkv get greeting copy.txt
    Or let it show itself: memkv demo --bytes

    \b
    Clients find their servers by --server, else MEMKV_SERVERS, else the yaml file
    that MEMKV_CONFIG names, else 127.0.0.1:9900.  "memkv config" shows what is set.

    \b
    Exit codes:
      0  done
      1  an item failed: no such key, too large, damaged; or the demo found a difference
      2  wrong usage or setting, or this host cannot do it (a port in use, a file)
      3  a server cannot be reached, or did not answer in time
      4  auth: client and server disagree about the key
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        raise click.exceptions.Exit(Exit.USAGE)


for _command in _COMMANDS:
    memkv.add_command(_command)
_start = copy.copy(serve)
_start.short_help = "The same as serve."
memkv.add_command(_start, "start")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command of ``arguments`` (default: the process'), returns its exit code.

    A reader that ends a pipe early, or an interruption, is no error worth a message.
    """
    logging.basicConfig(format="memkv: %(message)s", level=logging.WARNING)
    try:
        code = memkv.main(arguments, prog_name="memkv", standalone_mode=False)
        # a command returns nothing, but an exit it asked for comes back as a number
        return code or Exit.OK
    except click.ClickException as error:
        return _fail(_usage(error), Exit.USAGE)
    except MemKVError as error:
        return _fail(error.text, exit_code(error))
    except WorkerFailed as error:
        return _fail(str(error), Exit.ITEM)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", Exit.USAGE)
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return " ".join(error.format_message().split()).rstrip(".") + hint


def _fail(text: str, code: int) -> int:
    click.echo(f"memkv: {text}", err=True)
    return code
