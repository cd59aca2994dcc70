"""What a server's yaml may say, and what becomes of what it may not."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memkv_lmcache.errors import ConfigError
from memkv_lmcache.serve.config import ServerConfig, load

KEY = "5a" * 32
WHOLE = f"""
network:
  address: 0.0.0.0:9901
  name: memkv-0
  auth_key: "{KEY}"
  transport: tcp
  workers: 3
  max_connections: 100
  admin_address: 127.0.0.1:9999
  drain_s: 2.5
memory:
  max_size: 2 GiB
  page_size: 256 KiB
  default_ttl_s: 60
rdma:
  devices: [mlx5_0, mlx5_1]
  verbs_library: /opt/libibverbs.so.1
storage:
  mode: memory
  eviction:
    enabled: true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memkv.yaml"


def loaded(path: Path, text: str, **overrides: object) -> ServerConfig:
    path.write_text(text)
    return load(str(path), overrides, {})


def test_every_setting_reaches_its_field(path: Path) -> None:
    """A yaml with all of them sets all of them."""
    assert loaded(path, WHOLE) == ServerConfig(
        address="0.0.0.0:9901",
        name="memkv-0",
        auth_key=bytes.fromhex(KEY),
        transport="tcp",
        rdma_devices="mlx5_0,mlx5_1",
        verbs_library="/opt/libibverbs.so.1",
        workers=3,
        max_connections=100,
        admin_address="127.0.0.1:9999",
        drain_s=2.5,
        memory=2 * 1024**3,
        page_size=256 * 1024,
        default_ttl_s=60,
    )


def test_an_empty_yaml_sets_nothing(path: Path) -> None:
    """Also one with an empty group."""
    assert loaded(path, "") == loaded(path, "network:\n") == ServerConfig()


def test_the_key_is_in_no_text(path: Path) -> None:
    """Neither as bytes nor as hex digits."""
    shown = repr(loaded(path, WHOLE))
    assert KEY not in shown
    assert "auth_key" not in shown


def test_the_command_line_wins_over_yaml_over_environment(path: Path) -> None:
    """The key of the environment serves where nobody else gives one."""
    environ = {"MEMKV_AUTH_KEY": "11" * 32}
    path.write_text(f"network: {{auth_key: '{KEY}', address: 'unix:/a'}}")
    assert load(None, {}, environ).auth_key == b"\x11" * 32
    assert load(str(path), {}, environ).auth_key == bytes.fromhex(KEY)
    given_key = {"auth_key": b"\x22" * 32, "address": "unix:/b", "name": None}
    config = load(str(path), given_key, environ)
    assert (config.auth_key, config.address) == (b"\x22" * 32, "unix:/b")


def test_keys_may_come_from_files(path: Path, tmp_path: Path) -> None:
    """In the yaml and in the environment; two keys at once are one too many."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    by_yaml = loaded(path, f"network: {{auth_key_file: {file}}}")
    by_environment = load(None, {}, {"MEMKV_AUTH_KEY_FILE": str(file)})
    assert by_yaml.auth_key == by_environment.auth_key == bytes.fromhex(KEY)
    with pytest.raises(ConfigError, match="only one"):
        loaded(path, f"network: {{auth_key: '{KEY}', auth_key_file: {file}}}")
    with pytest.raises(ConfigError, match="only one"):
        load(None, {}, {"MEMKV_AUTH_KEY_FILE": str(file), "MEMKV_AUTH_KEY": KEY})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: {adress: a:1}", "did you mean network.address"),
        ("memory: {size: 1 GiB}", "memory.max_size"),
        ("netwrok: {}", "unknown setting 'netwrok'"),
        ("network: 9900", "network .* is not a mapping"),
        ("network: {address: 9900}", "network.address .* is not text"),
        ("network: {auth_key: 12ab}", "network.auth_key .* 64 hex digits"),
        ("network: {workers: 0}", "network.workers .* from 1"),
        ("memory: {max_size: lots}", "memory.max_size .* GiB"),
        ("memory: {page_size: 3 KiB}", "memory.page_size .* power of two"),
        ("memory: {page_size: 2 MiB}", "memory.page_size .* 1 MiB"),
        ("storage: {mode: file}", "storage.mode .* write memory"),
        ("storage: {mode: direct}", "storage.mode .* 'file'.* write memory"),
        ("storage: {mode: tape}", "storage.mode .* write memory"),
        ("storage: {drives: [{media: /a}]}", "storage.drives .* memory only"),
        ("storage: {eviction: {enabled: false}}", "storage.eviction.enabled .* evicts"),
        ("network: {tls_cert: /a}", "network.tls_cert .* no TLS"),
        ("network: {tls_key: /a}", "network.tls_key .* no TLS"),
    ],
)
def test_what_cannot_be_is_refused_by_name(path: Path, text: str, said: str) -> None:
    """The message names the setting, and what would be right."""
    with pytest.raises(ConfigError, match=said) as caught:
        loaded(path, text)
    assert str(path) in caught.value.text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("license: abc", "license"),
        ("memory: {block_size: 2 MiB}", "memory.block_size"),
        ("rdma: {num_worker_threads: 4}", "rdma.num_worker_threads"),
        ("storage: {block_size: 1 MiB}", "storage.block_size"),
    ],
)
def test_what_means_nothing_here_is_accepted_with_a_line(
    path: Path, text: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A yaml of the other product starts, and says what it ignores."""
    with caplog.at_level(logging.INFO):
        assert loaded(path, text) == ServerConfig()
    [record] = caplog.records
    assert name in record.getMessage()
    assert "ignored" in record.getMessage()


def test_one_device_may_be_named_as_the_other_product_does(path: Path) -> None:
    """rdma.device is rdma.devices; both at once are refused."""
    assert loaded(path, "rdma: {device: mlx5_0}").rdma_devices == "mlx5_0"
    with pytest.raises(ConfigError, match=r"rdma\.device and rdma\.devices"):
        loaded(path, "rdma: {device: mlx5_0, devices: mlx5_1}")


NAMES = [
    "network",
    "memory",
    "storage",
    "rdma",
    "mode",
    "address",
    "workers",
    "auth_key",
    "max_size",
    "page_size",
    "eviction",
    "enabled",
    "drives",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES) | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_yaml_is_a_configuration_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    """Nothing else ever comes out, whatever the yaml holds."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(tree))
    try:
        load(str(path), {}, {})
    except ConfigError as error:
        said = error.text
    else:
        said = "one line"
    assert len(said.splitlines()) == 1


def test_the_yaml_in_the_help_is_right() -> None:
    """What `memkv serve --help` shows is what can be loaded, with the defaults."""
    from memkv_lmcache.cli.serve import serve

    shown = (serve.help or "").split("with the defaults:\n")[1]
    tree = yaml.safe_load(re.sub(r" \.\.\. ", " ~ ", shown))
    names = {f"{group}.{name}" for group, found in tree.items() for name in found}
    assert names == {
        "network.address",
        "network.name",
        "network.auth_key",
        "network.transport",
        "network.workers",
        "network.max_connections",
        "network.admin_address",
        "network.drain_s",
        "memory.max_size",
        "memory.page_size",
        "memory.default_ttl_s",
        "rdma.devices",
        "rdma.verbs_library",
        "storage.mode",
    }
    default = ServerConfig()
    assert tree["network"]["address"] == default.address
    assert tree["network"]["transport"] == default.transport
    assert tree["network"]["max_connections"] == default.max_connections
    assert tree["network"]["drain_s"] == default.drain_s
    assert tree["memory"]["default_ttl_s"] == default.default_ttl_s
