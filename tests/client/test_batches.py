"""Batches: one result for each item, in order, whatever the others do."""

from __future__ import annotations

import threading

import pytest

from memkv_lmcache import Client
from memkv_lmcache.client import Get, Put
from memkv_lmcache.errors import Status, UsageError

from .serving import MIB
from .test_values import noise


@pytest.mark.parametrize("count", [1000, 12_000])
def test_large_batches(client: Client, count: int) -> None:
    """Thousands of keys in one call are each put, found, read and deleted."""
    keys = [b"key-%d" % i for i in range(count)]
    values = [noise(i % 300, i) for i in range(count)]
    headers = [b"header-%d" % i for i in range(count)]
    stored = client.put_many(
        [Put(*row) for row in zip(keys, values, headers, strict=True)]
    )
    assert {result.status for result in stored} == {Status.OK}
    found = client.stat_many([*keys, b"absent"], headers=True)
    assert [result.header for result in found] == [*headers, b""]
    assert [result.size for result in found[:-1]] == [len(value) for value in values]
    assert found[-1].status is Status.NOT_FOUND
    buffers = [bytearray(len(value)) for value in values]
    read = client.get_many_into(
        [Get(key, buffer, 64) for key, buffer in zip(keys, buffers, strict=True)]
    )
    assert [(result.status, result.header) for result in read] == [
        (Status.OK, header) for header in headers
    ]
    assert buffers == values
    deleted = client.delete_many([*keys, b"absent"])
    assert [result.status for result in deleted] == [
        *[Status.OK] * count,
        Status.NOT_FOUND,
    ]


def test_many_megabytes_at_once(client: Client) -> None:
    """A batch far over one request is cut, and its values of all sizes arrive."""
    sizes = [5 * MIB, 0, 17 * MIB, 1, 16 * MIB, 300_000] * 2
    items = [Put(b"%d" % i, noise(size, i)) for i, size in enumerate(sizes)]
    assert {result.status for result in client.put_many(items)} == {Status.OK}
    gets = [
        Get(item.key, bytearray(size)) for item, size in zip(items, sizes, strict=True)
    ]
    assert {result.status for result in client.get_many_into(gets)} == {Status.OK}
    for put, get in zip(items, gets, strict=True):
        assert put.data == get.into


def test_a_value_behind_a_thousand_empty_ones_arrives(client: Client) -> None:
    """Empty values take no place where the bytes of a request's last one go."""
    keys = [b"%d" % i for i in range(1024)]
    values = [*[b""] * 1023, noise(5000, 1)]
    items = [Put(key, value) for key, value in zip(keys, values, strict=True)]
    assert {result.status for result in client.put_many(items)} == {Status.OK}
    gets = [
        Get(key, bytearray(len(value))) for key, value in zip(keys, values, strict=True)
    ]
    assert {result.status for result in client.get_many_into(gets)} == {Status.OK}
    assert gets[-1].into == values[-1]


def test_an_empty_batch_is_empty(client: Client) -> None:
    """Nothing to do is done."""
    assert client.stat_many([]) == []
    assert client.get_many_into([]) == []
    assert client.put_many([]) == []
    assert client.delete_many([]) == []


def test_a_key_may_stand_twice(client: Client) -> None:
    """Equal keys in one batch each have their result."""
    puts = client.put_many([Put(b"key", b"value", b"h")] * 3)
    assert sorted(result.status for result in puts) == [
        Status.EXISTS,
        Status.EXISTS,
        Status.OK,
    ]
    buffers = [bytearray(5), bytearray(5)]
    gets = client.get_many_into([Get(b"key", buffer) for buffer in buffers])
    assert [result.status for result in gets] == [Status.OK, Status.OK]
    assert buffers == [b"value", b"value"]
    deleted = client.delete_many([b"key", b"key"])
    assert sorted(result.status for result in deleted) == [Status.NOT_FOUND, Status.OK]


def test_a_wrong_item_fails_alone(client: Client) -> None:
    """A batch goes on around items that are absent, too small or invalid."""
    client.put_many([Put(b"a", b"first"), Put(b"b", b"second")])
    small, good = bytearray(2), bytearray(6)
    results = client.get_many_into(
        [
            Get(b"absent", bytearray(5)),
            Get(b"a", small),
            Get(b"k" * 513, bytearray(5)),
            Get(b"b", good, header_room=4097),
            Get(b"b", good),
        ]
    )
    assert [result.status for result in results] == [
        Status.NOT_FOUND,
        Status.TOO_SMALL,
        Status.INVALID,
        Status.INVALID,
        Status.OK,
    ]
    assert good == b"second"


def test_hints_go_along(client: Client) -> None:
    """Depths and groups are taken up to their limits; beyond, the call is refused."""
    limits = {"depths": [0, 2**32 - 1], "groups": [0, 2**64 - 1]}
    results = client.stat_many([b"a", b"b"], **limits)
    assert {result.status for result in results} == {Status.NOT_FOUND}
    for wrong in ({"depths": [0, 2**32]}, {"groups": [-1, 0]}, {"depths": [0]}):
        with pytest.raises(UsageError):
            client.stat_many([b"a", b"b"], **wrong)
    with pytest.raises(UsageError, match="lease"):
        client.stat_many([b"a"], lease_ms=-1)


def test_threads_share_a_client(client: Client) -> None:
    """Eight threads put, read and delete through one client; no answer is mixed up."""
    wrong: list[object] = []

    def work(number: int) -> None:
        keys = [b"%d-%d" % (number, i) for i in range(40)]
        values = [noise(1 + 7919 * i % 90_000, 100 * number + i) for i in range(40)]
        for _ in range(3):
            items = [Put(*row) for row in zip(keys, values, strict=True)]
            wrong.extend(r for r in client.put_many(items) if r.status is not Status.OK)
            buffers = [bytearray(len(value)) for value in values]
            gets = [Get(*row) for row in zip(keys, buffers, strict=True)]
            wrong.extend(
                r for r in client.get_many_into(gets) if r.status is not Status.OK
            )
            wrong.extend(
                key
                for key, value, buffer in zip(keys, values, buffers, strict=True)
                if value != buffer
            )
            wrong.extend(
                r for r in client.delete_many(keys) if r.status is not Status.OK
            )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
