# SPDX-License-Identifier: Apache-2.0
"""LMCache's memory objects and metadata <-> shape headers.

The border to torch and LMCache: their names for dtypes and formats come in here, and a
``ShapeHeader`` goes out.  No I/O, and no memory is allocated or released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmcache.v1.memory_management import MemoryFormat

from memkv_lmcache.header import HeaderError, ShapeHeader, Tensor

#: Where the tokens are counted in a tensor of each format: chunks, then single layers.
_CHUNK_TOKENS = {MemoryFormat.KV_2LTD: 2, MemoryFormat.KV_MLA_FMT: 2}
_LAYER_TOKENS = {
    MemoryFormat.KV_T2D: 0,
    MemoryFormat.KV_2TD: 1,
    MemoryFormat.KV_MLA_FMT: 0,
}

#: What LMCache's CPU backend allocates in its arena.
_STORABLE = {
    *_CHUNK_TOKENS,
    *_LAYER_TOKENS,
    MemoryFormat.EC_TD,
    # LMCache 0.5.0 does not have it
    *(fmt for fmt in MemoryFormat if fmt.name == "HS_TD"),
}


def header_of(obj: Any, text: str) -> ShapeHeader:
    """The header of a memory object stored under the LMCache key ``text``.

    HeaderError: it does not lie in an arena, as a compressed one does not.
    """
    fmt = obj.get_memory_format()
    if fmt not in _STORABLE:
        raise HeaderError(f"memory format {fmt.name} is not stored")
    shapes, dtypes = obj.metadata.shapes, obj.metadata.dtypes
    if shapes is None or dtypes is None:
        shapes, dtypes = [obj.get_shape()], [obj.get_dtype()]
    return _header(obj.get_size(), fmt, shapes, dtypes, text)


def allocation(
    header: ShapeHeader,
) -> tuple[list[torch.Size], list[torch.dtype], MemoryFormat]:
    """What to ask an allocator for: shapes, dtypes and format of the value.

    HeaderError: a value that this torch or LMCache has no name for, or an empty one.
    """
    if not header.tensors or not header.length:
        raise HeaderError("the value holds no tensor")
    try:
        fmt = MemoryFormat(header.fmt)
    except ValueError:
        raise HeaderError(f"unknown memory format {header.fmt}") from None
    if fmt not in _STORABLE:
        raise HeaderError(f"memory format {fmt.name} is not loaded")
    shapes = [torch.Size(tensor.shape) for tensor in header.tensors]
    return shapes, [_dtype(tensor.dtype) for tensor in header.tensors], fmt


@dataclass(frozen=True, slots=True)
class Expected:
    """What values under the engine's keys look like, whatever their token count."""

    #: A full chunk; its ``key`` is empty.
    full: ShapeHeader
    token_axis: int
    #: None: chunks end at separators and may have any length.
    max_tokens: int | None

    def fits(self, header: ShapeHeader) -> bool:
        """Whether the engine can use a value of this header as it is."""
        if header.fmt == MemoryFormat.EC_TD.value:
            return True  # an encoder's output, which the metadata does not describe
        if header.fmt != self.full.fmt or len(header.tensors) != len(self.full.tensors):
            return False
        counts = {
            self._tokens(tensor, full)
            for tensor, full in zip(header.tensors, self.full.tensors, strict=True)
        }
        if len(counts) != 1:
            return False
        tokens = counts.pop()
        return tokens > 0 and (self.max_tokens is None or tokens <= self.max_tokens)

    def _tokens(self, tensor: Tensor, full: Tensor) -> int:
        """The tokens in ``tensor``; -1 where it differs from ``full`` in more."""
        axis = self.token_axis
        alike = (
            tensor.dtype == full.dtype
            and len(tensor.shape) == len(full.shape)
            and tensor.shape[:axis] == full.shape[:axis]
            and tensor.shape[axis + 1 :] == full.shape[axis + 1 :]
        )
        return tensor.shape[axis] if alike else -1


class Layouts:
    """What the engine's own metadata says about its values.

    Asked anew for each batch: the layer groups are known only after the model's caches
    are registered, which is after the plugin was made.
    """

    def __init__(self, metadata: Any, config: Any) -> None:
        self._metadata = metadata
        self._config = config

    def expected(self, layered: bool) -> Expected | None:
        """None: the metadata does not say; values are taken by their headers."""
        if self._metadata is None:
            return None
        chunk = max(self._metadata.chunk_size, self._metadata.kv_shape[2])
        max_tokens = None if self._config.enable_blending else chunk
        if layered:
            return self._expected_layer(max_tokens)
        fmt = (
            MemoryFormat.KV_MLA_FMT if self._metadata.use_mla else MemoryFormat.KV_2LTD
        )
        shapes, dtypes = self._metadata.get_shapes(), self._metadata.get_dtypes()
        full = _header(None, fmt, shapes, dtypes, "")
        return Expected(full, _CHUNK_TOKENS[fmt], max_tokens)

    def _expected_layer(self, max_tokens: int | None) -> Expected | None:
        if self._metadata.get_num_groups() > 1:
            return None  # the layers differ, and a key does not say of which kind it is
        tokens = self._metadata.chunk_size
        width = self._metadata.kv_shape[3] * self._metadata.kv_shape[4]
        shape: tuple[int, ...]
        if self._metadata.use_mla:
            fmt, shape = MemoryFormat.KV_MLA_FMT, (tokens, width)
        elif self._config.enable_blending:
            fmt, shape = MemoryFormat.KV_2TD, (2, tokens, width)
        else:
            fmt, shape = MemoryFormat.KV_T2D, (tokens, 2, width)
        full = _header(None, fmt, [shape], [self._metadata.kv_dtype], "")
        return Expected(full, _LAYER_TOKENS[fmt], max_tokens)


def _header(
    length: int | None,
    fmt: MemoryFormat,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    text: str,
) -> ShapeHeader:
    tensors = tuple(
        Tensor(str(dtype).removeprefix("torch."), tuple(shape))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    if length is None:
        length = sum(tensor.nbytes for tensor in tensors)
    return ShapeHeader(length, fmt.value, tensors, text)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise HeaderError(f"this torch has no dtype {name}")
    return dtype
