"""Who may connect: keys, proofs and versions, and what the other end is told."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memkv_lmcache._memkv import lib
from wire import model
from wire.model import AUTH, HELLO, PING
from wire.session_driver import Pair, Session, session
from wire.session_model import (
    CLIENT,
    SERVER,
    Closed,
    Conversation,
    Identity,
    client_hello,
    plain,
    server_hello,
)
from wire.session_strategies import CUTS, KEYS, ROLES, clients, conversations, servers

PROTOCOL, AUTH_FAILED, VERSION = (
    lib.MEMKV_ERR_PROTOCOL,
    lib.MEMKV_ERR_AUTH,
    lib.MEMKV_ERR_VERSION,
)
KEYED = conversations(KEYS)


def refused_pair(client: Identity, server: Identity, cuts: Random) -> Pair:
    """Two ends that must not come together; both know that it is the key."""
    pair = Pair(client, server, cuts)
    pair.settle()
    for end in pair.ends:
        assert end.events == [Closed(AUTH_FAILED)]
    return pair


@given(data=st.data(), keys=st.tuples(KEYS, KEYS), cuts=CUTS)
def test_a_wrong_key_is_refused_by_name(
    data: st.DataObject, keys: tuple[bytes, bytes], cuts: Random
) -> None:
    """Both ends close with AUTH, before the server has told anything of itself."""
    assume(keys[0] != keys[1])
    client, server = data.draw(clients(keys[0])), data.draw(servers(keys[1]))
    refused_pair(client, server, cuts)
    end = Session(SERVER, server, cuts)
    end.feed_at_random(Conversation(client, server).hellos[CLIENT])
    assert end.write_all() == plain(SERVER, HELLO, status=AUTH_FAILED)


@given(data=st.data(), keys=st.tuples(KEYS, KEYS), cuts=CUTS)
def test_a_wrong_key_under_the_right_id_is_refused(
    data: st.DataObject, keys: tuple[bytes, bytes], cuts: Random
) -> None:
    """It is the proof that counts."""
    assume(keys[0] != keys[1])
    server = data.draw(servers(keys[1]))
    client = replace(data.draw(clients(keys[0])), claimed_key_id=server.key_id)
    refused_pair(client, server, cuts)


@pytest.mark.parametrize("keyed", [CLIENT, SERVER])
@given(data=st.data(), key=KEYS, cuts=CUTS)
def test_a_keyed_and_an_open_end_refuse_each_other(
    keyed: int, data: st.DataObject, key: bytes, cuts: Random
) -> None:
    """Whichever of them holds the key."""
    client = data.draw(clients(key if keyed == CLIENT else None))
    refused_pair(client, data.draw(servers(key if keyed == SERVER else None)), cuts)


@given(talk=KEYED, cuts=CUTS)
def test_a_client_is_not_talked_down_to_no_authentication(
    talk: Conversation, cuts: Random
) -> None:
    """A server that answers a keyed client with suite 0 is left."""
    hello = model.encode_server_hello(replace(server_hello(talk.ends[SERVER]), suite=0))
    end = session(talk, CLIENT, cuts)
    end.feed_at_random(plain(SERVER, HELLO, hello) + plain(SERVER, PING))
    assert end.events == [Closed(AUTH_FAILED)]


@ROLES
@given(data=st.data(), talk=KEYED, cuts=CUTS)
def test_a_wrong_proof_closes(
    role: int, data: st.DataObject, talk: Conversation, cuts: Random
) -> None:
    """One bit off, or the end's own proof sent back."""
    hello, auth = talk.greeting(1 - role)
    proof = bytearray(data.draw(st.sampled_from([auth, talk.greeting(role)[1]]))[56:])
    if proof == auth[56:]:
        bit = data.draw(st.integers(0, 255))
        proof[bit // 8] ^= 1 << bit % 8
    end = session(talk, role, cuts)
    end.feed_at_random(hello + plain(1 - role, AUTH, bytes(proof), id=1))
    assert end.events == [Closed(AUTH_FAILED)]
    answer = [talk.hellos[SERVER], plain(SERVER, AUTH, id=1, status=AUTH_FAILED)]
    assert end.write_all() == b"".join(
        answer if role == SERVER else talk.greeting(CLIENT)
    )


@given(talk=conversations(), suite=st.integers(2, 255), cuts=CUTS)
def test_an_unknown_suite_is_refused(
    talk: Conversation, suite: int, cuts: Random
) -> None:
    """By name, so that the client can say what is wrong."""
    hello = replace(client_hello(talk.ends[CLIENT]), suite=suite)
    end = session(talk, SERVER, cuts)
    end.feed_at_random(plain(CLIENT, HELLO, model.encode_client_hello(hello)))
    assert end.events == [Closed(AUTH_FAILED)]
    assert end.write_all() == plain(SERVER, HELLO, status=AUTH_FAILED)


@given(talk=conversations(), low=st.integers(2, 65_535), cuts=CUTS)
def test_a_client_without_version_1_is_refused(
    talk: Conversation, low: int, cuts: Random
) -> None:
    """The server says VERSION, and a client that is told so says the same."""
    hello = replace(
        client_hello(talk.ends[CLIENT]), version_low=low, version_high=65_535
    )
    server, client = session(talk, SERVER, cuts), session(talk, CLIENT, cuts)
    server.feed_at_random(plain(CLIENT, HELLO, model.encode_client_hello(hello)))
    answer = server.write_all()
    assert answer == plain(SERVER, HELLO, status=VERSION)
    assert server.events == client.feed_at_random(answer) == [Closed(VERSION)]


@given(talk=conversations(), high=st.integers(1, 65_535), cuts=CUTS)
def test_a_newer_client_is_spoken_to_in_version_1(
    talk: Conversation, high: int, cuts: Random
) -> None:
    """A range that holds version 1 is fine, however far it goes."""
    hello = replace(client_hello(talk.ends[CLIENT]), version_high=high)
    end = session(talk, SERVER, cuts)
    end.feed_at_random(plain(CLIENT, HELLO, model.encode_client_hello(hello)))
    assert end.write_all() == talk.hellos[SERVER]
    assert not end.is_closed


@given(talk=conversations(), version=st.integers(2, 65_535), cuts=CUTS)
def test_a_server_that_chooses_another_version_is_left(
    talk: Conversation, version: int, cuts: Random
) -> None:
    """The client offered version 1 alone."""
    hello = replace(server_hello(talk.ends[SERVER]), version=version)
    end = session(talk, CLIENT, cuts)
    end.feed_at_random(plain(SERVER, HELLO, model.encode_server_hello(hello)))
    assert end.events == [Closed(VERSION)]


@given(talk=conversations(), status=st.integers(-99, -1), cuts=CUTS)
def test_a_server_refuses_with_version_or_auth_alone(
    talk: Conversation, status: int, cuts: Random
) -> None:
    """Any other status in a HELLO reply breaks the protocol."""
    end = session(talk, CLIENT, cuts)
    end.feed_at_random(plain(SERVER, HELLO, status=status))
    reason = status if status in (VERSION, AUTH_FAILED) else PROTOCOL
    assert end.events == [Closed(reason)]
