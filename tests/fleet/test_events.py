"""What happens to servers, under load: no wrong bytes, no hangs, nothing raised.

Hosts are network namespaces.  Each test ends with clients that find everything again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

import pytest
from support import wait_until

from fleet.fabric import Unavailable
from fleet.fleet import Fleet, Report

Record = Callable[[Report], None]

AWAY_S = 2.5
"""How long what is away stays away: long enough for every client to notice."""
PATIENCE_S = 45.0


@pytest.fixture
def settle(fleet: Fleet, record: Record) -> Callable[..., Report]:
    """Waits until all is found again, ends the loads, holds them to the promise.

    The fleet is whole before a test begins.
    """
    wait_until(fleet.is_whole, PATIENCE_S)

    def settle(away: Sequence[str] = ()) -> Report:
        wait_until(lambda: fleet.is_whole(away), PATIENCE_S)
        report = fleet.finish()
        record(report)
        assert report.calls > 100
        assert report.wrong == 0
        assert report.hangs == 0
        assert report.exceptions == ()
        return report

    return settle


Settle = Callable[..., Report]


def test_nothing_happens(fleet: Fleet, settle: Settle) -> None:
    """What the others are to be compared with."""
    settle()


def test_a_partition(fleet: Fleet, settle: Settle) -> None:
    """The cable of one server is pulled, and put back."""
    fleet.fabric.cut("s1")
    time.sleep(AWAY_S)
    fleet.fabric.mend("s1")
    settle()


def test_a_client_is_cut_off(fleet: Fleet, settle: Settle) -> None:
    """The cable of one client is pulled: for it, all servers are away."""
    fleet.fabric.cut("c0")
    time.sleep(AWAY_S)
    fleet.fabric.mend("c0")
    settle()


def test_a_server_is_killed_and_stays_away(fleet: Fleet, settle: Settle) -> None:
    """Its chunks live on their next servers after one recompute."""
    fleet.servers[2].end(signal.SIGKILL)
    time.sleep(AWAY_S)
    settle(away=["s2"])


def test_a_server_is_killed_and_restarted_empty(fleet: Fleet, settle: Settle) -> None:
    """What was stored elsewhere meanwhile is still found."""
    fleet.servers[0].end(signal.SIGKILL)
    time.sleep(AWAY_S)
    fleet.servers[0].start()
    settle()


def test_a_server_is_stopped_and_goes_on(fleet: Fleet, settle: Settle) -> None:
    """SIGSTOP: it accepts connections and says nothing."""
    fleet.servers[3].send(signal.SIGSTOP)
    time.sleep(AWAY_S)
    fleet.servers[3].send(signal.SIGCONT)
    settle()


def test_a_server_is_drained(fleet: Fleet, settle: Settle) -> None:
    """SIGTERM: it leaves, and is restarted."""
    fleet.servers[1].end(signal.SIGTERM)
    time.sleep(AWAY_S)
    fleet.servers[1].start()
    settle()


def test_a_server_moves(fleet: Fleet, settle: Settle) -> None:
    """Restarted under another address with the same name: its clients follow."""
    moved = fleet.servers[2]
    moved.end(signal.SIGKILL)
    old = fleet.fabric.address(moved.host)
    fleet.fabric.move(moved.host)
    assert fleet.fabric.address(moved.host) != old
    moved.start()
    settle()


def test_a_rolling_restart_of_all(fleet: Fleet, settle: Settle) -> None:
    """One after the other, drained and empty again."""
    for server in fleet.servers:
        server.end(signal.SIGTERM)
        time.sleep(AWAY_S / 5)
        server.start()
        wait_until(fleet.is_whole, PATIENCE_S)
    settle()


def test_packets_are_lost(fleet: Fleet, settle: Settle) -> None:
    """Two in a hundred towards each server: TCP mends it, deadlines bound it."""
    try:
        for server in fleet.servers:
            fleet.fabric.disturb(server.host, "loss", "2%", "delay", "1ms")
    except Unavailable as error:
        pytest.skip(str(error))
    time.sleep(AWAY_S)
    settle()
