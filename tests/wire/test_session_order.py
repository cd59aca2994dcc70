"""Which frame may come when: the order of docs/wire.md, section 4, and its limits."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache._memkv import ffi, lib
from wire import model
from wire.model import AUTH, GET, HELLO, INFO, LAST, PAYLOAD, PING, PUT, REPLY, Frame
from wire.model_items import Reply, encode_replies
from wire.session_driver import Session, opened, session
from wire.session_model import (
    CLIENT,
    SERVER,
    Closed,
    Conversation,
    Message,
    plain,
    seen,
)
from wire.session_strategies import (
    CUTS,
    KEYS,
    ROLES,
    UNKNOWN_KINDS,
    content,
    conversations,
    messages,
    requests,
    talks,
)

PROTOCOL = lib.MEMKV_ERR_PROTOCOL
KEYED = conversations(KEYS)


def at_step(
    draw: st.DataObject, talk: Conversation, role: int, cuts: Random
) -> tuple[Session, int]:
    """The end of that role after none, some or all frames of its handshake."""
    greeting = talk.greeting(1 - role)
    done = draw.draw(st.integers(0, len(greeting)), label="frames of the handshake")
    end = session(talk, role, cuts)
    end.feed_at_random(b"".join(greeting[:done]))
    assert not end.is_closed
    return end, done


def closes(end: Session, data: bytes) -> None:
    """Closes at once, without an event for it."""
    before = list(end.events)
    end.feed_at_random(data)
    assert end.events == [*before, Closed(PROTOCOL)]


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_a_frame_before_the_handshake_is_over_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """Only the one expected may come, and no prefix of it is answered."""
    greeting = talk.greeting(1 - role)
    done = data.draw(st.integers(0, len(greeting) - 1))
    end = session(talk, role, cuts)
    end.feed_at_random(b"".join(greeting[:done]))
    message = data.draw(messages(1 - role))
    message = replace(message, frame=replace(message.frame, id=done))
    closes(end, talk.seal(1 - role, 0, message) + message.body)


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_a_second_hello_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """While the proof is awaited, and ever after, even under a right tag."""
    end, done = at_step(data, talk, role, cuts)
    if done == 0:
        end.feed(talk.hellos[1 - role])
    hello = plain(1 - role, HELLO, talk.hellos[1 - role][56:])
    if end.is_open:
        frame = model.decode_frame(hello)
        hello = talk.seal(1 - role, 0, Message(frame, hello[56:]))
    closes(end, hello)


@ROLES
@given(talk=KEYED, cuts=CUTS)
def test_a_second_proof_closes(role: int, talk: Conversation, cuts: Random) -> None:
    """The handshake happens once."""
    end = opened(talk, role, cuts)
    auth = talk.greeting(1 - role)[1]
    message = Message(model.decode_frame(auth), auth[56:])
    closes(end, talk.seal(1 - role, 0, message))


@ROLES
@given(talk=conversations(), kind=UNKNOWN_KINDS, id_=st.integers(2, 9), cuts=CUTS)
def test_each_frame_of_the_handshake_has_its_kind_and_id(
    role: int, talk: Conversation, kind: int, id_: int, cuts: Random
) -> None:
    """HELLO 0 and AUTH 1: the right table under another name does not open."""
    greeting = talk.greeting(1 - role)
    for at, frame in enumerate(greeting):
        for wrong in (
            plain(1 - role, kind, frame[56:], id=at),
            plain(1 - role, frame[5], frame[56:], id=id_),
        ):
            end = session(talk, role, cuts)
            end.feed(b"".join(greeting[:at]))
            closes(end, wrong)


@ROLES
@given(data=st.data(), talk=conversations(), cuts=CUTS)
def test_a_frame_of_the_own_role_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """A request to a client and a reply to a server, at any time."""
    end, done = at_step(data, talk, role, cuts)
    reflected = talk.greeting(role)[min(done, len(talk.greeting(role)) - 1)]
    if end.is_open:
        message = data.draw(messages(role))
        sealed = talk.seal(1 - role, 0, message)  # its tag would be right
        reflected = sealed + message.body
    closes(end, reflected)


@given(talk=conversations(), kind=UNKNOWN_KINDS, cuts=CUTS)
def test_a_reply_of_an_unknown_kind_closes(
    talk: Conversation, kind: int, cuts: Random
) -> None:
    """Nobody asked for it."""
    end = opened(talk, CLIENT, cuts)
    closes(end, talk.seal(SERVER, 0, Message(Frame(kind, REPLY | LAST))))


@ROLES
@given(
    data=st.data(),
    talk=conversations(),
    kind=st.sampled_from([HELLO, AUTH, PUT, INFO, 11, 255]),
    length=st.sampled_from([457, 458, model.MAX_TABLE]),
    cuts=CUTS,
)
def test_a_frame_over_512_bytes_closes_before_the_connection_is_open(
    role: int,
    data: st.DataObject,
    talk: Conversation,
    kind: int,
    length: int,
    cuts: Random,
) -> None:
    """By its prefix alone: no memory is asked for, no byte of it awaited."""
    greeting = talk.greeting(1 - role)
    end = session(talk, role, cuts)
    end.feed_at_random(
        b"".join(greeting[: data.draw(st.integers(0, len(greeting) - 1))])
    )
    prefix = bytearray(plain(1 - role, PING))
    prefix[5] = kind
    split = data.draw(st.booleans())
    struct.pack_into("<I", prefix, 24, 0 if split else length)
    struct.pack_into("<Q", prefix, 32, length if split else 0)
    closes(end, bytes(prefix))


@ROLES
@given(
    data=st.data(),
    talk=conversations(),
    kind=st.integers(1, 255),
    field=st.sampled_from([("<I", 24), ("<Q", 32)]),
    cuts=CUTS,
)
def test_a_frame_that_announces_half_the_world_closes(
    role: int,
    data: st.DataObject,
    talk: Conversation,
    kind: int,
    field: tuple[str, int],
    cuts: Random,
) -> None:
    """2^63 bytes of body or 2^31 of table: at once, at any time, by its prefix."""
    end, _ = at_step(data, talk, role, cuts)
    prefix = bytearray(plain(1 - role, PING))
    prefix[5] = kind
    struct.pack_into(
        field[0], prefix, field[1], 2 ** (8 * struct.calcsize(field[0]) - 1)
    )
    closes(end, bytes(prefix))


@ROLES
@given(talk=conversations(), cuts=CUTS)
def test_a_body_of_4_gib_is_offered_to_the_owner(
    role: int, talk: Conversation, cuts: Random
) -> None:
    """The largest body is announced, not allocated: BODY says how much is to come."""
    end = opened(talk, role, cuts)
    if role == SERVER:
        frame = Frame(255, LAST, body_len=model.MAX_VALUE)
        table = b""
    else:
        items = [Reply(flags=PAYLOAD, length=model.MAX_VALUE)]
        frame, table = encode_replies(Frame(GET, REPLY | LAST), items)
    end.feed_at_random(talk.seal(1 - role, 0, Message(frame, table)))
    assert end.c.body_left == model.MAX_VALUE
    end.feed_at_random(content(5000))
    assert end.c.body_left == model.MAX_VALUE - 5000


@given(talk=conversations(), first=requests(), said=talks(CLIENT), cuts=CUTS)
def test_a_table_that_the_codec_refuses_closes(
    talk: Conversation, first: Message, said: list[Message], cuts: Random
) -> None:
    """A tag proves who said it, not that it makes sense."""
    assert first.table
    table = bytes([first.table[0], 255]) + first.table[2:]  # a key of 65,280 bytes
    damaged = replace(first, table=table)
    frames = talk.frames(CLIENT, [*said, damaged])
    end = opened(talk, SERVER, cuts)
    end.feed_at_random(b"".join(frames))
    assert end.events[1:] == [*seen(said), Closed(PROTOCOL)]


@ROLES
def test_a_label_that_is_too_long_is_invalid(role: int) -> None:
    """Before a byte is copied."""
    own = ffi.new("mkv_identity *")
    label = ffi.new("uint8_t[]", 1)
    own.label, own.label_len = label, lib.MEMKV_MAX_NAMESPACE + 1
    own.max_requests = 1
    c = ffi.new("mkv_session *")
    assert lib.mkv_session_init(c, role, own) == lib.MEMKV_ERR_INVALID
