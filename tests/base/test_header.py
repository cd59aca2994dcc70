"""The shape header: round trips, canonical, total on any bytes, as documented."""

from __future__ import annotations

import dataclasses
import re
from math import prod

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import ROOT

from memkv_lmcache.header import (
    DTYPES,
    MAX_HEADER,
    HeaderError,
    ShapeHeader,
    Tensor,
    pack,
    same_layout,
    unpack,
)

KEY = b"org/model@1@0@-2ee@bfloat16"
LAYOUT = Tensor("bfloat16", (2, 4, 16, 64))
DOCUMENT = (ROOT / "docs/shape-header.md").read_text(encoding="utf-8")

dims = st.integers(0, 2**20) | st.integers(0, 2**64 - 1)
tensors = st.builds(
    Tensor, st.sampled_from(sorted(DTYPES)), st.lists(dims, max_size=8).map(tuple)
).filter(lambda tensor: tensor.nbytes < 2**60)


@st.composite
def headers(draw: st.DrawFn) -> ShapeHeader:
    """Any header that can be packed, with room for its whole key."""
    found = tuple(draw(st.lists(tensors, max_size=6)))
    length = sum(tensor.nbytes for tensor in found)
    if not found:
        length = draw(st.integers(0, 2**64 - 1))
    text = draw(st.text(max_size=300))
    return ShapeHeader(length, draw(st.integers(0, 2**16 - 1)), found, text)


wire_keys = st.binary(min_size=1, max_size=64)


@given(headers(), wire_keys)
def test_a_header_survives(header: ShapeHeader, key: bytes) -> None:
    """What is packed is unpacked, the whole of it."""
    data = pack(header, key)
    assert len(data) <= MAX_HEADER
    assert unpack(data, key) == header


@given(headers(), st.binary(max_size=8), st.data())
def test_damage_is_never_read_as_something_else(
    header: ShapeHeader, extra: bytes, data: st.DataObject
) -> None:
    """A changed, cut or grown header is refused."""
    good = pack(header, KEY)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(flipped), good[:at], good + extra + b"\0"):
        with pytest.raises(HeaderError):
            unpack(bad, KEY)


@given(headers(), wire_keys, wire_keys)
def test_a_header_belongs_to_its_key(
    header: ShapeHeader, key: bytes, other: bytes
) -> None:
    """Under another key it is refused."""
    if key != other:
        with pytest.raises(HeaderError, match="another key"):
            unpack(pack(header, key), other)


def signed(body: bytes) -> bytes:
    """The bytes with a good checksum, so that what is behind it is reached."""
    from memkv_lmcache.header import _checksum

    return body + _checksum(body, KEY).to_bytes(8, "little")


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(signed)
    | st.binary(max_size=200).map(lambda tail: signed(b"MKSH\1\0" + tail))
)
@example(signed(b"MKSH\1\0" + bytes(10) + b"\xff\xff" + bytes(6)))
@example(signed(b"MKSH\1\0" + bytes(12) + b"\2\0" + bytes(4) + b"\xc3\x28"))
def test_any_bytes_are_a_header_or_an_error(data: bytes) -> None:
    """Whatever is accepted packs to the same bytes; all else is a HeaderError."""
    try:
        header = unpack(data, KEY)
    except HeaderError:
        return
    assert pack(header, KEY) == data


@given(headers(), st.data())
def test_changed_bytes_with_a_good_checksum(
    header: ShapeHeader, data: st.DataObject
) -> None:
    """Behind the checksum everything is checked as well: one encoding, or an error."""
    body = bytearray(pack(header, KEY)[:-8])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    forged = signed(bytes(body))
    try:
        read = unpack(forged, KEY)
    except HeaderError:
        return
    assert pack(read, KEY) == forged


