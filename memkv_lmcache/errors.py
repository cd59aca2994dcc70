# SPDX-License-Identifier: Apache-2.0
"""Statuses of the library and the exceptions made of them.  Imports nothing of ours.

Every failure that leaves the package is a :class:`MemKVError` with the library's status
and a text for a human.  Classes follow the ranges of ``memkv.h``: the largest thing
that is broken decides.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """``memkv_status`` of ``memkv.h``; the numbers travel on the wire."""

    OK = 0
    INVALID = -1
    NO_MEMORY = -2
    UNSUPPORTED = -3
    SYSTEM = -4
    NOT_FOUND = -10
    EXISTS = -11
    TOO_SMALL = -12
    TOO_LARGE = -13
    FULL = -14
    CHECKSUM = -15
    DRAINING = -16
    BUSY = -17
    TIMEOUT = -18
    UNREACHABLE = -21
    DISCONNECTED = -22
    PROTOCOL = -23
    VERSION = -24
    AUTH = -25
    CLOSED = -31


class MemKVError(Exception):
    """Root of all failures; never raised itself.

    ``status`` is a :class:`Status`, ``text`` says in words what is wrong.
    """

    def __init__(self, status: Status, text: str) -> None:
        # one argument only: of two, a base that is an OSError takes the first as errno
        super().__init__(text)
        self.status = status
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.status, self.text)


class UsageError(MemKVError):
    """The call: a wrong argument, or something this build or host cannot do."""


class ConfigError(UsageError, ValueError):
    """A setting; the text names it, its value and what would be right."""

    def __init__(self, text: str) -> None:
        super().__init__(Status.INVALID, text)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.text,)


class RequestError(MemKVError):
    """One operation; its connection is fine."""


class KeyNotFound(RequestError, KeyError):
    """No value of that key."""


class KeyExists(RequestError):
    """The value is there already, with this header."""


class BufferTooSmall(RequestError):
    """The value or its header is larger than the memory given for it."""


class ValueTooLarge(RequestError):
    """The value is over the server's limit."""


class ServerFull(RequestError):
    """The server may evict nothing for this value just now."""


class BadChecksum(RequestError):
    """What arrived is not what was sent."""


class ServerDraining(RequestError):
    """The server is about to leave and takes no more requests."""


class ServerBusy(RequestError):
    """Too much is on its way from that server just now."""


class Timeout(RequestError, TimeoutError):
    """The deadline passed."""


class ConnectionLost(MemKVError, ConnectionError):
    """The server is down, hung up, or does not speak our protocol."""


class AuthError(MemKVError):
    """The ends disagree about the key; trying again will not help."""


class ClientClosed(MemKVError):
    """The client was closed."""


_CLASSES: dict[Status, type[MemKVError]] = {
    Status.INVALID: UsageError,
    Status.NO_MEMORY: UsageError,
    Status.UNSUPPORTED: UsageError,
    Status.SYSTEM: UsageError,
    Status.NOT_FOUND: KeyNotFound,
    Status.EXISTS: KeyExists,
    Status.TOO_SMALL: BufferTooSmall,
    Status.TOO_LARGE: ValueTooLarge,
    Status.FULL: ServerFull,
    Status.CHECKSUM: BadChecksum,
    Status.DRAINING: ServerDraining,
    Status.BUSY: ServerBusy,
    Status.TIMEOUT: Timeout,
    Status.UNREACHABLE: ConnectionLost,
    Status.DISCONNECTED: ConnectionLost,
    Status.PROTOCOL: ConnectionLost,
    Status.VERSION: ConnectionLost,
    Status.AUTH: AuthError,
    Status.CLOSED: ClientClosed,
}


def error_for(status: int, text: str = "") -> MemKVError:
    """The exception for a status other than OK, ready to be raised.

    An empty ``text`` becomes the status' name in words.
    """
    known = Status(status)
    return _CLASSES[known](known, text or known.name.lower().replace("_", " "))


_MISS_REASONS: dict[Status, str] = {
    Status.INVALID: "invalid",
    Status.NO_MEMORY: "no_memory",
    Status.UNSUPPORTED: "unsupported",
    Status.SYSTEM: "system",
    Status.NOT_FOUND: "absent",
    # the value is not of the size that its reader made room for
    Status.TOO_SMALL: "header_mismatch",
    Status.TOO_LARGE: "too_large",
    Status.FULL: "server_full",
    Status.CHECKSUM: "checksum",
    Status.DRAINING: "server_draining",
    Status.BUSY: "server_busy",
    Status.TIMEOUT: "timeout",
    Status.UNREACHABLE: "server_down",
    Status.DISCONNECTED: "server_down",
    Status.PROTOCOL: "protocol",
    Status.VERSION: "version",
    Status.AUTH: "auth",
    Status.CLOSED: "closed",
}


def miss_reason(status: Status) -> str:
    """Why an operation of this status is a miss, as it is counted and shown.

    OK and EXISTS are no misses: KeyError.
    """
    return _MISS_REASONS[status]
