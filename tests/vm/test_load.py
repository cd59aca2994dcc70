"""Clients that come and go leave nothing on real RDMA devices, at neither end."""

from __future__ import annotations

import os

from support import wait_until

from .ends import CLIENT, SERVER, Linked, Server, objects, open_files

CONNECTS = 50


def test_connects_leave_nothing_behind(server: Server) -> None:
    """No queue pair, completion queue, region, protection domain or descriptor."""

    def footprint() -> tuple[object, ...]:
        return open_files(server.pid), open_files(os.getpid()), objects()

    before, before_objects = footprint(), objects()
    for _ in range(CONNECTS):
        with Linked(server.settings) as client:
            client.link_up()
            now = objects()
            for device in (CLIENT, SERVER):
                assert now[device]["qp"] > before_objects[device]["qp"]
    wait_until(lambda: footprint() == before)
