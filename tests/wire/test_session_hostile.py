"""Noise, damage and frames that somebody else put on the stream."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from memkv_lmcache._memkv import lib
from wire import model
from wire.model import PING, Frame
from wire.session_driver import opened, session
from wire.session_model import (
    CLIENT,
    SERVER,
    Closed,
    Conversation,
    Message,
    last_of,
    seen,
)
from wire.session_strategies import (
    CUTS,
    KEYS,
    ROLES,
    conversations,
    messages,
    talks,
)
from wire.strategies import damaged_bytes

PROTOCOL, AUTH_FAILED, VERSION = (
    lib.MEMKV_ERR_PROTOCOL,
    lib.MEMKV_ERR_AUTH,
    lib.MEMKV_ERR_VERSION,
)
KEYED = conversations(KEYS)
NOISE = st.binary(max_size=200) | st.binary(max_size=600).map(lambda b: b"MEKV\1" + b)
# longer than any table: whatever a damaged length asks for, it comes
FILLING = bytes(model.MAX_TABLE)


# ---- any bytes -----------------------------------------------------------------------


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_noise_at_any_point_is_an_event_or_the_end(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """A valid stream that turns into noise: no crash, and only three ways to close."""
    stream = talk.stream(1 - role, data.draw(talks(1 - role)))
    at = data.draw(st.integers(0, len(stream)))
    end = session(talk, role, cuts)
    end.feed_at_random(stream[:at] + data.draw(NOISE))
    if end.is_closed:
        assert end.c.reason in (PROTOCOL, AUTH_FAILED, VERSION)


@ROLES
@given(data=st.data(), talk=conversations(st.none()), cuts=CUTS)
def test_damage_is_an_event_or_the_end(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Without tags to stop it, a damaged stream reaches all checks; none crashes."""
    stream = talk.stream(1 - role, data.draw(talks(1 - role)))
    end = session(talk, role, cuts)
    end.feed_at_random(data.draw(damaged_bytes(stream)))
    if end.is_closed:
        assert end.c.reason in (PROTOCOL, AUTH_FAILED, VERSION)


# ---- tags ----------------------------------------------------------------------------


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_a_flipped_bit_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Anywhere in prefix, tag or table: the frames before it are all that is seen."""
    said = data.draw(talks(1 - role, min_size=1))
    at = data.draw(st.integers(0, len(said) - 1))
    frames = talk.frames(1 - role, said)
    sealed = bytearray(frames[at])
    bit = data.draw(st.integers(0, 8 * (56 + len(said[at].table)) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    end = opened(talk, role, cuts)
    end.feed_at_random(b"".join(frames[:at]) + sealed)
    end.feed(FILLING)
    assert end.events[1:] == [*seen(said[:at]), Closed(PROTOCOL)]


def closes_after(
    talk: Conversation,
    role: int,
    cuts: Random,
    frames: list[bytes],
    believed: list[Message],
) -> None:
    """Of these frames, only the first ones are believed."""
    end = opened(talk, role, cuts)
    end.feed_at_random(b"".join(frames))
    assert end.events[1:] == [*seen(believed), Closed(PROTOCOL)]


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_a_replayed_frame_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """A frame is believed once."""
    said = data.draw(talks(1 - role, min_size=1))
    frames = talk.frames(1 - role, said)
    again = data.draw(st.sampled_from(frames))
    closes_after(talk, role, cuts, [*frames, again], said)


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_a_dropped_frame_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """The frame behind the gap is not believed."""
    said = data.draw(talks(1 - role, min_size=2))
    at = data.draw(st.integers(0, len(said) - 2))
    frames = talk.frames(1 - role, said)
    closes_after(talk, role, cuts, frames[:at] + frames[at + 1 :], said[:at])


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_swapped_frames_close(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Nor is a frame before its time, be it the same as the one expected."""
    said = data.draw(talks(1 - role, min_size=2))
    at = data.draw(st.integers(0, len(said) - 2))
    frames = talk.frames(1 - role, said)
    frames[at], frames[at + 1] = frames[at + 1], frames[at]
    closes_after(talk, role, cuts, frames, said[:at])


@ROLES
@given(data=st.data(), talk=KEYED, nonce=st.binary(min_size=32, max_size=32), cuts=CUTS)
def test_a_frame_of_another_connection_closes(
    role: int, data: st.DataObject, talk: Conversation, nonce: bytes, cuts: Random
) -> None:
    """The same frame with the same number under the same key, but other nonces."""
    changed = data.draw(st.sampled_from([CLIENT, SERVER]))
    assume(nonce != talk.ends[changed].nonce)
    ends = list(talk.ends)
    ends[changed] = replace(ends[changed], nonce=nonce)
    said = data.draw(talks(1 - role, min_size=1))
    at = data.draw(st.integers(0, len(said) - 1))
    frames = talk.frames(1 - role, said)
    frames[at] = Conversation(*ends).frames(1 - role, said)[at]
    closes_after(talk, role, cuts, frames, said[:at])


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_a_frame_under_the_other_direction_key_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """What an end tagged itself is not taken back from the wire."""
    frame = Frame(PING, last_of(1 - role), id=data.draw(st.integers(0, 9)))
    reflected = talk.seal(role, 0, Message(frame))
    closes_after(talk, role, cuts, [reflected], [])


@ROLES
@given(data=st.data(), talk=conversations(st.none()), cuts=CUTS)
def test_an_open_session_takes_no_tag(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Without a key the tag is zero, and nothing else."""
    message = data.draw(messages(1 - role))
    sealed = bytearray(talk.seal(1 - role, 0, message))
    sealed[data.draw(st.integers(40, 55))] = data.draw(st.integers(1, 255))
    closes_after(talk, role, cuts, [bytes(sealed)], [])
