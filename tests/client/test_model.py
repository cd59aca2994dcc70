"""Any sequence of operations does what a dict would do."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from memkv_lmcache import Client
from memkv_lmcache._ffi import NativeServer
from memkv_lmcache.client import Get, Put
from memkv_lmcache.errors import Status

from .test_values import noise

_namespaces = itertools.count()

keys = st.sampled_from([b"a", b"b", b"key", b"k" * 512])
headers = st.sampled_from([b"", b"h", b"H" * 4096])
values = st.builds(
    noise, st.integers(0, 40) | st.integers(0, 200_000), st.integers(0, 9)
)


class Machine(RuleBasedStateMachine):
    """A client beside a dict from key to (header, value)."""

    server: NativeServer

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(
            self.server.address, namespace=f"model-{next(_namespaces)}"
        )
        self.model: dict[bytes, tuple[bytes, bytes]] = {}

    def teardown(self) -> None:
        self.client.close()

    @rule(key=keys, header=headers, value=values)
    def put(self, key: bytes, header: bytes, value: bytes) -> None:
        same = key in self.model and self.model[key][0] == header
        assert self.client.put(key, value, header) is not same
        if not same:
            self.model[key] = header, value

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        _, value = self.model.get(key, (None, None))
        assert self.client.get(key) == value

    @rule(key=keys)
    def stat(self, key: bytes) -> None:
        found = self.client.stat(key)
        if key in self.model:
            header, value = self.model[key]
            assert found == (len(value), header, False)
        else:
            assert found is None

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        assert self.client.delete(key) is (self.model.pop(key, None) is not None)

    @rule(batch=st.dictionaries(keys, st.tuples(headers, values)))
    def put_many(self, batch: dict[bytes, tuple[bytes, bytes]]) -> None:
        results = self.client.put_many(
            [Put(key, value, header) for key, (header, value) in batch.items()]
        )
        for result, (key, (header, value)) in zip(results, batch.items(), strict=True):
            same = key in self.model and self.model[key][0] == header
            assert result.status is (Status.EXISTS if same else Status.OK)
            if not same:
                self.model[key] = header, value

    @rule(wanted=st.lists(keys, max_size=6))
    def get_many(self, wanted: list[bytes]) -> None:
        buffers = [bytearray(200_000) for _ in wanted]
        results = self.client.get_many_into(
            [
                Get(key, buffer, 4096)
                for key, buffer in zip(wanted, buffers, strict=True)
            ]
        )
        for result, key, buffer in zip(results, wanted, buffers, strict=True):
            if key in self.model:
                header, value = self.model[key]
                assert result == (Status.OK, len(value), header, False)
                assert buffer[: len(value)] == value
            else:
                assert result.status is Status.NOT_FOUND

    @invariant()
    def the_listing_is_the_model(self) -> None:
        found = {entry.key: (entry.header, entry.size) for entry in self.client.list()}
        assert found == {
            key: (header, len(value)) for key, (header, value) in self.model.items()
        }


@pytest.fixture
def machine(server: NativeServer) -> Callable[[], Machine]:
    return type("Bound", (Machine,), {"server": server})


def test_a_server_is_a_dict(machine: Callable[[], Machine]) -> None:
    """No answer ever differs from that of a dict which replaces on another header."""
    examples = min(settings.default.max_examples, 300)
    bounded = settings(max_examples=examples, stateful_step_count=30)
    run_state_machine_as_test(machine, settings=bounded)
