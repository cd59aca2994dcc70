"""The keys of objects: no two share one."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from memkv_lmcache.keys import (
    MAX_TEXT,
    ObjectName,
    object_group,
    object_key,
    object_text,
    parse_object_text,
)

# few letters, digits and the separator: names that are easily taken for one another
NAMES = st.text("a1:", max_size=4) | st.text(max_size=600)
OBJECTS = st.builds(
    ObjectName,
    model_name=NAMES,
    cache_salt=NAMES,
    kv_rank=st.integers(0, 2**32 - 1),
    object_group_id=st.integers(0, 20),
    chunk_hash=st.binary(max_size=32),
)


@given(OBJECTS, OBJECTS)
def test_two_objects_never_share_a_key(a: ObjectName, b: ObjectName) -> None:
    """Whatever stands in their names."""
    assume(a != b)
    assert object_text(a) != object_text(b)
    assert object_key(a) != object_key(b)


@given(OBJECTS)
def test_a_key_says_what_it_is_of(name: ObjectName) -> None:
    """Its text can be taken apart again, and a short one is the key itself."""
    text = object_text(name)
    assert parse_object_text(text) == name
    if len(text.encode("utf-8", "surrogatepass")) <= MAX_TEXT:
        assert object_key(name).decode("utf-8", "surrogatepass") == text


@given(st.text() | st.text("mp:0123a", max_size=30).map("mp:".__add__))
def test_only_such_texts_are_taken_apart(text: str) -> None:
    """Any other is None, never an exception."""
    name = parse_object_text(text)
    assert name is None or object_text(name) == text


def test_ranks_and_groups_of_a_chunk_share_their_hint() -> None:
    """They are of use only together; another salt's are not."""
    name = ObjectName("model", "", 0x0200_0200, 0, b"chunk")
    assert object_group(name._replace(kv_rank=0x0201_0201)) == object_group(name)
    assert object_group(name._replace(object_group_id=1)) == object_group(name)
    assert object_group(name._replace(cache_salt="s")) != object_group(name)
    assert object_group(name._replace(chunk_hash=b"other")) != object_group(name)
