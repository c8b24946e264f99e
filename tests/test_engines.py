"""Every engine on the whole grid, against the reference; the reference against an oracle of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from bounds import allowed
from grid import BY_NAME, GRID, OPERATIONS, RESULT, Row, normal
from numpy.typing import NDArray

import triconv
from triconv import dispatch
from triconv.engines import im2row
from triconv.form import weight_order

Array = NDArray[Any]

ENGINES = list(dispatch.ENGINES)
rows = pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
engines = pytest.mark.parametrize("engine", ENGINES)
of_few = pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "split"])
"""`split` takes no sums of so few channels: test_split.py has what it does."""
operations = pytest.mark.parametrize("operation", OPERATIONS)


pytestmark = pytest.mark.usefixtures("poisoned")


def run(operation: str, row: Row, operands: dict[str, Array], engine: str) -> Array:
    result: Array = row.call(getattr(triconv, operation), operation, operands, engine=engine)
    return result


def plan(operation: str, row: Row, engine: str) -> triconv.Plan:
    return triconv.explain(operation, row.visible, row.weight, engine=engine, dtype=row.dtype, **row.options)


def takes(engine: str, operation: str, row: Row) -> bool:
    """Whether an engine takes a problem; where it does not, asking for it says why."""
    problem = plan(operation, row, "reference").problem
    reasons = dispatch.ENGINES[engine].why_not(problem)
    if reasons:
        with pytest.raises(ValueError, match="cannot take this problem") as refusal:
            plan(operation, row, engine)
        assert all(reason in str(refusal.value) for reason in reasons)
    return not reasons


def test_grid_covers_the_space() -> None:
    """Names are unique; every rank, border, dtype, form of padding, pattern and bank is there, and left-over sizes."""
    assert len(BY_NAME) == len(GRID)
    assert {row.rank for row in GRID} == {0, 1, 2, 3, 4, 5}
    assert {row.dtype for row in GRID} == {"float32", "float64", "complex64", "complex128"}
    assert {b for row in GRID for b in oracle.per_axis(row.border, row.rank)} == {
        "zero",
        "circular",
        "reflect",
        "replicate",
    }
    assert {row.padding for row in GRID} >= {0, 2, 5, "valid", "same", "full", (2, 0), ((1, 0), (2, 1))}
    assert {row.visible[0] for row in GRID} == {0, 1, 2, 3}
    assert {type(row.groups) for row in GRID} == {int, tuple}
    assert {None, 1, 2, 3, "local", (2, "local"), (1, 3)} <= {row.bank for row in GRID}
    for row in GRID:
        smallest = oracle.smallest_visible(row.hidden[2:], row.kernel, **row.spatial)
        assert row.visible_size == (None if smallest == row.visible[2:] else row.visible[2:]), row.name


@rows
def test_reference_agrees_with_the_oracle(row: Row) -> None:
    operands = row.operands()
    for operation in OPERATIONS:
        result = run(operation, row, operands, "reference")
        assert result.shape == getattr(row, RESULT[operation])
        assert result.dtype == row.dtype
        oracle.assert_close(result, row.expected(operation, operands), row.allowed(operation, operands), operation)


@engines
@rows
def test_engine_agrees_with_the_reference(row: Row, engine: str) -> None:
    operands = row.operands(1)
    for operation in OPERATIONS:
        if takes(engine, operation, row):
            result = run(operation, row, operands, engine)
            assert result.dtype == row.dtype
            expected = run(operation, row, operands, "reference")
            oracle.assert_close(result, expected, allowed(operation, row, operands, engine), operation)


@engines
@rows
def test_engine_writes_the_whole_of_any_output(row: Row, engine: str) -> None:
    """plan.run over NaN, into contiguous memory, every second entry of a larger array, and axes in reverse."""
    operands = row.operands(2)
    for operation, (first, second) in OPERATIONS.items():
        if not takes(engine, operation, row):
            continue
        expected, bound = run(operation, row, operands, "reference"), allowed(operation, row, operands, engine)
        shape = expected.shape
        wide = np.full(tuple(2 * size for size in shape), np.nan, row.dtype)
        outputs = [
            np.full(shape, np.nan, row.dtype),
            wide[(slice(1, None, 2),) * len(shape)],
            np.full(shape[::-1], np.nan, row.dtype).transpose()[(slice(None, None, -1),) * len(shape)],
        ]
        for out in outputs:
            plan(operation, row, engine).run(operands[first], operands[second], out)
            oracle.assert_close(out, expected, bound, operation)
        between = np.ones(wide.shape, dtype=bool)
        between[(slice(1, None, 2),) * len(shape)] = False
        assert np.isnan(wide[between]).all(), "wrote between the entries of the output"


@rows
def test_im2row_takes_examples_in_parts(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """One example at a time is the same."""
    operands = row.operands(10)
    problems = {operation: plan(operation, row, "im2row").problem for operation in OPERATIONS}
    monkeypatch.setattr(im2row, "CHUNK", 1)
    for operation, (first, second) in OPERATIONS.items():
        out = np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
        im2row.ENGINE.build(problems[operation])(operands[first], operands[second], out)
        oracle.assert_close(out, row.expected(operation, operands), row.allowed(operation, operands), operation)


def reversed_axes(array: Array) -> Array:
    return np.flip(np.flip(array).copy())


def spread(array: Array) -> Array:
    """The same values in every second place of a larger array of NaN."""
    wide = np.full(tuple(2 * size for size in array.shape), np.nan, array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def channels_last(array: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def broadcast(array: Array) -> Array:
    """One example and one position of the last axis, repeated without being copied: strides of zero."""
    return np.broadcast_to(array[:1, ..., :1], array.shape)


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


LAYOUTS: list[Callable[[Array], Array]] = [
    np.asfortranarray,
    reversed_axes,
    spread,
    channels_last,
    broadcast,
    read_only,
    swapped,
]
LAID_OUT = [
    "affine in groups",
    "signal",
    "graph",
    "tiled in groups",
    "tiled on a graph",
    "image, every axis its own",
    "image, local",
    "volume, strided, tiled, bordered",
    "rank four, complex and circular",
]


@engines
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", LAID_OUT)
def test_operands_of_any_strides(name: str, layout: Callable[[Array], Array], engine: str) -> None:
    """The values count, not where they lie; operands are left as they were."""
    row = BY_NAME[name]
    laid_out = {role: layout(array) for role, array in row.operands(3).items()}
    plain = {role: np.array(array, dtype=row.dtype, order="C") for role, array in laid_out.items()}
    for operation, (first, second) in OPERATIONS.items():
        if takes(engine, operation, row):
            result = run(operation, row, laid_out, engine)
            assert result.dtype == row.dtype
            assert result.dtype.isnative
            bound = allowed(operation, row, plain, engine)
            oracle.assert_close(result, row.expected(operation, plain), bound, operation)
            for role in (first, second):
                np.testing.assert_array_equal(laid_out[role], plain[role])
            if layout is not swapped:
                out = np.full(result.shape, np.nan, row.dtype)
                plan(operation, row, engine).run(laid_out[first], laid_out[second], out)
                oracle.assert_close(out, result, bound, operation)


def order_of(array: Array) -> list[int]:
    """The axes from the outermost to the innermost in memory."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


