"""Keys on the wire and hints for eviction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache.keys import MAX_KEY, MAX_TEXT, group_hash, wire_key


@given(st.text(alphabet=st.characters(), max_size=600))
def test_a_wire_key_fits_and_short_text_stays(text: str) -> None:
    """Any text makes a key that a server takes; up to 480 bytes it is the text."""
    key = wire_key(text)
    assert len(key) <= MAX_KEY
    data = text.encode("utf-8", "surrogatepass")
    assert (key == data) is (len(data) <= MAX_TEXT)


def test_long_text_collapses_to_a_known_hash() -> None:
    """The rule is part of the format: BLAKE2b-256 in hex behind a prefix."""
    assert wire_key("k" * 480) == b"k" * 480
    assert wire_key("k" * 481) == (
        b"memkv-h2:8accadbaf35cc9e861131acf30449c8d9c2c782d3c9d5e024d52cabdc1c41c59"
    )
    assert len(wire_key("\N{SNOWMAN}" * 161)) == 9 + 64


@given(st.text(max_size=40), st.text(max_size=40))
def test_different_text_has_different_keys(a: str, b: str) -> None:
    """Also where it is long."""
    assert (wire_key(a) == wire_key(b)) is (a == b)
    assert (wire_key(a * 50) == wire_key(b * 50)) is (a * 50 == b * 50)


@given(st.text(), st.integers(1, 64), st.integers() | st.binary(max_size=32))
def test_a_group_is_a_known_number(model: str, ranks: int, chunk: int | bytes) -> None:
    """A group is never 0 (unknown), fits 64 bits and is the same every time."""
    group = group_hash(model, ranks, chunk, "bfloat16")
    assert 1 <= group < 2**64
    assert group == group_hash(model, ranks, chunk, "bfloat16")


def test_groups_differ_where_chunks_do() -> None:
    """Every part of the chunk's identity counts, and none runs into the next."""
    groups = {
        group_hash("m", 1, 5, "d"),
        group_hash("n", 1, 5, "d"),
        group_hash("m", 2, 5, "d"),
        group_hash("m", 1, -5, "d"),
        group_hash("m", 1, 5, "e"),
        group_hash("m@1", 1, 5, "d"),
    }
    assert len(groups) == 6


def test_groups_are_the_same_in_every_process() -> None:
    """The number is fixed: other processes' eviction hints must agree with ours."""
    assert group_hash("org/model", 2, -0x2EE, "bfloat16") == 11902483334259789534
