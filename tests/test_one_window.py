"""Kernels as large as what they see: one window is all there is along an axis, and its positions are channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

import triconv
from triconv import dispatch
from triconv.after import After
from triconv.arrays import STORED
from triconv.benchmark.measure import ROUNDED
from triconv.benchmark.workload import terms
from triconv.engine import in_channels
from triconv.engines import direct
from triconv.form import Problem, Role

Array = NDArray[Any]

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "both axes": ((3, 4, 5, 6), (7, 4, 5, 6), {}),
    "the first": ((2, 3, 5, 9), (8, 3, 5, 3), {"padding": (0, 1)}),
    "the last": ((2, 3, 9, 4), (8, 3, 2, 4), {"stride": (2, 3), "dilation": (3, 1)}),
    "one axis": ((5, 6, 7), (4, 6, 7), {}),
    "in the middle": ((2, 2, 4, 5, 4), (3, 2, 2, 5, 2), {}),
    "one example": ((1, 40, 7, 7), (33, 40, 7, 7), {}),
}
ORDERS = ["channels last", "channels first", "reversed"]
OPERATIONS = ["conv", "conv_transpose", "conv_weight"]


def problem_of(operation: str, name: str, dtype: str = "float32") -> Problem:
    visible, weight, options = SHAPES[name]
    problem = triconv.explain(operation, visible, weight, dtype="float32", **options).problem
    return replace(problem, dtype=dtype, itemsize=2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)


def lying(array: Array, order: str, role: Role) -> Array:
    match order, role:
        case "channels first", _:
            return np.ascontiguousarray(array)
        case "channels last", Role.WEIGHT:
            return np.ascontiguousarray(array.transpose(*range(2, array.ndim), 1, 0)).transpose(
                -1, -2, *range(array.ndim - 2)
            )
        case "channels last", _:
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    return np.ascontiguousarray(array.transpose()).transpose()


@pytest.mark.parametrize("name", SHAPES)
def test_channels_are_those_of_all_positions(name: str) -> None:
    problem = problem_of("conv", name)
    inner = in_channels(problem)
    assert inner.terms == problem.terms
    assert inner.shape(Role.HIDDEN) == problem.shape(Role.HIDDEN)
    for role in Role:
        assert inner.bytes_of(role) == problem.bytes_of(role)
    assert inner.channels.visible > problem.channels.visible


@pytest.mark.parametrize(
    ("size", "channels", "options"),
    [
        (3, 2, {"padding": 1}),
        (5, 2, {"dilation": 2}),
        (3, 1, {"groups": 2}),
        (3, 2, {"groups": np.array([[True, False], [True, True]])}),
        (3, 2, {"border": "reflect", "padding": 1}),
    ],
)
def test_other_windows_stay_as_they_are(size: int, channels: int, options: dict[str, Any]) -> None:
    problem = triconv.explain("conv", (1, 2, size, size), (2, channels, 3, 3), **options).problem
    assert in_channels(problem) is problem


@pytest.mark.parametrize(
    ("visible", "weight", "options"),
    [
        ((2, 4, 3), (5, 4, 3), {"stride": 2, "padding": ((1, 0),)}),
        ((2, 4, 3), (5, 4, 3), {"dilation": 2, "padding": ((0, 2),)}),
        ((2, 4, 5), (5, 4, 3), {"stride": 3}),
        ((3, 4, 5), (1, 6, 4, 5), {}),
        ((3, 4, 5, 9), (1, 7, 6, 4, 5, 3), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_single_window_of_another_sort_is_none(
    operation: str, visible: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Which lies beside what there is, or on a part of it, or has a kernel of its own; weights in Fortran's order."""
    problem = triconv.explain(operation, visible, weight, dtype="float64", engine="direct", **options).problem
    assert in_channels(problem) is problem
    random = np.random.default_rng(0)
    a, b = (np.asfortranarray(random.standard_normal(problem.shape(role))) for role in problem.operands)
    out, expected = (np.asfortranarray(np.full(problem.shape(problem.produces), np.nan)) for _ in range(2))
    direct.build(problem)(a, b, out)
    dispatch.ENGINES["reference"].build(problem)(a, b, expected)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("orders", [(one, other) for one in ORDERS for other in ORDERS], ids="-".join)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "bfloat16"])
def test_all_is_computed(operation: str, name: str, orders: tuple[str, str], dtype: str) -> None:
    """In every order of memory, of which some have to be copied; the result too is where it was asked for."""
    problem = problem_of(operation, name, dtype)
    engine = "bfloat16" if dtype == "bfloat16" else "direct"
    one = {**dispatch.HALVES, **dispatch.ENGINES}[engine]
    if one.why_not(problem):
        pytest.skip("; ".join(one.why_not(problem)))
    random, array = np.random.default_rng(0), dict[Role, Array]()
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for role in Role:
        array[role] = lying(random.standard_normal(problem.shape(role)).astype(kind), orders[role is Role.WEIGHT], role)
    a, b = (array[role] for role in problem.operands)
    out = array[problem.produces]
    out[...] = np.nan
    one.build(problem)(a, b, out)
    wide = np.dtype("complex128" if problem.complex else "float64")
    expected, magnitude = (np.empty(out.shape, wide) for _ in range(2))
    exact = dispatch.ENGINES["reference"].build(replace(problem, dtype=wide.name, itemsize=wide.itemsize))
    exact(a.astype(wide), b.astype(wide), expected)
    exact(np.abs(a).astype(wide), np.abs(b).astype(wide), magnitude)
    allowed = oracle.bound(terms(problem), magnitude.real, STORED.get(dtype, dtype))
    oracle.assert_close(out.astype(wide), expected, allowed + np.abs(expected) * ROUNDED.get(dtype, 0.0))


def test_what_comes_after_a_transpose_is_of_its_channels() -> None:
    """A bias is for each channel of the result, not for each of the problem that is run."""
    problem = problem_of("conv_transpose", "both axes")
    random = np.random.default_rng(0)
    h, w = (random.standard_normal(problem.shape(role), np.float32) for role in problem.operands)
    bias, out = random.standard_normal(4, np.float32), np.empty(problem.shape(Role.VISIBLE), np.float32)
    direct.build(problem)(h, w, out, None, After(bias=bias, positive=True))
    expected = triconv.conv_transpose(h, w, engine="reference") + bias[:, None, None]
    np.testing.assert_allclose(out, np.maximum(expected, 0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_product_with_a_zero_is_estimated(operation: str) -> None:
    """Around a hidden of one position a transpose of 7 by 7 would meet 169, of which 168 are zeros."""
    problem = triconv.explain(operation, (16, 512, 7, 7), (1024, 512, 7, 7), dtype="float32").problem
    dense = triconv.explain(operation, (16, 512 * 49, 1, 1), (1024, 512 * 49, 1, 1), dtype="float32").problem
    assert direct.cost(problem) == direct.cost(dense)
    assert dispatch.choose(problem).engine.name == "direct"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_large_weight_that_is_read_once_is_left_where_it_is(operation: str, batch: int) -> None:
    """Nor does NumPy bring it into another order: that took 180 ms of 3."""
    plan = triconv.explain(operation, (batch, 4096, 1, 1), (4096, 4096, 1, 1), dtype="float32")
    assert plan.engine.name == "direct"
    weight = direct._expected(plan.problem, True).buffers[2]
    assert (weight is not None) == (batch == 64 and operation == "conv")
