"""Statuses and exceptions: complete, and the same as the library's."""

from __future__ import annotations

import pickle

import pytest

from memkv_lmcache._memkv import ffi
from memkv_lmcache.errors import (
    AuthError,
    ClientClosed,
    ConfigError,
    ConnectionLost,
    MemKVError,
    RequestError,
    Status,
    UsageError,
    error_for,
    miss_reason,
)

FAILURES = [status for status in Status if status is not Status.OK]


def test_statuses_are_those_of_the_library() -> None:
    """Each member of memkv_status has the same name and number in Python."""
    names = ffi.typeof("memkv_status").relements
    ours = {
        ("MEMKV_" if status is Status.OK else "MEMKV_ERR_") + status.name: int(status)
        for status in Status
    }
    assert ours == names


@pytest.mark.parametrize("status", FAILURES, ids=lambda status: status.name)
def test_each_failure_has_a_class_of_its_range(status: Status) -> None:
    """What is broken (call, operation, connection, handle) decides the class."""
    error = error_for(status)
    ranges = {
        0: UsageError,
        1: RequestError,
        2: AuthError if status is Status.AUTH else ConnectionLost,
        3: ClientClosed,
    }
    assert isinstance(error, ranges[-status // 10])
    assert type(error) is not MemKVError
    assert error.status is status
    assert str(error)


@pytest.mark.parametrize("status", FAILURES, ids=lambda status: status.name)
def test_errors_survive_pickling(status: Status) -> None:
    """An error that crosses processes keeps its class, status and text."""
    error = error_for(status, "what happened")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert (type(copy), copy.status, str(copy)) == (type(error), status, str(error))


def test_config_errors_survive_pickling() -> None:
    """The class with another signature does too."""
    copy = pickle.loads(pickle.dumps(ConfigError("no")))  # noqa: S301 (our own bytes)
    assert (type(copy), copy.status, str(copy)) == (ConfigError, Status.INVALID, "no")


def test_builtin_classes_catch_what_they_should() -> None:
    """Who knows only Python's own exceptions catches ours by them."""
    for status, kind in {
        Status.TIMEOUT: TimeoutError,
        Status.UNREACHABLE: ConnectionError,
        Status.NOT_FOUND: KeyError,
    }.items():
        error = error_for(status, "words")
        assert isinstance(error, kind)
        assert str(error) == "words"


def test_each_miss_has_a_reason() -> None:
    """Every status but the two of success is a miss with a reason."""
    for status in Status:
        if status in (Status.OK, Status.EXISTS):
            with pytest.raises(KeyError):
                miss_reason(status)
        else:
            assert miss_reason(status).isidentifier()
