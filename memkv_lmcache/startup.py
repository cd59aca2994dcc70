# SPDX-License-Identifier: Apache-2.0
"""What the storage plugin reads from LMCache's configuration, and what it warns about.

LMCache tells a plugin neither its name nor how keys are hashed.  Imports no lmcache:
the modules that matter are loaded already where they matter.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from memkv_lmcache.errors import ConfigError

logger = logging.getLogger(__name__)

_PREFIX = "storage_plugin."
_CLASS = ".class_name"
_DEFAULT_NAME = "memkv"

#: Settings of LMCache that put another store in front of the plugins.
_TIERS_IN_FRONT = (
    "enable_p2p",
    "enable_pd",
    "local_disk",
    "gds_path",
    "maru_path",
    "remote_url",
    "remote_storage_plugins",
)


def plugin_settings(config: Any, class_name: str) -> dict[str, object]:
    """The settings under ``storage_plugin.<name>.`` in ``extra_config``, without it.

    ``<name>`` is the plugin that LMCache loads with our class.  ConfigError: several
    are, with settings of their own, and nobody tells us which of them we are.
    """
    extra = getattr(config, "extra_config", None) or {}
    found = {
        name: _settings_of(name, extra) for name in _names(config, extra, class_name)
    }
    first = next(iter(found.values()))
    if any(settings != first for settings in found.values()):
        raise ConfigError(
            f"storage_plugins: {', '.join(found)} all load {class_name} with different "
            "settings, and LMCache does not say which is which; name one"
        )
    return first


def _names(config: Any, extra: dict[str, Any], class_name: str) -> list[str]:
    named = [
        key.removeprefix(_PREFIX).removesuffix(_CLASS)
        for key, value in extra.items()
        if key.startswith(_PREFIX) and key.endswith(_CLASS) and value == class_name
    ]
    loaded = set(getattr(config, "storage_plugins", None) or named)
    return [name for name in named if name in loaded] or [_DEFAULT_NAME]


def _settings_of(name: str, extra: dict[str, Any]) -> dict[str, object]:
    prefix = f"{_PREFIX}{name}."
    return {
        key.removeprefix(prefix): value
        for key, value in extra.items()
        if key.startswith(prefix)
    }


def sees_whole_prefixes(config: Any) -> bool:
    """Whether a lookup that reaches us begins with the first chunk of its request.

    The engine's CPU cache is not looked at here: it can be switched on and off.
    """
    extra = getattr(config, "extra_config", None) or {}
    plugins = getattr(config, "storage_plugins", None) or []
    return (
        len(plugins) <= 1
        and not extra.get("enable_nixl_storage")
        and not any(getattr(config, tier, None) for tier in _TIERS_IN_FRONT)
    )


def reads_rank0(config: Any, metadata: Any) -> bool:
    """Whether rank 0 stores for this process: with MLA all ranks hold the same bytes.

    As LMCache's own remote backend decides it, by the same setting.
    """
    return bool(
        metadata is not None
        and metadata.use_mla
        and metadata.world_size > 1
        and metadata.worker_id != 0
        and config.get_extra_config_value("remote_enable_mla_worker_id_as0", True)
    )


def warn_about_keys(config: Any, metadata: Any, namespace: str) -> None:
    """Logs what would keep processes from meeting, or let the wrong ones meet."""
    database = sys.modules.get("lmcache.v1.token_database")
    algorithm = getattr(config, "pre_caching_hash_algorithm", "builtin")
    seed = os.environ.get("PYTHONHASHSEED", "random")
    if (
        getattr(database, "NONE_HASH", 0) != 0
        and algorithm == "builtin"
        and seed == "random"
    ):
        logger.warning(
            "MemKV: LMCache's hashes are RANDOM in this process: no other process will "
            "find what this one stores, nor will this one after a restart. vLLM's "
            "scheduler and workers are processes of their own: nothing is ever a hit. "
            "Set PYTHONHASHSEED=0 in every process, or pre_caching_hash_algorithm: "
            "sha256_cbor"
        )
    dtype = str(getattr(metadata, "kv_dtype", None))
    if dtype == "torch.uint8" and not namespace:
        logger.warning(
            "MemKV: the KV cache is uint8 and no namespace is set. All fp8 flavours "
            "share their keys then; give each deployment its own MEMKV_NAMESPACE"
        )


def warn_about_lost_loads(config: Any) -> None:
    """Logs that vLLM, as it is set up, fails requests when a server dies.

    A plugin is not told its settings; the current ones are those, while vLLM starts.
    """
    vllm = sys.modules.get("vllm.config")
    current = getattr(vllm, "get_current_vllm_config_or_none", lambda: None)()
    transfer = getattr(current, "kv_transfer_config", None)
    policy = getattr(transfer, "kv_load_failure_policy", None)
    if policy == "fail" and not getattr(config, "enable_async_loading", False):
        logger.warning(
            'MemKV: vLLM\'s kv_load_failure_policy is "fail": a request whose chunk is '
            "lost between lookup and load ends with an error. Set it to "
            '"recompute" in --kv-transfer-config, or enable_async_loading in LMCache'
        )
