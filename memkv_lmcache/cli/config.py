# SPDX-License-Identifier: Apache-2.0
"""``memkv config``: a client's settings and where each of them comes from."""

from __future__ import annotations

import logging

import click

from memkv_lmcache.cli.common import json_option, print_json
from memkv_lmcache.cli.show import print_table
from memkv_lmcache.config import explain, load


@click.command(short_help="Show every setting and where it is from.")
@json_option
def config(as_json: bool) -> None:
    """Show every setting of a client: its value, and where it comes from.

    \b
    The places, the first that has a setting wins:
      1. the arguments of a call, as a command's --server
      2. LMCache's own configuration: storage_plugin.memkv.<setting> in extra_config
      3. the environment: MEMKV_<SETTING>
      4. the yaml file that MEMKV_CONFIG names: <setting>: value
      5. the default
    The key itself is never shown.
    """
    logging.getLogger("memkv_lmcache").setLevel(logging.INFO)
    load()  # says what is ignored, and what is wrong
    settings = explain()
    if as_json:
        print_json(
            {one.name: {"value": one.value, "source": one.source} for one in settings}
        )
    else:
        print_table(("SETTING", "VALUE", "FROM"), settings)
