"""What processes do that are stopped and killed by the tests; see ``ends.start``."""

from __future__ import annotations

import os
from itertools import count
from multiprocessing.connection import Connection

PATIENCE_S = 60.0  # with a process that was stopped meanwhile


def serve(config: str, log: str, pipe: Connection) -> None:
    """``memkv serve``: what it prints goes into the pipe, what it logs to a file."""
    from memkv_lmcache.cli.main import main

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(pipe.fileno(), 1)
    main(["serve", "--config", config, "--json"])


def put_for_ever(settings: dict[str, str], name: str, pipe: Connection) -> None:
    """Stores one new batch after the other, and says the number of each."""
    from .ends import Linked, keys_of

    with Linked(settings) as client:
        client.link_up()
        for i in count():
            keys = keys_of(name, i)
            client.fill(keys)
            pipe.send(i)
            client.put(keys, timeout=30)


def get_for_ever(
    settings: dict[str, str], name: str, shared: str, pipe: Connection
) -> None:
    """Loads the same batch again and again into memory that others can see."""
    from .ends import Linked, keys_of

    with Linked(settings, shared) as client:
        client.link_up()
        for i in count():
            client.blank()
            pipe.send(i)
            client.get(keys_of(name), timeout=30)


def get_when_told(settings: dict[str, str], name: str, pipe: Connection) -> None:
    """Loads a batch within each time-out that it is sent, and watches its memory."""
    from .ends import Linked, keys_of

    with Linked(settings) as client:
        for timeout in iter(pipe.recv, None):
            client.link_up()
            client.blank()
            pipe.send("begins")
            statuses = client.get(keys_of(name), timeout, late=PATIENCE_S)
            client.poison()
            client.watch()
            pipe.send(statuses)
