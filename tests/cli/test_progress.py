"""The progress bar of a transfer."""

from __future__ import annotations

import io
import mmap

import pytest
from rich.console import Console
from support import wait_until

from memkv_lmcache.cli import progress


def a_console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100), text


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is due at once, and drawn often, whatever terminal runs the tests."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(progress, "_REFRESH_S", 0.001)


def test_a_long_transfer_shows_how_far_it_is() -> None:
    """What has moved and what there is stand on the terminal."""
    console, text = a_console(terminal=True)
    with progress.transfer("get key", 8 * 1024**2, lambda: 2 * 1024**2, console):
        wait_until(lambda: "2.0/8.0 MiB" in text.getvalue())
    assert "get key" in text.getvalue()


def test_an_unknown_pace_is_a_moving_bar() -> None:
    """Where nobody can say how far it is, it still shows that it runs."""
    console, text = a_console(terminal=True)
    with progress.transfer("put key", 8, lambda: None, console):
        wait_until(lambda: "put key" in text.getvalue())


def test_a_pipe_sees_no_bar() -> None:
    """Only a terminal does."""
    console, text = a_console(terminal=False)
    with progress.transfer("get key", 8, lambda: 4, console):
        pass
    assert text.getvalue() == ""


def test_a_short_transfer_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over within a second needs no bar."""
    monkeypatch.setattr(progress, "PATIENCE_S", 60.0)
    console, text = a_console(terminal=True)
    with progress.transfer("get key", 8, lambda: 4, console):
        pass
    assert text.getvalue() == ""


def test_a_failure_inside_is_the_callers() -> None:
    """The bar goes away and the exception comes through."""
    console, _ = a_console(terminal=True)
    with (
        pytest.raises(OSError, match="disk"),
        progress.transfer("get key", 8, lambda: 4, console),
    ):
        raise OSError("disk")


def test_bytes_that_land_in_a_mapping_are_counted() -> None:
    """Half of the memory is written, so about half of it has landed."""
    size = 64 * 1024**2
    with mmap.mmap(-1, size) as room:
        moved = progress.memory_filled()
        assert moved() == 0
        room[: size // 2] = bytes(size // 2)
        landed = moved()
    assert landed is not None
    assert 0.9 <= landed / (size // 2) <= 1.1
