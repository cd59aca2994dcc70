"""The threads behind loads, puts and lookups, and what guards the arena."""

from __future__ import annotations

import threading

import pytest
from support import wait_until

from memkv_lmcache.arena import ArenaGuard
from memkv_lmcache.hints import Depths
from memkv_lmcache.workers import Workers


def test_no_more_threads_than_allowed_and_none_before_work() -> None:
    """Threads come with the calls, up to the bound."""
    before = threading.active_count()
    workers, gate, running = Workers("test", 2), threading.Event(), []
    assert threading.active_count() == before
    for i in range(6):
        workers.submit(lambda i=i: (running.append(i), gate.wait(10)))
    wait_until(lambda: len(running) == 2)
    assert threading.active_count() == before + 2
    assert not workers.wait_idle(0)
    gate.set()
    assert workers.wait_idle(10)
    assert sorted(running) == list(range(6))
    workers.close()
    wait_until(lambda: threading.active_count() == before)


def test_close_runs_what_is_queued_and_takes_no_more() -> None:
    """Nobody waits for ever for a call that was accepted."""
    workers, gate, done = Workers("test", 1), threading.Event(), []
    workers.submit(lambda: gate.wait(10) and None)
    workers.submit(lambda: done.append(1))
    workers.close()
    assert not workers.submit(lambda: done.append(2))
    gate.set()
    assert workers.wait_idle(10)
    assert done == [1]


def test_a_call_that_raises_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next call runs."""
    workers = Workers("test", 1)

    def fail() -> None:
        raise ValueError("boom")

    workers.submit(fail)
    assert workers.call(lambda: 7).result(10) == 7
    assert "boom" in caplog.text
    workers.close()


def test_call_hands_on_results_and_exceptions() -> None:
    """On a thread, and here and now once the workers are closed."""
    workers = Workers("test", 1)
    for _ in range(2):
        assert workers.call(lambda: 7).result(10) == 7
        with pytest.raises(ZeroDivisionError):
            workers.call(lambda: 1 // 0).result(10)
        workers.close()


def test_depths_forget_the_oldest() -> None:
    """The memory is bounded; the last prefixes stay."""
    depths = Depths(capacity=3)
    depths.learn([b"a", b"b", b"c"])
    depths.learn([b"a", b"x"])
    assert [depths.of(key) for key in (b"a", b"b", b"c", b"x")] == [1, 0, 3, 2]


class User:
    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.asked = 0

    def quiesce(self) -> bool:
        self.asked += 1
        return self.quiet


class Allocator:
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_one_guard_stands_before_an_allocator() -> None:
    """All its users are quiet before it closes, and it closes once for each call."""
    allocator, users = Allocator(), [User(True), User(True)]
    for user in users:
        ArenaGuard.of(allocator).add(user)
    allocator.close()
    assert [user.asked for user in users] == [1, 1]
    assert allocator.closed == 1


def test_an_arena_is_kept_until_the_last_user_is_quiet() -> None:
    """A second close asks again those that were not."""
    allocator, quiet, busy = Allocator(), User(True), User(False)
    guard = ArenaGuard.of(allocator)
    guard.add(quiet)
    guard.add(busy)
    allocator.close()
    assert allocator.closed == 0
    busy.quiet = True
    allocator.close()
    assert (quiet.asked, busy.asked, allocator.closed) == (1, 2, 1)


def test_who_has_left_is_not_asked() -> None:
    allocator, user = Allocator(), User(False)
    ArenaGuard.of(allocator).add(user)
    ArenaGuard.of(allocator).remove(user)
    allocator.close()
    assert (user.asked, allocator.closed) == (0, 1)
