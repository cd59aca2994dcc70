# SPDX-License-Identifier: Apache-2.0
"""A few daemon threads that run calls in the order they came.

Not an executor of ``concurrent.futures``: its threads are joined when the interpreter
exits, and an exit must not wait for a transfer that nobody is interested in any more.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Workers:
    """``count`` threads, started with the first call.  Any thread may use it."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._closed = False

    def submit(self, call: Callable[[], None]) -> bool:
        """Queues ``call``, which must not raise.  False: closed, it will not run."""
        with self._changed:
            if self._closed:
                return False
            self._calls.append(call)
            if len(self._threads) < min(self._count, self._busy + len(self._calls)):
                self._start_thread()
            self._changed.notify()
        return True

    def call(self, function: Callable[[], T]) -> Future[T]:
        """A future of ``function()``, called here and now if the workers are closed."""
        future: Future[T] = Future()
        # it cannot be cancelled, since nothing would stop the call
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if not self.submit(run):
            run()
        return future

    def close(self) -> None:
        """Takes no more calls; those queued are still run, then the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds until nothing is queued or running."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._calls and not self._busy, timeout
            )

    def _start_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._closed)
                if not self._calls:
                    return
                call = self._calls.popleft()
                self._busy += 1
            try:
                call()
            except Exception:
                logger.exception("a call of the %s threads failed", self._name)
            finally:
                # What the call holds is let go before anybody hears that it is over.
                del call
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
