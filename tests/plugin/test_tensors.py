"""Memory objects and the engine's metadata against shape headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lmcache.v1.memory_management import MemoryFormat

from memkv_lmcache.demo.engine import engine_config
from memkv_lmcache.header import DTYPES, HeaderError, ShapeHeader, Tensor
from memkv_lmcache.tensors import Expected, Layouts, allocation, header_of

from .conftest import CHUNK, MODEL, Arena, drop, make_metadata


def header(shape: tuple[int, ...], fmt: int = 1, dtype: str = "float16") -> ShapeHeader:
    tensor = Tensor(dtype, shape)
    return ShapeHeader(tensor.nbytes, fmt, (tensor,), "")


def expected(layered: bool = False, metadata: Any = None, **settings: Any) -> Expected:
    config = engine_config(CHUNK, 0.03125, {}, **settings)
    found = Layouts(metadata or make_metadata(), config).expected(layered)
    assert found is not None
    return found


@given(
    shapes=st.lists(
        st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=3
    ),
    data=st.data(),
)
def test_an_object_is_rebuilt_as_it_was(
    arena_of_module: Arena, shapes: list[list[int]], data: st.DataObject
) -> None:
    """Shapes, dtypes and format survive object -> header -> allocation."""
    dtypes = data.draw(
        st.lists(
            st.sampled_from([torch.float16, torch.bfloat16, torch.uint8, torch.int8]),
            min_size=len(shapes),
            max_size=len(shapes),
        )
    )
    fmt = data.draw(st.sampled_from([MemoryFormat.KV_2LTD, MemoryFormat.KV_T2D]))
    sizes = [torch.Size(shape) for shape in shapes]
    obj = arena_of_module.backend.allocate(sizes, dtypes, fmt, busy_loop=False)
    found = header_of(obj, "text")
    assert allocation(found) == (sizes, dtypes, fmt)
    assert found.length == obj.get_size()
    assert found.key == "text"
    drop([obj])


@pytest.fixture(scope="module")
def arena_of_module() -> Iterator[Arena]:
    arena = Arena(engine_config(CHUNK, 0.03125, {}), make_metadata())
    yield arena
    arena.backend.close()


def test_objects_without_lists_are_described_too(arena_of_module: Arena) -> None:
    """LMCache's own tools make objects that have one shape and no lists."""
    [obj] = arena_of_module.objects(1)
    obj.meta.shapes = obj.meta.dtypes = None
    assert header_of(obj, "") == header(tuple(MODEL.kv(CHUNK)))
    drop([obj])


def test_header_codes_are_known_to_torch_or_refused() -> None:
    """A dtype that this torch lacks is a mismatch, never another one."""
    for name in DTYPES:
        if hasattr(torch, name):
            [dtype] = allocation(header((2, 2), dtype=name))[1]
            assert str(dtype) == f"torch.{name}"
        else:
            with pytest.raises(HeaderError):
                allocation(header((2, 2), dtype=name))


@pytest.mark.parametrize(
    "bad",
    [
        ShapeHeader(10, 1, (), ""),
        header((0, 4)),
        header((4,), fmt=MemoryFormat.UNDEFINED.value),
        header((4,), fmt=MemoryFormat.BINARY.value),
        header((4,), fmt=MemoryFormat.BINARY_BUFFER.value),
        header((4,), fmt=4711),
    ],
    ids=lambda bad: f"{bad.fmt}-{bad.length}",
)
def test_what_lmcaches_allocator_would_raise_on_is_refused_before(
    bad: ShapeHeader,
) -> None:
    with pytest.raises(HeaderError):
        allocation(bad)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((2, 4, CHUNK, 16), True),
        ((2, 4, 1, 16), True),
        ((2, 4, 0, 16), False),
        ((2, 4, CHUNK + 1, 16), False),
        ((2, 3, CHUNK, 16), False),
        ((1, 4, CHUNK, 16), False),
        ((2, 4, CHUNK, 8), False),
        ((2, 4, CHUNK), False),
        ((2, 4, CHUNK, 16, 1), False),
        ((), False),
    ],
)
def test_only_the_token_count_may_differ(shape: tuple[int, ...], fits: bool) -> None:
    """A last chunk is shorter; all else is another layout."""
    assert expected().fits(header(shape)) == fits


def test_dtype_format_and_number_of_tensors_must_agree() -> None:
    full = tuple(MODEL.kv(CHUNK))
    tensor = Tensor("float16", full)
    assert not expected().fits(header(full, dtype="bfloat16"))
    assert not expected().fits(header(full, fmt=MemoryFormat.KV_MLA_FMT.value))
    two = ShapeHeader(2 * tensor.nbytes, 1, (tensor, tensor), "")
    assert not expected().fits(two)


def test_groups_must_agree_about_their_tokens() -> None:
    """The tensors of one chunk hold the same tokens."""
    metadata = make_metadata()
    metadata.get_shapes = lambda: [torch.Size([2, 3, CHUNK, 8])] * 2
    metadata.get_dtypes = lambda: [torch.float16] * 2
    for second, fits in ((5, True), (6, False)):
        tensors = (
            Tensor("float16", (2, 3, 5, 8)),
            Tensor("float16", (2, 3, second, 8)),
        )
        length = sum(tensor.nbytes for tensor in tensors)
        found = expected(metadata=metadata).fits(ShapeHeader(length, 1, tensors, ""))
        assert found == fits


def test_an_encoders_output_goes_by_its_own_header() -> None:
    """LMCache keeps those in the same stores; no KV metadata describes them."""
    assert expected().fits(header((33, 128), fmt=MemoryFormat.EC_TD.value))


def test_chunks_of_a_blend_have_any_length() -> None:
    """They end at separators."""
    long = header((2, 4, 50 * CHUNK, 16))
    assert expected(enable_blending=True).fits(long)


@pytest.mark.parametrize(
    ("changes", "settings", "fmt", "shape"),
    [
        ({}, {}, MemoryFormat.KV_T2D, (5, 2, 16)),
        ({}, {"enable_blending": True}, MemoryFormat.KV_2TD, (2, 5, 16)),
        (
            {"use_mla": True, "kv_shape": (4, 1, CHUNK, 1, 16)},
            {},
            MemoryFormat.KV_MLA_FMT,
            (5, 16),
        ),
    ],
)
def test_layers_have_layouts_of_their_own(
    changes: dict[str, Any],
    settings: dict[str, Any],
    fmt: MemoryFormat,
    shape: tuple[int, ...],
) -> None:
    """As LMCache's layerwise connectors make them."""
    layer = expected(layered=True, metadata=make_metadata(**changes), **settings)
    assert layer.fits(header(shape, fmt=fmt.value))
    assert not layer.fits(header((*shape[:-1], 8), fmt=fmt.value))


def test_the_metadata_is_asked_when_it_matters() -> None:
    """Layer groups are registered after the plugin is made."""
    metadata = make_metadata()
    layouts = Layouts(metadata, engine_config(CHUNK, 0.03125, {}))
    before = layouts.expected(False)
    metadata.get_shapes = lambda: [torch.Size([2, 9, CHUNK, 16])]
    after = layouts.expected(False)
    assert before is not None
    assert after is not None
    assert before.full.tensors[0].shape[1] == 4
    assert after.full.tensors[0].shape[1] == 9
    assert Layouts(None, None).expected(False) is None
