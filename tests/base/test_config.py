"""Where settings come from, and what beats what."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from memkv_lmcache.config import ClientConfig, explain, load
from memkv_lmcache.errors import ConfigError

KEY = "ab" * 32


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    return tmp_path / "memkv.yaml"


def test_defaults() -> None:
    """Nothing set anywhere: one server on this host, open, no namespace."""
    config = load(environ={})
    assert config == ClientConfig()
    assert [server.address for server in config.servers] == ["127.0.0.1:9900"]
    assert (config.namespace, config.auth_key, config.transport) == ("", None, "auto")


def test_each_place_beats_those_after_it(yaml_file: Path) -> None:
    """Argument, LMCache's configuration, environment, yaml, default: in this order."""
    yaml_file.write_text("namespace: yaml")
    places = [
        {"overrides": {"namespace": "argument"}},
        {"lmcache": {"namespace": "lmcache"}},
        {"environ": {"MEMKV_NAMESPACE": "environ", "MEMKV_CONFIG": str(yaml_file)}},
    ]
    found = []
    while places:
        given = {name: value for place in places for name, value in place.items()}
        found.append(load(**{"environ": {}, **given}).namespace)
        places.pop(0)
    found.append(load(environ={"MEMKV_CONFIG": str(yaml_file)}).namespace)
    assert found == ["argument", "lmcache", "environ", "yaml"]


def test_every_setting_can_stand_everywhere(yaml_file: Path) -> None:
    """Text in a variable and typed values in the other places mean the same."""
    typed = {
        "servers": ["a:1", "x=b:2"],
        "namespace": "n",
        "transport": "tcp",
        "rdma_devices": ["mlx5_0", "mlx5_1"],
        "verbs_library": "/opt/libibverbs.so.1",
        "auth_key": KEY,
        "num_connections": 2,
        "prometheus_bind": "127.0.0.1:9400",
        "lookup_timeout_ms": 30,
        "load_timeout_s": 2.5,
        "lease_ms": 0,
        "put_queue_size": "1 GiB",
        "layerwise": True,
        "allow_clear": True,
    }
    text = {**typed, "servers": "a:1,x=b:2", "rdma_devices": "mlx5_0,mlx5_1"}
    environ = {f"MEMKV_{name.upper()}": str(value) for name, value in text.items()}
    yaml_file.write_text("\n".join(f"{name}: {value}" for name, value in text.items()))
    configs = {
        load(typed, environ={}),
        load(lmcache=typed, environ={}),
        load(environ=environ),
        load(environ={"MEMKV_CONFIG": str(yaml_file)}),
    }
    assert len(configs) == 1
    [config] = configs
    defaults = ClientConfig()
    assert all(getattr(config, name) != getattr(defaults, name) for name in typed)
    assert {row.name for row in explain(environ={})} == set(typed)


def test_arguments_that_are_none_are_not_given() -> None:
    """A call that leaves an argument out does not hide what is set elsewhere."""
    assert load({"namespace": None}, environ={"MEMKV_NAMESPACE": "n"}).namespace == "n"


def test_a_key_beats_a_key_file_of_a_weaker_place(tmp_path: Path) -> None:
    """The place decides, not which of the two ways it uses."""
    file = tmp_path / "key"
    file.write_text("cd" * 32)
    by_file = {"auth_key_file": str(file)}
    environ = {"MEMKV_AUTH_KEY": KEY}
    assert load(environ=environ).auth_key == bytes.fromhex(KEY)
    assert load(by_file, environ=environ).auth_key == b"\xcd" * 32
    with pytest.raises(ConfigError, match="MEMKV_AUTH_KEY and MEMKV_AUTH_KEY_FILE"):
        load(environ={**environ, "MEMKV_AUTH_KEY_FILE": str(file)})


