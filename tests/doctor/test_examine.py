"""Many servers at once, and those that nothing is heard of."""

from __future__ import annotations

import threading

import pytest

from memkv_lmcache.addresses import ServerAddress
from memkv_lmcache.doctor import examine
from memkv_lmcache.doctor.findings import Level
from memkv_lmcache.doctor.servers import ServerReport
from memkv_lmcache.errors import Status

SERVERS = [ServerAddress(f"s{i}", f"10.0.0.{i}:9900") for i in range(40)]


def test_many_servers_are_reported_in_their_order() -> None:
    """More than there are threads, each once."""
    found = examine._all_at_once(SERVERS, ServerReport, 10)
    assert [report.server for report in found] == SERVERS
    assert all(report.error is None for report in found)


def test_a_server_that_never_returns_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a name is not resolved: it counts as not reached, the others are seen."""
    monkeypatch.setattr(examine, "_CLEAN_UP_S", 0.1)
    never = threading.Event()

    def check(server: ServerAddress) -> ServerReport:
        if server is SERVERS[0]:
            never.wait()
        return ServerReport(server)

    try:
        found = examine._all_at_once(SERVERS[:3], check, 0.1)
    finally:
        never.set()
    assert [report.error is None for report in found] == [False, True, True]
    [finding] = found[0].findings
    assert finding.level is Level.FAIL
    assert "getent hosts 10.0.0.0" in finding.mend
    assert found[0].error is not None
    assert found[0].error.status is Status.TIMEOUT
