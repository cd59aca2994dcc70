"""Peers that no client of ours would be: the server stays up, its memory stays bounded,
other clients notice nothing, and nothing half-written can be read."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wait_until
from wire import model
from wire.model_items import Request

from faults.conftest import POOL, Server
from faults.raw_peer import RawPeer, hello_bytes, request_bytes

MIB = 2**20
NOT_FOUND, TOO_LARGE = -10, -13
PUT_1_MIB = request_bytes(model.PUT, [Request(b"half", length=MIB)]) + bytes(MIB)

# What the server's process may grow by, whatever is done to it.
SLACK = 48 * MIB


@pytest.fixture(autouse=True)
def _serves_and_is_bounded(server: Server) -> Iterator[None]:
    yield
    server.check_serves()
    assert server.resident() < POOL + 160 * MIB
    wait_until(lambda: server.info()["connections"] == 1)
    assert server.info()["arriving_bytes"] == 0


def read(server: Server, key: bytes) -> int:
    """The status of a GET."""
    with server.connect() as peer:
        return peer.ask(model.GET, Request(key, length=4 * MIB))[0].status


@given(noise=st.binary(min_size=1, max_size=400), greeted=st.booleans())
def test_random_bytes_only_cost_their_connection(
    server: Server, noise: bytes, greeted: bool
) -> None:
    """Before or after the handshake: hung up on, or waited for as half a frame."""
    with RawPeer(server.address) as peer:
        if greeted:
            peer.greet()
        peer.send(noise)
        if len(noise) >= model.PREFIX.size:
            assert peer.is_hung_up()


@given(data=st.data())
def test_a_damaged_frame_only_costs_its_connection(
    server: Server, data: st.DataObject
) -> None:
    """One bit of a valid request flipped: answered or hung up on, nothing else."""
    whole = bytearray(request_bytes(model.STAT, [Request(b"key")] * 3))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with server.connect() as peer:
        peer.send(bytes(whole))
        peer.finish()
        assert peer.is_hung_up()


@given(size=st.integers(0, len(PUT_1_MIB) - 1))
def test_a_put_cut_anywhere_stores_nothing(server: Server, size: int) -> None:
    """A client that vanishes mid-put leaves nothing that can be read."""
    with server.connect() as peer:
        peer.send(PUT_1_MIB[:size])
    assert read(server, b"half") == NOT_FOUND


@pytest.mark.parametrize("kind", [model.PUT, model.GET, model.INFO, 200])
@pytest.mark.parametrize("field", ["table_len", "body_len"])
def test_a_frame_that_announces_too_much_is_hung_up_on(
    server: Server, kind: int, field: str
) -> None:
    """2^63 bytes of body, or 2^32 - 1 of table: no byte of memory for it."""
    before = server.resident()
    table_len = 2**32 - 1 if field == "table_len" else 0
    body_len = 2**63 if field == "body_len" else 0
    with server.connect() as peer:
        head = (b"MEKV", 1, kind, model.LAST, *[0] * 5)
        peer.send(model.PREFIX.pack(*head, table_len, body_len, bytes(16)))
        assert peer.is_hung_up()
    assert server.resident() < before + MIB


def test_a_frame_left_unfinished_times_out_and_an_idle_connection_does_not(
    server: Server,
) -> None:
    """Half a HELLO, half a prefix, half a table: closed in time. Nothing said: kept."""
    stat = request_bytes(model.STAT, [Request(b"key")])
    with contextlib.ExitStack() as stack:
        idle = stack.enter_context(server.connect())
        silent = stack.enter_context(RawPeer(server.address))
        half_hello = stack.enter_context(RawPeer(server.address))
        half_hello.send(hello_bytes()[:60])
        half_prefix = stack.enter_context(server.connect())
        half_prefix.send(stat[:10])
        half_table = stack.enter_context(server.connect())
        half_table.send(stat[:100])
        for peer in (silent, half_hello, half_prefix, half_table):
            assert peer.is_hung_up()
        assert idle.info()["connections"] == 1


def test_ten_thousand_idle_connections_cost_little(server: Server) -> None:
    """As many as this host's limit on descriptors allows, up to 10,000."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n = min(10_000, hard - 500)
    assert n >= 1_000, f"RLIMIT_NOFILE of {hard} is too low to test with"
    before = server.resident()
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(n):
                stack.enter_context(server.connect())
            assert server.info()["connections"] == n + 1
            assert server.resident() - before < n * 8192
            server.check_serves()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_four_gib_announced_and_not_sent_take_no_memory(server: Server) -> None:
    """Pages come as bytes arrive; the connection ends with its budget."""
    before = server.resident()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.connect()) for _ in range(20)]
        for i, peer in enumerate(peers):
            size = 2**32 if i % 2 else POOL // 8
            put = request_bytes(model.PUT, [Request(b"4g", length=size)], budget_ms=500)
            peer.send(put + bytes(100_000))
        server.check_serves()
        assert server.info()["arriving_bytes"] < 20 * 2 * MIB
        assert server.resident() < before + SLACK
        for peer in peers:
            assert peer.is_hung_up()
    assert read(server, b"4g") == NOT_FOUND


def test_a_value_as_large_as_the_pool_is_refused_and_not_kept(
    server: Server,
) -> None:
    """What is too large is read and thrown away: the connection stays in step."""
    size = POOL
    with server.connect() as peer:
        before = server.resident()
        row, _ = peer.ask(model.PUT, Request(b"big", length=size), bytes(size))
        assert row.status == TOO_LARGE
        assert peer.info()["arriving_bytes"] == 0
        assert server.resident() < before + SLACK


def test_readers_that_stop_reading_are_let_go(server: Server) -> None:
    """Their values are released once their budget is over; others are served."""
    keys = [b"read-%d" % i for i in range(3)]
    with server.connect() as peer:
        for key in keys:
            peer.ask(model.PUT, Request(key, length=4 * MIB), bytes(4 * MIB))
    wanted = [Request(key, length=4 * MIB) for key in keys]
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.connect()) for _ in range(30)]
        for peer in peers:
            for id in range(8):
                peer.send(request_bytes(model.GET, wanted, budget_ms=500, id=id))
        wait_until(lambda: server.info()["referenced_bytes"] > 0)
        server.check_serves()
        assert server.info()["referenced_bytes"] <= POOL // 2
        wait_until(lambda: server.info()["referenced_bytes"] == 0)
        for peer in peers:
            assert peer.is_hung_up()


def test_replies_that_nobody_reads_are_bounded(server: Server) -> None:
    """Lookups with headers answer a few bytes with a hundred times as many."""
    header = bytes(model.MAX_HEADER)
    item = Request(b"headed", header, len(header))
    with server.connect() as peer:
        peer.ask(model.PUT, item)
    lookup = request_bytes(
        model.STAT,
        [Request(b"headed", header_len=model.MAX_HEADER)] * 1_000,
        budget_ms=2_000,
    )
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.connect()) for _ in range(200)]
        for peer in peers:
            peer.socket.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                peer.send(lookup * 20)
        info = server.info()
        assert 0 < info["answer_bytes"] < 80 * MIB
        server.check_serves()
        wait_until(lambda: server.info()["connections"] == 1)
