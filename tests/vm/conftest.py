"""What the tests on real RDMA devices share.  ``make test-rdma`` runs them in the
machine of ``tests/vm/run --pair``; elsewhere they are not collected."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

if "RDMA_PEER" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
else:
    from .ends import Linked, Server

ROUNDS_S = 20.0

rows: list[tuple[str, int, int]] = []


class Rounds:
    """The rounds of a scenario, as many as fit.

    Each says whether it met a transfer under way.  A scenario in which none has done so
    goes on for longer, and then fails.
    """

    def __init__(self) -> None:
        self.n = 0
        self.n_met = 0

    def __iter__(self) -> Iterator[int]:
        begin = time.monotonic()
        while time.monotonic() < begin + ROUNDS_S * (1 if self.n_met > 0 else 3):
            yield self.n
            self.n += 1
        assert self.n_met > 0, f"no transfer was under way in any of {self.n} rounds"

    def count(self, met: bool) -> None:
        self.n_met += met


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[Rounds]:
    made = Rounds()
    yield made
    rows.append((request.node.name, made.n, made.n_met))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture
def near(server: Server) -> Iterator[Linked]:
    """A client of the server."""
    with Linked(server.settings) as client:
        client.link_up()
        yield client


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not rows:
        return
    terminalreporter.section("transfers on real devices")
    for name, n, n_met in rows:
        line = f"{name}: {n} rounds, a transfer was under way in {n_met}"
        terminalreporter.line(line)
