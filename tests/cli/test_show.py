"""Keys, sizes and times as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache.cli.show import duration_text, key_text, parse_key, size_text


@given(st.binary(min_size=1, max_size=512))
def test_a_key_that_is_shown_can_be_typed(key: bytes) -> None:
    """Whatever the key, its text is printable and leads back to it."""
    text = key_text(key)
    assert text.isprintable()
    assert parse_key(text) == key


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (4 * 1024**2, "4 MiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_sizes_read_well(size: int, text: str) -> None:
    """The largest unit that leaves a number of one or more."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")],
)
def test_times_read_well(milliseconds: int, text: str) -> None:
    """Seconds up to two minutes, and so on."""
    assert duration_text(milliseconds) == text
