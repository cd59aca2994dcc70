"""``adapter_params`` as LMCache hands them over."""

from __future__ import annotations

import argparse
import json
import logging
from typing import Any

import pytest
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import (
    parse_args_to_l2_adapters_config,
)

from memkv_lmcache.errors import ConfigError
from memkv_lmcache.l2.settings import parse
from memkv_lmcache.l2_adapter import MemKVL2Adapter, MemKVL2AdapterConfig


def created(**params: Any) -> Any:
    """The adapter that LMCache makes of ``--l2-adapter``."""
    spec = {
        "type": "plugin",
        "module_path": "memkv_lmcache.l2_adapter",
        "class_name": "MemKVL2Adapter",
        "adapter_params": params,
    }
    given = argparse.Namespace(l2_adapter=[json.dumps(spec)])
    [config] = parse_args_to_l2_adapters_config(given).adapters
    return create_l2_adapter(config, None)


def test_lmcache_loads_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names on its command line; the connection comes from the environment."""
    monkeypatch.setenv("MEMKV_SERVERS", "a:1,b:2")
    monkeypatch.setenv("MEMKV_NAMESPACE", "from-the-environment")
    adapter = created(prefix="fleet-a", num_workers=2, blocks_per_op=8)
    assert isinstance(adapter, MemKVL2Adapter)
    status = adapter.report_status()
    adapter.close()
    assert list(status["servers"]) == ["a:1", "b:2"]
    assert status["namespace"] == "fleet-a"


def test_every_setting_has_a_default() -> None:
    """No adapter_params at all are right too."""
    settings = parse({})
    assert settings.num_workers == 4
    assert settings.blocks_per_op == 32
    assert settings.load_failure_grace_s == settings.client.load_timeout_s
    assert not settings.lmcache_eviction


def test_the_grace_is_the_load_timeout_unless_given() -> None:
    """One time-out, whichever of its names is used; its own name wins."""
    assert parse({"load_timeout_s": 3}).load_failure_grace_s == 3
    both = parse({"load_timeout_s": 3, "load_failure_grace_s": 4.5})
    assert both.load_failure_grace_s == 4.5


def test_any_setting_of_the_client_may_stand_there() -> None:
    """With LMCache's configuration's place in the chain."""
    client = parse({"servers": "h:1", "lease_ms": 5, "prefix": "p"}).client
    assert client.lease_ms == 5
    assert client.namespace == "p"
    assert [server.address for server in client.servers] == ["h:1"]
    assert parse({"namespace": "n"}).client.namespace == "n"
    assert parse({"namespace": "p", "prefix": "p"}).client.namespace == "p"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (
            {"num_worker": 2},
            r"'num_worker' in adapter_params; did you mean num_workers",
        ),
        ({"prefx": "a"}, "did you mean prefix"),
        ({"lookup_timeout": 3}, "did you mean lookup_timeout_ms"),
        ({"num_workers": 0}, "num_workers in adapter_params: 0 .* from 1 to 64"),
        ({"num_workers": "many"}, "num_workers in adapter_params: 'many'"),
        ({"blocks_per_op": 1.5}, "blocks_per_op in adapter_params: 1.5"),
        ({"load_failure_grace_s": 0}, "load_failure_grace_s in adapter_params: 0"),
        ({"load_failure_grace_s": 300}, "300 is over 240 seconds"),
        ({"lmcache_eviction": "perhaps"}, "lmcache_eviction in adapter_params"),
        ({"prefix": 5}, "prefix in adapter_params: 5 is not text"),
        ({"prefix": "a", "namespace": "b"}, "prefix and namespace .* one setting"),
        ({"auth_key": "00"}, "auth_key in LMCache's configuration: .* 64 hex digits"),
    ],
)
def test_a_wrong_setting_is_named(
    params: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As LMCache's ValueError, and in a line of our own before it."""
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ConfigError, match=says) as error,
    ):
        MemKVL2AdapterConfig.from_dict(params)
    assert f"MemKV is not used: {error.value}" in caplog.text
    with pytest.raises(ValueError, match=says):
        created(**params)


def test_the_help_names_every_setting() -> None:
    """LMCache prints it under what is wrong with the JSON."""
    text = MemKVL2AdapterConfig.help()
    for name in ("prefix", "num_workers", "blocks_per_op", "load_failure_grace_s"):
        assert f"- {name} " in text
    assert "- lmcache_eviction " in text
