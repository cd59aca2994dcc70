# SPDX-License-Identifier: Apache-2.0
"""A real LMCache engine on CPU tensors, for the demo and the tests.

LMCache's own mock connector moves nothing; the one here copies between the engine's
memory objects and a tensor that the caller hands to ``store`` and ``retrieve``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lmcache.utils import mock_up_broadcast_fn, mock_up_broadcast_object_fn
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
from lmcache.v1.metadata import LMCacheMetadata


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides the bytes of its KV cache."""

    name: str = "memkv-demo"
    layers: int = 4
    kv_heads: int = 2
    head_size: int = 8
    dtype: torch.dtype = torch.float16

    def kv(self, tokens: int) -> torch.Size:
        """The shape of a KV tensor as the connector takes it: [2, L, T, D]."""
        width = self.kv_heads * self.head_size
        return torch.Size([2, self.layers, tokens, width])


class CPUConnector(GPUConnectorInterface):  # type: ignore[misc]  # lmcache is untyped
    """Copies whole token ranges between memory objects and ``kv`` [2, L, T, D]."""

    def __init__(self, model: ModelShape) -> None:
        self._model = model

    def get_shape(self, num_tokens: int) -> torch.Size:
        return self._model.kv(num_tokens)

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        memory_obj.tensor.copy_(kwargs["kv"][:, :, start:end])

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        kwargs["kv"][:, :, start:end].copy_(memory_obj.tensor)

    def batched_from_gpu(
        self, memory_objs: Any, starts: Any, ends: Any, **kwargs: Any
    ) -> None:
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(obj, start, end, **kwargs)

    def batched_to_gpu(
        self,
        memory_objs: Any = None,
        starts: Any = None,
        ends: Any = None,
        **kwargs: Any,
    ) -> None:
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(obj, start, end, **kwargs)


def engine_config(
    chunk_size: int, arena_gib: float, plugin: dict[str, Any], **settings: Any
) -> Any:
    """An LMCache configuration with our plugin in front of nothing else.

    ``plugin`` holds settings of ours without their prefix; ``settings`` are LMCache's.
    """
    prefix = "storage_plugin.memkv."
    extra = {
        f"{prefix}module_path": "memkv_lmcache.backend",
        f"{prefix}class_name": "MemKVStorageBackend",
    }
    extra |= {prefix + name: value for name, value in plugin.items()}
    extra |= settings.pop("extra_config", {})
    values = {
        "chunk_size": chunk_size,
        "local_cpu": False,
        "max_local_cpu_size": arena_gib,
        "storage_plugins": ["memkv"],
        "extra_config": extra,
    }
    return LMCacheEngineConfig.from_defaults(**(values | settings))


def build_engine(
    instance: str,
    config: Any,
    model: ModelShape,
    connector: Any = None,
    **metadata: Any,
) -> Any:
    """A running engine.  End it with ``LMCacheEngineBuilder.destroy(instance)``."""
    chunk = config.chunk_size
    values = {
        "model_name": model.name,
        "world_size": 1,
        "local_world_size": 1,
        "worker_id": 0,
        "local_worker_id": 0,
        "kv_dtype": model.dtype,
        "kv_shape": (model.layers, 2, chunk, model.kv_heads, model.head_size),
        "chunk_size": chunk,
    }
    engine = LMCacheEngineBuilder.get_or_create(
        instance,
        config,
        LMCacheMetadata(**(values | metadata)),
        connector or CPUConnector(model),
        mock_up_broadcast_fn,
        mock_up_broadcast_object_fn,
    )
    engine.post_init()
    return engine
