"""LMCache's in-process connector for vLLM on a CPU, where LMCache has none.

vLLM loads it by ``kv_connector_module_path``.  Everything but the copy between vLLM's
KV cache and LMCache's memory is the real thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lmcache.v1.gpu_connector
import torch
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
from vllm.distributed.kv_transfer.kv_connector.v1.lmcache_connector import (
    LMCacheConnectorV1,
)

__all__ = ["LMCacheConnectorV1"]


class CPUBlockConnector(GPUConnectorInterface):
    """Copies whole blocks, as vLLM's kernels have laid them out.

    So a chunk must be a number of blocks, and the bytes of a block stay together.
    """

    def __init__(self, layers: int, width: int) -> None:
        self._layers = layers
        self._width = width

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size([2, self._layers, num_tokens, self._width])

    def from_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        for ours, theirs in _blocks(memory_obj, start, end, **kwargs):
            ours.copy_(theirs)

    def to_gpu(self, memory_obj: Any, start: int, end: int, **kwargs: Any) -> None:
        for ours, theirs in _blocks(memory_obj, start, end, **kwargs):
            theirs.copy_(ours)

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


def _blocks(
    memory_obj: Any,
    start: int,
    end: int,
    *,
    kvcaches: list[torch.Tensor],
    slot_mapping: torch.Tensor,
    **_: Any,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """LMCache's and vLLM's memory of each block and layer.

    vLLM has [blocks, heads, tokens of a block, K and V of a head] for each layer.
    """
    size = kvcaches[0].shape[2]
    first = slot_mapping[start:end:size]
    blocks = (first // size).tolist()
    if start % size or (end - start) % size or (first % size).any():
        raise ValueError(f"tokens {start} to {end} are not whole blocks of {size}")
    per_block = memory_obj.tensor.view(len(blocks), len(kvcaches), -1)
    for i, block in enumerate(blocks):
        for layer, cache in enumerate(kvcaches):
            yield per_block[i, layer].view(cache[block].shape), cache[block]


def _create(config: Any, metadata: Any, *_: Any, **__: Any) -> CPUBlockConnector:
    layers, _, _, heads, head_size = metadata.kv_shape
    return CPUBlockConnector(layers, heads * head_size)


lmcache.v1.gpu_connector.CreateGPUConnector = _create
