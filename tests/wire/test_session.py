"""A session says and hears what docs/wire.md says, however the bytes are cut."""

from __future__ import annotations

from itertools import accumulate
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from memkv_lmcache._memkv import lib
from wire import model, model_items
from wire.model import GET, LAST, PUT, REPLY, Frame
from wire.session_driver import Pair, opened, session
from wire.session_model import (
    CLIENT,
    SERVER,
    Body,
    Closed,
    Conversation,
    Message,
    last_of,
    seen,
)
from wire.session_strategies import (
    CUTS,
    ROLES,
    content,
    conversations,
    talks,
    with_another,
)


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_events_do_not_depend_on_how_the_stream_is_cut(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """In one piece, byte by byte and at random: what was sent is seen, and answered."""
    talk = data.draw(with_another(talk, role))
    messages = data.draw(talks(1 - role))
    stream = talk.stream(1 - role, messages)
    events = [talk.opening(role), *seen(messages)]
    assert session(talk, role, cuts).feed(stream) == events
    assert session(talk, role, cuts).feed_bytewise(stream) == events
    end = session(talk, role, cuts)
    assert end.feed_at_random(stream) == events
    assert end.write_all() == b"".join(talk.greeting(role))


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_what_goes_out_does_not_depend_on_how_it_is_cut(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Partial writes add up to the model's bytes; frames come back once, in order."""
    end = opened(talk, role, cuts)
    messages = data.draw(talks(role))
    written = b""
    for message in messages:
        assert end.send(message) == lib.MEMKV_OK
        written += end.write(cuts.choice([0, 1, 60, 500]))
    written += end.write_all(cuts.choice([1, 13, 100, None]))
    assert written == b"".join(talk.frames(role, messages))
    assert end.returned == len(messages)
    assert end.outgoing == []


@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_two_sessions_understand_each_other(
    data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Every frame arrives, in order, its body intact, whatever the stream does."""
    pair = Pair(*talk.ends, cuts)
    pair.settle()
    said = (data.draw(talks(CLIENT)), data.draw(talks(SERVER)))
    turns = [CLIENT] * len(said[CLIENT]) + [SERVER] * len(said[SERVER])
    cuts.shuffle(turns)
    waiting = (iter(said[CLIENT]), iter(said[SERVER]))
    for role in turns:
        message = next(waiting[role])
        assert pair.ends[role].send(message) == lib.MEMKV_OK
        for _ in range(cuts.randrange(4)):
            pair.step()
    pair.settle()
    for role, end in enumerate(pair.ends):
        assert end.events == [talk.opening(role), *seen(said[1 - role])]
        assert end.is_quiet


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_a_session_is_quiet_between_frames_only(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Quiet is: open, nothing half read, nothing unsent."""
    end = session(talk, role, cuts)
    assert not end.is_quiet
    for greeting in talk.greeting(1 - role):
        assert not end.is_open
        end.feed(greeting)
    assert end.is_open
    assert end.is_quiet == (end.c.out_bytes == 0)
    end.write_all()
    frames = talk.frames(1 - role, data.draw(talks(1 - role)))
    boundaries = set(accumulate(map(len, frames), initial=0))
    for i, byte in enumerate(b"".join(frames)):
        assert end.is_quiet == (i in boundaries)
        end.feed(bytes([byte]))
    assert end.send(data.draw(talks(role, min_size=1))[0]) == lib.MEMKV_OK
    assert not end.is_quiet


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_a_stream_that_ends_early_closes_with_the_owners_reason(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Cut at any byte, all that came before is seen, then CLOSED."""
    messages = data.draw(talks(1 - role))
    stream = talk.stream(1 - role, messages)
    end = session(talk, role, cuts)
    before = end.feed(stream[: data.draw(st.integers(0, len(stream)))]).copy()
    events = end.hang_up(lib.MEMKV_ERR_DISCONNECTED)
    assert events[: len(before)] == before
    assert events[-1] == Closed(lib.MEMKV_ERR_DISCONNECTED)
    whole = [talk.opening(role), *seen(messages)]
    assert before == whole[: len(before)]
    for part, body in zip(events[len(before) : -1], whole[len(before) :], strict=False):
        assert isinstance(part, Body)
        assert isinstance(body, Body)
        assert body.data.startswith(part.data)
    assert end.hang_up(lib.MEMKV_ERR_TIMEOUT) == events
    assert end.send(data.draw(talks(role, min_size=1))[0]) == lib.MEMKV_ERR_INVALID


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_nothing_is_sent_before_the_connection_is_open(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """A frame of the owner is refused until OPEN, and the greeting is not disturbed."""
    end = session(talk, role, cuts)
    message = data.draw(talks(role, min_size=1))[0]
    for greeting in talk.greeting(1 - role):
        assert end.send(message) == lib.MEMKV_ERR_INVALID
        end.feed(greeting)
    assert end.send(message) == lib.MEMKV_OK
    assert end.write_all() == talk.stream(role, [message])


@ROLES
@given(talk=conversations(), cuts=CUTS)
def test_a_frame_that_breaks_the_limits_is_not_sent(
    role: int, talk: Conversation, cuts: Random
) -> None:
    """It is refused and takes no number: the next frame's tag is right."""
    end = opened(talk, role, cuts)
    refused = Message(Frame(model.PING, last_of(role)), body=b"1")
    assert end.send(refused) == lib.MEMKV_ERR_INVALID
    ping = Message(Frame(model.PING, last_of(role)))
    assert end.send(ping) == lib.MEMKV_OK
    assert end.write_all() == talk.seal(role, 0, ping)


LARGE_REQUEST = [
    model_items.Request(bytes(510), bytes(4096), 4096, length=length)
    for length in [2**22, *[1000] * 50, 2**21]
]
LARGE_REPLY = [
    model_items.Reply(i, 0, model.PAYLOAD, header_len=4096, length=length)
    for i, length in enumerate([2**22, *[1000] * 1022, 2**21])
]


@ROLES
@settings(max_examples=3)
@given(talk=conversations(), cuts=CUTS)
def test_frames_of_many_megabytes_arrive(
    role: int, talk: Conversation, cuts: Random
) -> None:
    """A table near its limit and a body of 6 MiB, both ways, twice."""
    if role == CLIENT:
        head, table = model_items.encode_requests(Frame(PUT), LARGE_REQUEST)
    else:
        head, table = model_items.encode_replies(Frame(GET, REPLY | LAST), LARGE_REPLY)
    messages = [Message(head, table, content(head.body_len))] * 2
    pair = Pair(*talk.ends, cuts)
    pair.settle()
    for message in messages:
        assert pair.ends[role].send(message) == lib.MEMKV_OK
    while data := pair.ends[role].write(2**20):
        pair.ends[1 - role].feed(data)
    assert pair.ends[1 - role].events[1:] == seen(messages)
