"""How work that goes on elsewhere is reported."""

from __future__ import annotations

import os
import threading
import time

import pytest
from support import wait_until

from memkv_lmcache.l2 import tasks
from memkv_lmcache.l2.tasks import Countdown, Deadlines, Results


def test_results_that_nobody_collects_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest first: LMCache gives requests up and never asks for their results."""
    monkeypatch.setattr(tasks, "KEPT", 3)
    results: Results[str] = Results()
    for i in range(5):
        results.post(i, f"result {i}")
    assert results.take_all() == {2: "result 2", 3: "result 3", 4: "result 4"}
    results.close()


def test_a_closed_descriptor_is_not_written_to() -> None:
    """Its number may belong to somebody else by then."""
    results: Results[str] = Results()
    fd = results.fileno()
    results.close()
    results.close()
    taken = os.eventfd(0, os.EFD_NONBLOCK)
    assert taken == fd
    results.post(1, "late")
    with pytest.raises(BlockingIOError):
        os.eventfd_read(taken)
    os.close(taken)
    assert results.take(1) is None
    assert results.fileno() == -1


def test_the_last_part_ends_a_task() -> None:
    """Once, and no part at all ends it too."""
    over: list[str] = []
    countdown = Countdown(3, lambda: over.append("three"))
    Countdown(0, lambda: over.append("none"))
    assert over == ["none"]
    for _ in range(2):
        countdown.part_over()
    assert over == ["none"]
    countdown.part_over()
    assert over == ["none", "three"]


def test_deadlines_expire_in_their_order_and_time() -> None:
    """Not before it, and those left at a close at once; later ones too."""
    deadlines = Deadlines("test", 0.05)
    begin, expired = time.monotonic(), []
    for i in range(3):
        deadlines.watch(lambda i=i: expired.append((i, time.monotonic() - begin)))
    wait_until(lambda: len(expired) == 3)
    assert [i for i, _ in expired] == [0, 1, 2]
    assert all(after >= 0.05 for _, after in expired)
    patient = Deadlines("test", 3600)
    closed = threading.Event()
    patient.watch(closed.set)
    assert not closed.is_set()
    patient.close()
    deadlines.close()
    assert closed.is_set()
    late = threading.Event()
    patient.watch(late.set)
    assert late.is_set()