def test_the_key_is_shown_nowhere() -> None:
    """Neither repr nor explain tells it."""
    assert KEY not in repr(load({"auth_key": KEY}, environ={}))
    rows = explain({"auth_key": KEY}, environ={})
    assert KEY not in repr(rows)
    assert ("auth_key", "(set)", "the call's arguments") in rows


def test_explain_names_the_source(yaml_file: Path) -> None:
    """Every setting is listed with its value and where it came from."""
    yaml_file.write_text("servers: [a:1, x=b:2]\nlayerwise: yes\n")
    environ = {"MEMKV_CONFIG": str(yaml_file), "MEMKV_LEASE_MS": "7"}
    rows = {row.name: row[1:] for row in explain({}, {"namespace": "n"}, environ)}
    assert rows["servers"] == ("a:1,x=b:2", str(yaml_file))
    assert rows["layerwise"] == ("true", str(yaml_file))
    assert rows["lease_ms"] == ("7", "MEMKV_LEASE_MS")
    assert rows["namespace"] == ("n", "LMCache's configuration")
    assert rows["transport"] == ("auto", "default")
    assert rows["auth_key"] == ("none", "default")


def test_unknown_settings_are_errors_with_their_place(yaml_file: Path) -> None:
    """Each place refuses what nobody knows, and names what was meant."""
    yaml_file.write_text("sevrers: a:1")
    for given, place in [
        ({"overrides": {"sevrers": 1}}, "the call's arguments"),
        ({"lmcache": {"sevrers": 1}}, "LMCache's configuration"),
        ({"environ": {"MEMKV_CONFIG": str(yaml_file)}}, str(yaml_file)),
    ]:
        with pytest.raises(ConfigError, match=r"did you mean servers\?") as caught:
            load(**{"environ": {}, **given})
        assert place in str(caught.value)


def test_an_unknown_variable_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Other programs may have variables of that name too; nothing else is affected."""
    assert load(environ={"MEMKV_SERVER": "a:1"}) == ClientConfig()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "MEMKV_SERVER is no setting of MemKV; did you mean MEMKV_SERVERS?"
    )


@pytest.mark.parametrize("name", ["license", "otel_endpoint"])
def test_settings_without_meaning_are_said_to_be(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Known settings of the product we replace are accepted with one INFO line."""
    caplog.set_level(logging.INFO)
    assert load(environ={f"MEMKV_{name.upper()}": "x"}) == ClientConfig()
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"MEMKV_{name.upper()} is ignored: ")


def test_lmcaches_own_keys_are_not_ours() -> None:
    """What tells LMCache where the plugin is stands beside our settings."""
    own = {"module_path": "memkv_lmcache.backend", "class_name": "MemKVStorageBackend"}
    assert load(lmcache=own, environ={}) == ClientConfig()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("transport", "udp", "not one of auto, tcp, rdma"),
        ("rdma_devices", "mlx5 0", "does not name devices"),
        ("namespace", "x" * 129, "over 128 bytes"),
        ("num_connections", "0", "from 1 to 64"),
        ("num_connections", "many", "from 1 to 64"),
        ("prometheus_bind", "unix:/run/x", "host:port only"),
        ("auth_key", "", "64 hex digits"),
        ("auth_key_file", "/none", "cannot be read"),
        ("put_queue_size", "1 Gi", "is no size"),
        ("layerwise", "maybe", "true or false"),
        ("servers", "", "names no server"),
    ],
)
def test_wrong_values_are_named_with_their_variable(
    name: str, value: str, says: str
) -> None:
    """The error begins with the variable as its user wrote it."""
    variable = f"MEMKV_{name.upper()}"
    with pytest.raises(ConfigError, match=f"^{variable}.*{says}"):
        load(environ={variable: value})


def test_numbers_where_text_is_meant(yaml_file: Path) -> None:
    """Yaml reads an unquoted number as one; the error says to quote it."""
    yaml_file.write_text("namespace: 007")
    with pytest.raises(ConfigError, match=r"namespace in .*quotes"):
        load(environ={"MEMKV_CONFIG": str(yaml_file)})
