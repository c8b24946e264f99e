"""Winograd's filtering of arrays in bfloat16, which its transforms read and write: what float32 makes, rounded once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from bounds import likely
from grid import OPERATIONS, RESULT, Row
from numpy.typing import NDArray
from test_bfloat16 import BFLOAT16, ROUNDING, halves
from test_direct import ORDERS
from test_winograd import ROWS

import triconv
from triconv import dispatch, memory
from triconv import torch as front
from triconv.after import After
from triconv.coefficients import DEFAULT, use
from triconv.engines import winograd
from triconv.form import Problem
from triconv.kernels import prepared, target

pytestmark = pytest.mark.usefixtures("all_axes")

Array = NDArray[np.generic]

PLENTY = 1 << 40

operations = pytest.mark.parametrize("operation", OPERATIONS)
rows = pytest.mark.parametrize("row", [row for row in ROWS if row.dtype == "float32"], ids=lambda row: row.name)


def wide(operands: dict[str, Array]) -> dict[str, Array]:
    """The same numbers in float32."""
    return {role: array.astype(np.float32) for role, array in operands.items()}


def problem_of(row: Row, operation: str, dtype: str) -> Problem:
    plan = triconv.explain(operation, row.visible, row.weight, dtype=dtype, engine="winograd", **row.options)
    assert plan.problem.dtype == dtype
    return plan.problem


def built(row: Row, operation: str, operands: dict[str, Array], order: str = "C order", after: After | None = None):
    """What the engine makes of operands in their dtype, in an array whose axes lie in an order."""
    a, b = (operands[role] for role in OPERATIONS[operation])
    out = ORDERS[order](np.full(getattr(row, RESULT[operation]), 77, a.dtype))
    finite = winograd.build(problem_of(row, operation, a.dtype.name))(a, b, out, None, after)
    return out, finite


@pytest.mark.usefixtures("way", "guarded")
@operations
@pytest.mark.parametrize("order", ORDERS)
@rows
def test_what_float32_makes_is_rounded_once(
    row: Row, order: str, operation: str, allow: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, where there is room for the same cuts; whatever bfloat16 is called, for any number of threads, and
    whether the work is written down."""
    allow(PLENTY)
    operands = {role: ORDERS[order](array) for role, array in halves(row).items()}
    expected, _ = built(row, operation, wide(operands), order)
    for threads, short in ((1, True), (2, True), (3, True), (2, False)):
        if not short:
            monkeypatch.setattr(prepared, "may_be_short", lambda *_: False)
        with triconv.threads(threads):
            found, finite = built(row, operation, operands, order)
        assert finite is not False
        np.testing.assert_array_equal(found, expected.astype(BFLOAT16))
    a, b = (operands[role].view(np.int16) for role in OPERATIONS[operation])
    out = ORDERS[order](np.zeros(found.shape, BFLOAT16)).view(np.int16)
    winograd.build(problem_of(row, operation, "bfloat16"))(a, b, out)
    np.testing.assert_array_equal(out, found.view(np.int16))


@pytest.mark.usefixtures("way", "guarded")
@operations
@rows
def test_where_there_is_no_room_nothing_is_rounded_twice(
    row: Row, operation: str, allow: Callable[[int], None]
) -> None:
    """What would be added to a result that is rounded already is summed at once, or in float32."""
    allow(1)
    operands = halves(row, 2)
    expected, error = row.expected(operation, wide(operands)), likely(operation, row, wide(operands))
    found, _ = built(row, operation, operands)
    oracle.assert_close(found.astype("float32"), expected, error + ROUNDING * (np.abs(expected) + error), operation)


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@pytest.mark.parametrize("name", ["tiles left over", "many tiles", "strided", "bordered"])
def test_what_follows_is_done_before_it_is_rounded(name: str, operation: str, allow: Callable[[int], None]) -> None:
    allow(PLENTY)
    row = next(row for row in ROWS if row.name == name)
    shape, rng = getattr(row, RESULT[operation]), np.random.default_rng(0)
    bias = rng.standard_normal(shape[1]).astype(BFLOAT16)
    where = ORDERS["channels last"](rng.standard_normal(shape).astype(BFLOAT16))
    operands = {role: ORDERS["channels last"](array) for role, array in halves(row).items()}
    expected, _ = built(row, operation, wide(operands), "channels last")
    followed = After(bias.astype(np.float32), True, where.astype(np.float32))
    followed.apply(expected)
    found, _ = built(row, operation, operands, "channels last", After(bias, True, where))
    np.testing.assert_array_equal(found, expected.astype(BFLOAT16))


