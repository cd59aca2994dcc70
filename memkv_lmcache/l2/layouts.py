# SPDX-License-Identifier: Apache-2.0
"""What the bytes of an object mean, and whether a stored value may stand for it.

An ``ObjectKey`` names neither shape nor dtype, so a value's header decides.  LMCache's
objects are known here only by their methods and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memkv_lmcache.header import (
    HeaderError,
    ShapeHeader,
    Tensor,
    is_intact,
    layout_part,
    unpack,
)

Tensors = tuple[Tensor, ...]

#: This mode's allocators disagree about an object's memory format, and nobody reads it.
_FMT = 0


def layout_of(obj: Any) -> ShapeHeader:
    """The header of a memory object, its ``key`` empty."""
    shapes, dtypes = obj.metadata.shapes, obj.metadata.dtypes
    if shapes is None or dtypes is None:
        shapes, dtypes = [obj.metadata.shape], [obj.metadata.dtype]
    size: int = obj.get_size()
    tensors = _tensors(shapes, dtypes)
    try:
        is_whole = sum(tensor.nbytes for tensor in tensors) == size
    except KeyError as error:
        raise HeaderError(f"unknown dtype {error}") from None
    if not is_whole:
        # a serde wrote less than it had asked room for
        tensors = (Tensor("uint8", (size,)),)
    return ShapeHeader(size, _FMT, tensors, "")


def holds(stored: ShapeHeader, wanted: ShapeHeader) -> bool:
    """Whether a value with the header ``stored`` may land in an object of ``wanted``.

    A serde's output may be shorter than the object that is made for it.
    """
    if stored.tensors == wanted.tensors:
        return True
    return (
        _is_flat(stored.tensors)
        and _is_flat(wanted.tensors)
        and stored.length <= wanted.length
    )


class Expected:
    """What one lookup expects of each group of its objects.  One thread.

    ``descs`` is LMCache's ``group_layout_descs``: layouts by group, or one layout for
    all.  A group without one is taken as it is.
    """

    def __init__(self, descs: Any) -> None:
        self._by_group: dict[int, Tensors] = {}
        self._for_all: Tensors = ()
        if isinstance(descs, Mapping):
            for group, desc in descs.items():
                self._by_group[group] = _tensors(desc.shapes, desc.dtypes)
        elif descs is not None:  # before LMCache 0.5.3
            self._for_all = _tensors(descs.shapes, descs.dtypes)
        # Thousands of headers differ in nothing but their checksum and the key's text.
        self._known: dict[tuple[int, bytes], bool] = {}

    def accepts(self, header: bytes, wire_key: bytes, group: int) -> bool:
        """Whether the value of this header is, or may turn out to be, what is expected.

        A flat uint8 tensor may be the output of a serde: only the load can tell.
        """
        if not is_intact(header, wire_key):
            return False
        layout = group, layout_part(header)
        known = self._known.get(layout)
        if known is None:
            known = self._known[layout] = self._judge(header, wire_key, group)
        return known

    def _judge(self, header: bytes, wire_key: bytes, group: int) -> bool:
        try:
            stored = unpack(header, wire_key)
        except HeaderError:
            return False
        wanted = self._by_group.get(group, self._for_all)
        return not wanted or stored.tensors == wanted or _is_flat(stored.tensors)


def _tensors(shapes: Any, dtypes: Any) -> Tensors:
    return tuple(
        Tensor(str(dtype).removeprefix("torch."), tuple(shape))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )


def _is_flat(tensors: Tensors) -> bool:
    return (
        len(tensors) == 1 and tensors[0].dtype == "uint8" and len(tensors[0].shape) == 1
    )
