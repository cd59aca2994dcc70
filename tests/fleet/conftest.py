"""A fabric for the tests that need hosts, and the table of what its loads saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.fabric import Fabric, Unavailable, fabric
from fleet.fleet import Fleet, Report

SERVERS = ("s0", "s1", "s2", "s3")
CLIENTS = ("c0", "c1", "c2")

_rows: list[tuple[str, Report]] = []


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fabric]:
    """Four hosts for servers, three for clients; skips where there can be none."""
    try:
        with fabric((*SERVERS, *CLIENTS)) as found:
            yield found
    except Unavailable as error:
        pytest.skip(f"no network namespaces: {error}")


@pytest.fixture
def fleet(hosts: Fabric, tmp_path: Path) -> Iterator[Fleet]:
    """Four servers under the load of three clients."""
    found = Fleet(hosts, SERVERS, tmp_path)
    try:
        found.begin(CLIENTS)
        yield found
    finally:
        found.close()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Report], None]:
    """Takes a report for the table."""
    name = request.node.name.removeprefix("test_")
    return lambda report: _rows.append((name, report))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table that a person reads after the run."""
    if not _rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("what the clients of a fleet saw")
    write(
        f"{'event':<42} {'calls':>7} {'wrong':>5} {'hangs':>5} {'raised':>6} "
        f"{'over deadline':>13} {'hits':>5}"
    )
    for name, row in _rows:
        write(
            f"{name:<42} {row.calls:>7} {row.wrong:>5} {row.hangs:>5} "
            f"{len(row.exceptions):>6} {row.longest_over_ms:>10.1f} ms "
            f"{row.hits:>5.0%}"
        )