@operations
@pytest.mark.parametrize("name", ["tiles left over", "strided", "bordered", "one tap beyond the edge"])
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 3e38])
def test_what_is_not_finite_is_summed_as_written(name: str, operation: str, number: float) -> None:
    """An infinity reaches what it should and nothing else; sums of very large numbers are not lost on the way."""
    row = next(row for row in ROWS if row.name == name)
    for role in OPERATIONS[operation]:
        operands = halves(row)
        operands[role].flat[operands[role].size // 2] = number
        found = row.call(getattr(triconv, operation), operation, operands, engine="winograd")
        expected = row.call(getattr(triconv, operation), operation, operands, precision="highest")
        assert found.dtype == BFLOAT16
        found, expected = found.astype("float32"), expected.astype("float32")
        there = np.isfinite(expected)
        assert not there.all() or name == "one tap beyond the edge"
        np.testing.assert_array_equal(np.isfinite(found), there)
        if not np.isfinite(number):
            np.testing.assert_array_equal(found[~there], expected[~there])
            np.testing.assert_allclose(found[there], expected[there], rtol=2 * ROUNDING, atol=1e-4)


@operations
@pytest.mark.parametrize("name", ["many tiles", "strided", "bordered"])
def test_tensors(name: str, operation: str) -> None:
    """PyTorch's bfloat16, which NumPy gets as whole numbers; an infinity too."""
    row = next(row for row in ROWS if row.name == name)
    for infinite in (False, True):
        operands = halves(row)
        if infinite:
            operands["weight" if operation != "conv_weight" else "hidden"].flat[0] = np.inf
        tensors = {role: torch.tensor(array.astype("float32")).bfloat16() for role, array in operands.items()}
        found = row.call(getattr(front, operation), operation, tensors, engine="winograd")
        expected = row.call(getattr(triconv, operation), operation, operands, engine="winograd").astype("float32")
        np.testing.assert_array_equal(found.float().numpy(), expected)


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@rows
def test_weights_that_are_kept(row: Row, operation: str) -> None:
    operands = halves(row)
    first, _ = OPERATIONS[operation]
    plan = dispatch.choose(problem_of(row, operation, "bfloat16"), "winograd")
    run, expected = plan.with_weight(operands["weight"]), np.empty(getattr(row, RESULT[operation]), BFLOAT16)
    plan.run(operands[first], operands["weight"], expected)
    for _ in range(2):
        found = np.zeros_like(expected)
        run(operands[first], found)
        np.testing.assert_array_equal(found, expected)


LARGE = [
    Row("folded", (4, 64, 28, 28), (5, 5), 16, padding=2, border="circular"),
    Row("deep and circular", (4, 256, 7, 7), (5, 5), 256, padding=2, border="circular"),
    Row("more weights than positions", (4, 64, 28, 28), (3, 3), 256, padding=1),
]


@operations
@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype(np.float32)], ids=str)
@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize("row", [*LARGE, *(row for row in ROWS if row.dtype == "float32")], ids=lambda row: row.name)
def test_workspace_is_stated(row: Row, operation: str, infinite: bool, dtype: np.dtype[np.generic]) -> None:
    """Also where something is not finite, so that all is summed as written."""
    problem, random = problem_of(row, operation, dtype.name), np.random.default_rng(0)
    plan = dispatch.choose(problem, "winograd")
    a, b = (random.standard_normal(problem.shape(role)).astype(dtype) for role in problem.operands)
    if infinite:
        a.flat[0] = np.inf
    out = np.empty(getattr(row, RESULT[operation]), dtype)
    plan.run(a, b, out)
    memory.release()
    tracemalloc.start()
    plan.run(a, b, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= plan.workspace + (1 << 18)


@pytest.mark.usefixtures("default")
def test_nothing_is_converted_where_transforms_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense convolution of 3 × 3 taps, where a processor multiplies no matrices; of 1 × 1 there is nothing to be
    gained, and float16 is converted."""
    monkeypatch.setattr(target, "matrices_allowed", lambda: False)
    use(DEFAULT)  # as if nothing had been chosen
    options = {"padding": 1, "dtype": "bfloat16"}
    plan = triconv.explain("conv", (8, 64, 56, 56), (64, 64, 3, 3), **options)
    assert (plan.engine.name, plan.problem.dtype) == ("winograd", "bfloat16")
    float32 = triconv.explain("conv", (8, 64, 56, 56), (64, 64, 3, 3), padding=1, engine="winograd")
    assert plan.problem == replace(float32.problem, dtype="bfloat16", itemsize=2)
    assert plan.seconds <= float32.seconds
    half = triconv.explain("conv", (8, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype="float16", engine="winograd")
    assert half.problem.dtype == "float32"