@given(st.text(alphabet="a\u00e9\u20ac\U0001f600", min_size=1))
def test_a_long_key_is_cut_between_characters(text: str) -> None:
    """The layout stays whole; the text is the longest that fits."""
    whole = text * (MAX_HEADER // len(text.encode()) + 1)
    header = ShapeHeader(LAYOUT.nbytes, 2, (LAYOUT,), whole)
    data = pack(header, KEY)
    read = unpack(data, KEY)
    assert same_layout(read, header)
    assert whole.startswith(read.key)
    assert MAX_HEADER - 3 <= len(data) <= MAX_HEADER


def test_a_layout_that_does_not_fit_is_refused() -> None:
    """A header of 92 tensors of rank 5 fits, one more does not; none is cut."""
    tensor = Tensor("int8", (1, 1, 1, 1, 1))
    fits = ShapeHeader(92, 2, (tensor,) * 92, "key")
    assert unpack(pack(fits, KEY), KEY).tensors == fits.tensors
    with pytest.raises(HeaderError, match="do not fit"):
        pack(ShapeHeader(93, 2, (tensor,) * 93, "key"), KEY)


GOOD = ShapeHeader(LAYOUT.nbytes, 2, (LAYOUT,), "key")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"length": GOOD.length + 1}, "the tensors take"),
        ({"length": -1, "tensors": ()}, "length"),
        ({"length": 2**64, "tensors": ()}, "length"),
        ({"fmt": -1}, "memory format"),
        ({"fmt": 2**16}, "memory format"),
        ({"tensors": (Tensor("float31", (1,)),)}, "unknown dtype 'float31'"),
        ({"tensors": (Tensor("int8", (1,) * 9),)}, "rank 9"),
        ({"tensors": (Tensor("int8", (-1,)),)}, "has a size"),
        ({"tensors": (Tensor("int8", (2**64,)),)}, "has a size"),
    ],
)
def test_layouts_that_cannot_be_packed(changes: dict[str, object], says: str) -> None:
    """Each limit of the format is an error that says so."""
    with pytest.raises(HeaderError, match=says):
        pack(dataclasses.replace(GOOD, **changes), KEY)  # type: ignore[arg-type]


def test_same_layout_leaves_out_the_key_only() -> None:
    """Every field but the key's text decides how bytes are read."""
    assert same_layout(GOOD, dataclasses.replace(GOOD, key="other"))
    other = Tensor("float16", LAYOUT.shape)
    turned = Tensor(LAYOUT.dtype, LAYOUT.shape[::-1])
    for changes in (
        {"fmt": 3},
        {"tensors": (other,)},
        {"tensors": (turned,)},
        {"tensors": (LAYOUT, LAYOUT), "length": 2 * GOOD.length},
    ):
        assert not same_layout(GOOD, dataclasses.replace(GOOD, **changes))


def test_every_dtype_of_torch_has_a_code() -> None:
    """Whatever torch has a name for can be stored, at the size torch gives it."""
    torch = pytest.importorskip("torch")
    found = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    theirs = {str(dtype).removeprefix("torch."): dtype.itemsize for dtype in found}
    assert theirs.items() <= {name: size for name, (_, size) in DTYPES.items()}.items()
    codes = [code for code, _ in DTYPES.values()]
    assert len(set(codes)) == len(codes)


def test_the_document_lists_the_dtypes() -> None:
    """The table of codes in the document is the one in force."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\d+) \|$", DOCUMENT, re.MULTILINE)
    assert {name: (int(code), int(size)) for code, name, size in rows} == DTYPES


def test_the_example_in_the_document() -> None:
    """The bytes printed there are what it says they are."""
    [dump] = re.findall(r"```\n([0-9a-f \n]+)```", DOCUMENT)
    fp8 = Tensor("float8_e4m3fn", (4, 16))
    header = ShapeHeader(16448, 2, (LAYOUT, fp8), KEY.decode())
    assert LAYOUT.nbytes == 2 * prod(LAYOUT.shape)
    assert unpack(bytes.fromhex(dump), KEY) == header
    assert pack(header, KEY) == bytes.fromhex(dump)
