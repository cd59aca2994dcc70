"""The grammar of server lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache.addresses import parse_servers
from memkv_lmcache.errors import ConfigError


def addresses(text: str | list[str]) -> list[tuple[str, str]]:
    return [tuple(server) for server in parse_servers(text, "servers")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h:1", ["h:1"]),
        (" a:1 , b:65535 ", ["a:1", "b:65535"]),
        (["a:1", "b:2"], ["a:1", "b:2"]),
        ("10.0.0.7:9900", ["10.0.0.7:9900"]),
        ("[::1]:9900", ["[::1]:9900"]),
        ("[fe80::1%eth0]:9900", ["[fe80::1%eth0]:9900"]),
        ("unix:/run/memkv.sock", ["unix:/run/memkv.sock"]),
        (["unix:/run/a,b=[0-1].sock"], ["unix:/run/a,b=[0-1].sock"]),
        ("m-[0-2].m:9", ["m-0.m:9", "m-1.m:9", "m-2.m:9"]),
        ("m[08-10]:9", ["m08:9", "m09:9", "m10:9"]),
        ("m[0,2,5-6]:9,x:1", ["m0:9", "m2:9", "m5:9", "m6:9", "x:1"]),
        ("r[1-2]n[1-2]:9", ["r1n1:9", "r1n2:9", "r2n1:9", "r2n2:9"]),
    ],
)
def test_addresses_are_their_own_names(
    text: str | list[str], expected: list[str]
) -> None:
    """Without a name, a server is called by its address, with ranges expanded."""
    assert addresses(text) == [(address, address) for address in expected]


@pytest.mark.parametrize("address", ["h:1", "[::1]:9900", "unix:/run/a=b"])
def test_a_name_stands_before_the_address(address: str) -> None:
    """A stable name may be given to any kind of address."""
    assert addresses(f"node-0.a_b={address}") == [("node-0.a_b", address)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no server"),
        (" , ", "names no server"),
        ([], "names no server"),
        ("a:1,,b:2", "an entry is empty"),
        ("a:1,", "an entry is empty"),
        ("a", "is no address"),
        (":9900", "is no address"),
        ("a:", "the port '' is not a number"),
        ("a:http", "the port 'http' is not a number"),
        ("a:0", "not in 1..65535"),
        ("a:65536", "not in 1..65535"),
        ("a:-1", "is not a number"),
        ("a:\u0661", "is not a number"),
        ("::1:9900", "stands in brackets"),
        ("[::g]:1", "no IPv6 address"),
        ("[::1:1", "no IPv6 address"),
        ("a b:1", "no host name"),
        ("tcp://a:1", "no host name"),
        ("unix:run", "absolute path"),
        ("unix:/" + "x" * 107, "over 107 bytes"),
        ("m[3-0]:9", "runs backwards"),
        ("m[a-b]:9", "is no range"),
        ("m[]:9", "is no range"),
        ("m[0-9999]:9", "more than 1024"),
        ("m[0-999]n[0-999]:9", "at most 1024"),
        ("n=m[0-3]:9", "names its servers by itself"),
        ("a:1,a:1", "the name 'a:1' stands there twice"),
        ("x=a:1,x=b:1", "the name 'x' stands there twice"),
        ("x=a:1,y=a:1", "the address 'a:1' stands there twice"),
        ("h" * 140 + ":1", "over 128 bytes"),
        (5, "is not a list"),
        ([5], "is not a list"),
    ],
)
def test_what_is_wrong_is_named(text: object, says: str) -> None:
    """The error begins with the setting and says what is wrong."""
    with pytest.raises(ConfigError, match=r"^MEMKV_SERVERS: ") as caught:
        parse_servers(text, "MEMKV_SERVERS")  # type: ignore[arg-type]
    assert says in str(caught.value)


@given(st.text(alphabet="ab0-9[]:,=./unix %", max_size=30) | st.text(max_size=30))
def test_any_text_is_servers_or_an_error(text: str) -> None:
    """No text makes anything but a list of distinct servers or a ConfigError."""
    try:
        servers = parse_servers(text, "servers")
    except ConfigError:
        return
    assert servers
    assert len({server.name for server in servers}) == len(servers)
