# SPDX-License-Identifier: Apache-2.0
"""How work that goes on elsewhere is reported: once, by a descriptor, and in time."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Results that nobody collects are forgotten beyond this many: LMCache gives up a
#: request when another adapter raises, and never asks for ours.
KEPT = 8192


class Results(Generic[T]):
    """The results of one kind of task, and the descriptor that tells of them.

    Each is handed out once.  Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: dict[int, T] = {}
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """An eventfd that is readable after a ``post``; -1 once closed."""
        return self._fd

    def post(self, task: int, result: T) -> None:
        """Makes the result of ``task`` known; once only.  Dropped if closed."""
        with self._lock:
            if self._fd < 0:
                return
            self._ready[task] = result
            if len(self._ready) > KEPT:
                del self._ready[next(iter(self._ready))]
            os.eventfd_write(self._fd, 1)

    def take(self, task: int) -> T | None:
        """The result of ``task``; None: there is none yet, or it was taken."""
        with self._lock:
            return self._ready.pop(task, None)

    def take_all(self) -> dict[int, T]:
        """All results there are."""
        with self._lock:
            ready, self._ready = self._ready, {}
            return ready

    def close(self) -> None:
        """Closes the descriptor; again does nothing."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._ready.clear()


class Countdown:
    """Calls ``done`` when the last of ``count`` parts is over.  Any thread."""

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._done = done
        if count == 0:
            done()

    def part_over(self) -> None:
        """To be called ``count`` times."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._done()


class Deadlines:
    """Calls functions a fixed time after they were handed in.  Any thread.

    They run in one thread, so they must be short, and must not raise.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._changed = threading.Condition()
        # in the order of their time, since all wait equally long
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._started = False
        self._closed = False

    def watch(self, expire: Callable[[], None]) -> None:
        """Calls ``expire`` when the time is over, or at the close, if that is first."""
        with self._changed:
            if not self._closed:
                self._waiting.append((time.monotonic() + self._seconds, expire))
                if not self._started:
                    self._started = True
                    threading.Thread(
                        target=self._run, name=self._name, daemon=True
                    ).start()
                if len(self._waiting) == 1:
                    self._changed.notify()
                return
        expire()

    def close(self) -> None:
        """Calls at once what still waits."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify()
        for _, expire in waiting:
            expire()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                left = self._waiting[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                expire = self._waiting.popleft()[1]
            expire()
            del expire  # with the keys that it holds
