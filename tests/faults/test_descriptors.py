"""A server that has no descriptor left for another connection."""

from __future__ import annotations

import contextlib

from support import wait_until

from faults.conftest import serving
from faults.raw_peer import RawPeer


def test_a_server_out_of_descriptors_waits_for_one_without_spinning() -> None:
    """Those connected are served, the others' turn comes, and no processor burns."""
    with serving(descriptors=40) as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(server.connect())
        crowd = contextlib.ExitStack()
        for _ in range(60):
            crowd.enter_context(RawPeer(server.address))
        wait_until(lambda: first.info()["connections"] > 20)
        before, taken = server.cpu_seconds(), first.info()["connections"]
        late = stack.enter_context(RawPeer(server.address))
        assert not late.is_hung_up(timeout=1.0)
        assert server.cpu_seconds() - before < 0.3
        assert first.info()["connections"] == taken
        crowd.close()
        server.check_serves()