@of_few
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_result_has_the_memory_order_of_the_data(order: tuple[int, ...], engine: str) -> None:
    row = BY_NAME["image"]

    def laid_out(array: Array) -> Array:
        return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))

    operands = row.operands()
    data = {role: laid_out(array) for role, array in operands.items() if role != "weight"}
    for operation in ("conv", "conv_transpose"):
        assert order_of(run(operation, row, {**operands, **data}, engine)) == list(order)


@pytest.mark.parametrize("name", ["affine", "image", "image, local", "tiled", "depthwise"])
def test_weight_gradient_lies_hidden_channels_innermost(name: str) -> None:
    row = BY_NAME[name]
    result = run("conv_weight", row, row.operands(), "auto")
    assert result.transpose(weight_order(row.rank, bool(row.periods))).flags.c_contiguous


@engines
@rows
def test_the_same_bits_again(row: Row, engine: str) -> None:
    """Called twice, and once more on a callable built anew."""
    operands = row.operands(4)
    for operation, (first, second) in OPERATIONS.items():
        if takes(engine, operation, row):
            once, twice = (run(operation, row, operands, engine) for _ in range(2))
            problem = plan(operation, row, engine).problem
            anew = np.full_like(once, np.nan)
            dispatch.ENGINES[engine].build(problem)(operands[first], operands[second], anew)
            assert once.tobytes() == twice.tobytes() == anew.tobytes()


