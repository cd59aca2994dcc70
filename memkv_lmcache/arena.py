# SPDX-License-Identifier: Apache-2.0
"""The engine's arena must outlive every transfer into it.

LMCache closes its CPU backend, and with it the arena, before it closes the plugins.
So whoever moves bytes registers here, and is told to be quiet before the arena goes.
Knows the allocator only by its ``close`` and its buffer.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_memkv_arena_guard"
_install_lock = threading.Lock()


def memory_at(address: int, size: int) -> memoryview:
    """Memory of somebody else's, who keeps it until no one uses this view."""
    return memoryview((ctypes.c_char * size).from_address(address))


def arena_of(allocator: Any) -> memoryview | None:
    """The one piece of memory that ``allocator`` hands out parts of, if it has one."""
    for name in ("buffer", "cpu_buffer"):
        tensor = getattr(allocator, name, None)
        if tensor is not None and hasattr(tensor, "data_ptr"):
            return memory_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return None


class ArenaUser(Protocol):
    """Something that moves bytes into or out of an arena."""

    def quiesce(self) -> bool:
        """Stops, within a bound.  True: nothing of it will touch the arena again."""


class ArenaGuard:
    """Stands before one allocator's ``close``.  Any thread."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._users: list[ArenaUser] = []

    @classmethod
    def of(cls, allocator: Any) -> ArenaGuard:
        """The guard of ``allocator``, installed on the instance at the first call."""
        with _install_lock:
            guard: ArenaGuard | None = getattr(allocator, _ATTRIBUTE, None)
            if guard is None:
                guard = cls(allocator.close)
                allocator.close = guard.close
                setattr(allocator, _ATTRIBUTE, guard)
            return guard

    def add(self, user: ArenaUser) -> None:
        with self._lock:
            self._users.append(user)

    def remove(self, user: ArenaUser) -> None:
        """``user`` will not touch the arena again."""
        with self._lock:
            self._users = [each for each in self._users if each is not user]

    def close(self) -> None:
        """Quiets every user, then closes the arena; keeps it if one is not quiet."""
        with self._lock:
            users, self._users = self._users, []
        restless = [user for user in users if not user.quiesce()]
        if restless:
            logger.error(
                "MemKV: a transfer is still running; the CPU arena is kept until the "
                "process ends, so that nothing writes into freed memory"
            )
            with self._lock:
                self._users += restless
            return
        self._close()
