"""docs/wire.md, read by the C codec: what it prints must be so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any

import pytest
from support import ROOT

from wire import codec, model, model_hashes
from wire.model_items import Reply, Request
from wire.test_auth import next_tag, open_tagger
from wire.test_checksum import whole

TEXT = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(
    r"^### (?P<title>.+?)\n[^`]*?```hex\n(?P<dump>[0-9a-f\s]+?)```\n\n"
    r"```text\n(?P<values>.+?)\n```",
    re.MULTILINE | re.DOTALL,
)
CHECKSUM = re.compile(
    r'^\| `"(.*)"` \| `"(.*)"` \| `"(.*)"` \| ([\d,]+) \| `(\w+)` \| `(\w+)` \|$',
    re.MULTILINE,
)
PLACEMENT = re.compile(
    r'^\| `"(.*)"` \| ([\d,]+) \| `(\w+)` \| `(\w+)` \| `(\w+)` \| `(\S+)` \|$',
    re.MULTILINE,
)
STATUS = re.compile(r"^\| (-\d+) \| ([A-Z_]+) \|", re.MULTILINE)
LIMIT = re.compile(r"^\| `((?:MEMKV|MKV)_MAX_\w+)` \| ([\d,]+)", re.MULTILINE)
KEY = bytes(range(32))


@dataclass(frozen=True)
class Example:
    """A frame as bytes, and the values printed below it."""

    title: str
    dump: bytes
    values: dict[str, Any]


def value_of(text: str) -> Any:
    """What stands behind an equals sign: a number, a text or bytes in hex."""
    if text.startswith('"'):
        return json.loads(text).encode()
    if text.startswith("hex:"):
        return bytes.fromhex(text.removeprefix("hex:"))
    return int(text, 0)


EXAMPLES = [
    Example(
        match["title"],
        bytes.fromhex(match["dump"]),
        {
            name: value_of(text)
            for name, text in (
                line.split(" = ", 1) for line in match["values"].splitlines()
            )
        },
    )
    for match in EXAMPLE.finditer(TEXT)
]
HELLOS = (EXAMPLES[0].dump, EXAMPLES[1].dump)


def shown(prefix: str, value: Any) -> dict[str, Any]:
    """The fields of a value as the document prints them: those that are not zero."""
    named = {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        prefix + name: content
        for name, content in named.items()
        if (any(content) if isinstance(content, bytes) else content)
    }


def decoded(dump: bytes) -> dict[str, Any]:
    """All that the C codec finds in a frame."""
    frame = codec.decode_frame(dump)
    table = dump[56 : 56 + frame.table_len]
    body = dump[56 + frame.table_len :]
    assert len(body) == frame.body_len
    values = shown("", frame)
    is_reply = bool(frame.flags & model.REPLY)
    if frame.kind in model.ITEM_KINDS:
        items = codec.decode_items(frame, table, Reply if is_reply else Request)
        for i, item in enumerate(items):
            values |= shown(f"item {i}: ", item)
    elif frame.kind == model.HELLO:
        hello = model.ServerHello if is_reply else model.ClientHello
        values |= shown("table.", codec.decode_table(table, hello))
    elif table and frame.kind == model.RDMA:
        values |= shown("table.", codec.decode_table(table, model.RdmaParams))
    elif table:
        values["table.proof" if frame.kind == model.AUTH else "table.text"] = table
    return values | ({"body": body} if body else {})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_a_dump_decodes_to_the_values_beside_it(example: Example) -> None:
    """Every field printed is there, and no other field is set."""
    assert decoded(example.dump) == example.values


def test_each_kind_has_a_dump_both_ways() -> None:
    """A stranger finds an example of everything."""
    there = {(example.dump[5], example.dump[6] & model.REPLY) for example in EXAMPLES}
    assert there >= {(kind, way) for kind in range(1, 11) for way in (0, 1)} - {
        (model.RDMA, 1)  # shown refused
    }


@pytest.mark.parametrize("sender", ["client", "server"])
def test_the_dumps_carry_their_tags(sender: str) -> None:
    """The frames behind AUTH are tagged in the order in which they are printed."""
    way = model.REPLY if sender == "server" else 0
    ours = [e.dump for e in EXAMPLES[4:] if e.dump[6] & model.REPLY == way]
    assert len(ours) >= 8
    with open_tagger(KEY, sender, HELLOS) as tagger:
        for dump in ours:
            prefix = dump[:40] + bytes(16)
            table = dump[56 : 56 + int.from_bytes(dump[24:28], "little")]
            assert next_tag(tagger, prefix, table) == dump[40:56]


def test_the_proofs_are_those_of_the_dumped_hellos() -> None:
    """The AUTH dumps follow from the key and the HELLO dumps."""
    out = codec.ffi.new("uint64_t *")
    assert codec.lib.mkv_key_id(KEY, out) == 0
    assert f"`0x{out[0]:016x}`" in TEXT
    assert EXAMPLES[0].values["table.key_id"] == out[0]
    for example, sender in zip(EXAMPLES[2:4], ("client", "server"), strict=True):
        assert example.dump[56:] == model_hashes.proof(KEY, sender, HELLOS)
        session_key = model_hashes.session_key(KEY, sender, HELLOS)
        assert f"`{session_key.hex()}`" in TEXT


def test_the_printed_checksums_are_right() -> None:
    """The table of checksums is what C computes."""
    rows = CHECKSUM.findall(TEXT)
    assert len(rows) >= 4
    for name_space, key, header, length, seed, checksum in rows:
        parts = [part.encode() for part in (name_space, key, header)]
        arguments = [argument for part in parts for argument in (part, len(part))]
        payload = bytes(i % 251 for i in range(int(length.replace(",", ""))))
        assert codec.lib.mkv_checksum_seed(*arguments) == int(seed, 0)
        assert whole(int(seed, 0), payload) == int(checksum, 0)


def test_the_printed_placements_are_right() -> None:
    """The table of placements follows from the printed function."""
    rows = PLACEMENT.findall(TEXT)
    assert len(rows) >= 4
    names = [b"memkv-0", b"memkv-1", b"memkv-2"]
    for text, slot, *scores, first in rows:
        key = text.encode()
        assert model_hashes.slot(key) == int(slot.replace(",", ""))
        for name, score in zip(names, scores, strict=True):
            assert model_hashes.score(name, model_hashes.slot(key)) == int(score, 0)
        assert model_hashes.order(names, key)[0] == first.encode()


def test_the_printed_limits_are_those_of_the_headers() -> None:
    """Each limit of section 2 is the constant of that name."""
    limits = LIMIT.findall(TEXT)
    assert len(limits) == 11
    for name, number in limits:
        assert getattr(codec.lib, name) == int(number.replace(",", ""))


def test_the_printed_statuses_are_those_of_the_header() -> None:
    """Each status of section 9 is the one of that name."""
    statuses = STATUS.findall(TEXT)
    assert len(statuses) >= 14
    for number, name in statuses:
        assert getattr(codec.lib, f"MEMKV_ERR_{name}") == int(number)