@engines
@pytest.mark.parametrize("name", [row.name for row in GRID if isinstance(row.groups, tuple)])
def test_outside_the_graph_nothing_is_read_and_the_gradient_is_zero(name: str, engine: str) -> None:
    row = BY_NAME[name]
    operands = row.operands(5)
    mask = row.options["groups"].reshape(row.out, row.visible[1], *(1,) * row.rank)
    outside = np.broadcast_to(~mask, row.weight)
    spoilt = {**operands, "weight": np.where(outside, np.array(np.nan, row.dtype), operands["weight"])}
    for operation in ("conv", "conv_transpose"):
        if takes(engine, operation, row):
            expected = run(operation, row, operands, engine)
            assert run(operation, row, spoilt, engine).tobytes() == expected.tobytes()
    if takes(engine, "conv_weight", row):
        everything = {role: np.full_like(array, np.nan) for role, array in operands.items()}
        gradient = run("conv_weight", row, everything, engine)
        assert (gradient[outside] == 0).all()
        assert np.isnan(gradient[~outside]).all()


def kind(array: Array) -> Array:
    """0 for a finite value, and different numbers for inf, −inf and NaN.

    IEEE 754 is about real numbers: of a complex one only whether it is finite is fixed (a factor of 1 + 0i, which a
    GEMM may apply, makes NaN of an infinite part).
    """
    if np.iscomplexobj(array):
        return np.where(np.isfinite(array), 0, 1)
    return np.isposinf(array) + 2 * np.isneginf(array) + 3 * np.isnan(array)


def assert_same_kinds(result: Array, expected: Array, allowed: Array, what: str) -> None:
    np.testing.assert_array_equal(kind(result), kind(expected), err_msg=what)
    finite = np.isfinite(expected)
    oracle.assert_close(result[finite], expected[finite], np.broadcast_to(allowed, result.shape)[finite], what)


@rows
def test_nan_and_infinity_travel_as_ieee_says(row: Row) -> None:
    """One NaN or infinity, or a few, in either operand: where the result is not finite is the same for all."""
    random = np.random.default_rng(6)
    for special in ([np.nan], [np.inf], [-np.inf], [np.inf, -np.inf, np.nan]):
        for operation, (first, second) in OPERATIONS.items():
            for spoilt in (first, second):
                operands = row.operands(7)
                if operands[spoilt].size:
                    operands[spoilt].flat[random.integers(operands[spoilt].size, size=len(special))] = special
                expected = run(operation, row, operands, "reference")
                as_written = row.allowed(operation, operands)
                what = f"{operation}, {special} in {spoilt}"
                assert_same_kinds(expected, row.expected(operation, operands), as_written, f"reference, {what}")
                for engine in ENGINES:
                    if takes(engine, operation, row):
                        result = run(operation, row, operands, engine)
                        within = allowed(operation, row, operands, engine)
                        assert_same_kinds(result, expected, within, f"{engine}, {what}")


@of_few
def test_a_zero_border_takes_part_in_the_products(engine: str) -> None:
    """0 · inf is NaN in conv and conv_weight; what conv_transpose sends into the border is dropped."""
    three, inf = np.ones((1, 1, 3)), np.array([[[1.0, np.inf]]])
    conv = triconv.conv(three, inf, padding=1, engine=engine)
    np.testing.assert_array_equal(conv, [[[np.inf, np.inf, np.inf, np.nan]]])
    hidden = np.array([[[np.inf, 1.0, 1.0, 1.0]]])
    np.testing.assert_array_equal(triconv.conv_weight(three, hidden, 2, padding=1, engine=engine), [[[np.nan, np.inf]]])
    transpose = triconv.conv_transpose(
        np.array([[[1.0, 1.0, 1.0, np.inf]]]), np.ones((1, 1, 2)), padding=1, engine=engine
    )
    np.testing.assert_array_equal(transpose, [[[2.0, 2.0, np.inf]]])


@engines
def test_random_normal_operands_are_not_degenerate(engine: str) -> None:
    """The check itself can fail: one wrong entry is seen, in every operation."""
    row = BY_NAME["image"]
    operands = row.operands(8)
    for operation in OPERATIONS:
        if not takes(engine, operation, row):
            continue
        bound = allowed(operation, row, operands, engine)
        result = run(operation, row, operands, engine)
        wrong, largest = result.copy(order="C"), int(np.abs(result).argmax())
        wrong.flat[largest] *= 3 if dispatch.ENGINES[engine].spreads else 1 + 1e-3
        with pytest.raises(AssertionError, match="1 of"):
            oracle.assert_close(wrong, result, bound)
        wrong.flat[largest] = np.nan
        with pytest.raises(AssertionError, match="1 of"):
            oracle.assert_close(wrong, result, bound)
    assert normal(np.random.default_rng(0), (3,), "complex64").imag.all()
