"""The tables of HELLO and RDMA: C against the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import codec, model, strategies
from wire.agreement import REFUSED, agree
from wire.model import Refused


@dataclass(frozen=True)
class Table:
    """One of the tables, with all that a test needs of it."""

    kind: type
    values: st.SearchStrategy[Any]
    model_encode: Callable[[Any], bytes]
    model_decode: Callable[[bytes], Any]

    def decode(self, table: bytes) -> Any:
        """The C decoder."""
        return codec.decode_table(table, self.kind)


TABLES = {
    "client hello": Table(
        model.ClientHello,
        strategies.client_hellos(),
        model.encode_client_hello,
        model.decode_client_hello,
    ),
    "server hello": Table(
        model.ServerHello,
        strategies.server_hellos(),
        model.encode_server_hello,
        model.decode_server_hello,
    ),
    "rdma": Table(
        model.RdmaParams,
        strategies.rdma_params(),
        model.encode_rdma_params,
        model.decode_rdma_params,
    ),
}
each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


@each_table
@given(data=st.data())
def test_encoding_equals_the_model(table: Table, data: st.DataObject) -> None:
    """Any valid value has the bytes that the document gives it."""
    value = data.draw(table.values)
    assert codec.encode_table(value) == table.model_encode(value)


@each_table
@given(data=st.data())
def test_decoding_inverts_encoding(table: Table, data: st.DataObject) -> None:
    """All fields come back."""
    value = data.draw(table.values)
    assert table.decode(codec.encode_table(value)) == value


@each_table
@given(data=st.data())
def test_the_encoder_refuses_what_the_document_forbids(
    table: Table, data: st.DataObject
) -> None:
    """A field out of its limits is never sent."""
    wild = strategies.WILD_TABLE_FIELDS[table.kind]
    value = data.draw(strategies.damaged(table.values, wild))
    agree(codec.encode_table, table.model_encode, value)


@each_table
@given(data=st.data())
def test_what_decodes_encodes_to_the_same_bytes(
    table: Table, data: st.DataObject
) -> None:
    """Changed bytes are refused by both, or read alike and spelt in one way only."""
    encoded = table.model_encode(data.draw(table.values))
    content = data.draw(strategies.damaged_bytes(encoded))
    value = agree(table.decode, table.model_decode, content)
    if value is not REFUSED:
        assert codec.encode_table(value) == content


@each_table
@given(data=st.data())
def test_decoding_is_total(table: Table, data: st.DataObject) -> None:
    """Any bytes of any length are a value or refused."""
    content = data.draw(st.binary(max_size=210))
    agree(table.decode, table.model_decode, content)


@each_table
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_seen(table: Table, data: st.DataObject) -> None:
    """No bit is without a meaning."""
    value = data.draw(table.values)
    content = bytearray(codec.encode_table(value))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(Refused):
        assert table.decode(bytes(content)) != value


@each_table
@given(data=st.data())
def test_another_length_is_refused(table: Table, data: st.DataObject) -> None:
    """A byte more or fewer than the table says, and too little memory for it."""
    value = data.draw(table.values)
    content = codec.encode_table(value)
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(Refused):
            table.decode(wrong)
    with pytest.raises(Refused):
        codec.encode_table(value, data.draw(st.integers(0, len(content) - 1)))


CLIENT = model.ClientHello(1, 1, 0, 0, 1, 65_536, 0, 0, bytes(32), b"")
SERVER = model.ServerHello(1, 0, 0, 1, 65_536, 0, 0, bytes(32), b"n")
PARAMS = model.RdmaParams(0, 0, bytes(16), 0, 1, 0, 0)
LIMITS: list[tuple[Any, str, Any, Any]] = [
    (CLIENT, "max_requests", 65_535, 65_536),
    (CLIENT, "max_requests", 1, 0),
    (CLIENT, "max_table", codec.lib.MKV_MAX_TABLE, codec.lib.MKV_MAX_TABLE + 1),
    (CLIENT, "max_table", 65_536, 65_535),
    (CLIENT, "version_low", 1, 0),
    (CLIENT, "version_low", 1, 2),
    (CLIENT, "name_space", bytes(128), bytes(129)),
    (CLIENT, "key_id", 0, 1),
    (SERVER, "max_requests", 65_535, 65_536),
    (SERVER, "max_requests", 1, 0),
    (SERVER, "max_table", codec.lib.MKV_MAX_TABLE, codec.lib.MKV_MAX_TABLE + 1),
    (SERVER, "max_table", 65_536, 65_535),
    (SERVER, "version", 1, 0),
    (SERVER, "name", bytes(128), bytes(129)),
    (SERVER, "name", b"n", b""),
    (PARAMS, "qpn", 2**24 - 1, 2**24),
    (PARAMS, "psn", 2**24 - 1, 2**24),
    (PARAMS, "mtu", 5, 6),
    (PARAMS, "mtu", 1, 0),
]


@pytest.mark.parametrize(("value", "field", "limit", "over"), LIMITS)
def test_a_limit_is_allowed_and_one_more_is_not(
    value: Any, field: str, limit: Any, over: Any
) -> None:
    """Each limit of the handshake is the last value accepted."""
    table = next(table for table in TABLES.values() if table.kind is type(value))
    at = replace_field(value, field, limit)
    assert table.decode(codec.encode_table(at)) == at
    with pytest.raises(Refused):
        codec.encode_table(replace_field(value, field, over))


def replace_field(value: Any, field: str, content: Any) -> Any:
    """A copy of a value with one other field."""
    return type(value)(**{**vars(value), field: content})
