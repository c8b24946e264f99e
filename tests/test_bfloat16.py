"""bfloat16 operands multiplied as they are stored: the grid, every way, odd numbers of channels, threads, PyTorch."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from grid import BY_NAME, GRID, OPERATIONS, RESULT, Row
from numpy.typing import NDArray
from program import python
from test_copy import borders
from test_direct import ORDERS, VECTORS

import triconv
from triconv import dispatch, memory
from triconv import torch as front
from triconv.engines import bfloat16
from triconv.form import Problem, Role, weight_order
from triconv.kernels import prepared, ways
from triconv.kernels.compile import assembly
from triconv.kernels.contract import Column, Contraction
from triconv.kernels.copy import Dim, Move, Stored
from triconv.kernels.finite import all_finite
from triconv.kernels.target import NAMED, lacking, target
from triconv.kernels.words import BFLOAT16 as HALF
from triconv.kernels.words import GATHERED, PAIRS

Array = NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ROUNDING = 2.0**-8
"""Half a unit in the last of eight bits, by which one rounding to bfloat16 may change a number."""

pytestmark = [
    pytest.mark.skipif(not target().pairs, reason="this processor multiplies no pairs of bfloat16"),
    pytest.mark.usefixtures("poisoned"),
]
operations = pytest.mark.parametrize("operation", OPERATIONS)
rows = pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)

HERE = f"import sys; sys.path[:0] = {sys.path!r}; import test_bfloat16; test_bfloat16."
"""Begins a program that calls a function of this module."""

LARGE = [
    Row("gradient in pieces", (8, 16, 20, 20), (1, 1), 32),
    Row("sum in parts", (4, 128, 28, 28), (1, 1), 128),
    Row("edges, a gap and panels", (4, 256, 9, 9), (3, 3), 384, padding=1),
    Row("odd everywhere", (5, 17, 13, 12), (3, 3), 23, padding=1, stride=2, visible_size=(13, 12)),
    Row("three channels", (4, 3, 40, 40), (7, 7), 64, padding=3, stride=2, visible_size=(40, 40)),
    Row("lines of odd channels", (3, 5, 9, 14), (2, 3), 7, padding=(1, 2), stride=(1, 2), visible_size=(9, 14)),
    Row("odd groups", (3, 15, 14, 14), (3, 3), 21, padding=1, groups=3, dilation=2),
    Row("local", (6, 8, 9, 9), (3, 3), 16, padding=1, bank="local"),
    Row("tiled", (4, 10, 12, 12), (3, 3), 6, padding=1, bank=2),
    Row("volume", (2, 6, 8, 8, 8), (3, 3, 3), 40, padding=1),
    Row("line", (8, 32, 200), (9,), 48, padding=4),
]


def halves(row: Row, number: int = 1) -> dict[str, Array]:
    """The row's operands, rounded to bfloat16."""
    return {role: array.real.astype(BFLOAT16) for role, array in row.operands(number).items()}


def known(row: Row, operation: str, operands: dict[str, Array]) -> tuple[Array, Array]:
    """What operands in bfloat16 make, and how far a float32 sum of them, rounded once, may lie from it.

    By the oracle, which would take minutes over many channels: there, by another engine in double precision.
    """
    wide = {role: array.astype("float64") for role, array in operands.items()}
    if row in LARGE:
        expected, magnitude, terms = (
            run(row, operation, {role: change(array) for role, array in wide.items()}, engine="direct")
            for change in (np.array, np.abs, np.ones_like)
        )
        allowed = oracle.bound(terms, magnitude, "float32")
    else:
        single = {role: array.astype("float32") for role, array in operands.items()}
        expected, allowed = row.expected(operation, wide), row.allowed(operation, single)
    return expected, allowed + ROUNDING * (np.abs(expected) + allowed)


def problem_of(row: Row, operation: str) -> Problem:
    """The problem as it is stored, whoever takes it."""
    found = triconv.explain(operation, row.visible, row.weight, engine="reference", **row.options).problem
    return replace(found, dtype="bfloat16", itemsize=2)


def takes(row: Row, operation: str) -> bool:
    """Whether the engine takes it; where it does not, asking for it says why."""
    problem = problem_of(row, operation)
    if reasons := bfloat16.why_not(problem):
        with pytest.raises(ValueError, match="cannot take this problem") as refusal:
            dispatch.choose(problem, "bfloat16")
        assert all(reason in str(refusal.value) for reason in reasons)
    return not reasons


def run(row: Row, operation: str, operands: dict[str, Array], **options: Any) -> Array:
    result: Array = row.call(getattr(triconv, operation), operation, operands, **options)
    return result


@operations
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("row", [*GRID, *LARGE], ids=lambda row: row.name)
def test_the_grid(row: Row, order: str, operation: str) -> None:
    operands = halves(row)
    if takes(row, operation):
        result = run(row, operation, {r: ORDERS[order](a) for r, a in operands.items()}, engine="bfloat16")
        assert result.dtype == BFLOAT16
        oracle.assert_close(result.astype("float32"), *known(row, operation, operands), operation)


@operations
@pytest.mark.parametrize("row", [BY_NAME["groups"], *LARGE[-6:]], ids=lambda row: row.name)
def test_operands_that_repeat_a_number(row: Row, operation: str) -> None:
    """Along each axis and along all, as the gradient of a sum does: a pair is not what lies beside one number then."""
    for repeated in OPERATIONS[operation]:
        whole = halves(row)
        for axes in [*((axis,) for axis in range(whole[repeated].ndim)), tuple(range(whole[repeated].ndim))]:
            one = whole[repeated][tuple(slice(1 if axis in axes else None) for axis in range(whole[repeated].ndim))]
            operands = {**whole, repeated: np.broadcast_to(one, whole[repeated].shape)}
            result = run(row, operation, operands, engine="bfloat16")
            what = f"{operation}, {repeated}, {axes}"
            oracle.assert_close(result.astype("float32"), *known(row, operation, operands), what)


def test_the_grid_is_taken_where_two_are_summed() -> None:
    """All rows but channel graphs, transposes with borders and sums of fewer than two."""
    for row in GRID:
        for operation in OPERATIONS:
            groups = row.groups if isinstance(row.groups, int) else 1
            summed = {"conv": row.visible[1] // groups, "conv_transpose": row.out // groups}
            declined = (
                not isinstance(row.groups, int)
                or summed.get(operation, row.visible[0]) < 2
                or (operation == "conv_transpose" and row.border != "zero" and any(b != "zero" for b in per_axis(row)))
            )
            assert takes(row, operation) is not declined, row.name


def per_axis(row: Row) -> tuple[str, ...]:
    return tuple(map(str, oracle.per_axis(row.border, row.rank)))


def test_every_way_to_run_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each vector with each choice of exact edges, in turn in every memory order; gradients in pieces if they can."""
    tried: Counter[tuple[str, str]] = Counter()
    number = 0
    for row in GRID:
        for operation in OPERATIONS:
            if 0 in row.visible or not takes(row, operation):
                continue
            problem, operands = problem_of(row, operation), halves(row)
            expected, allowed = known(row, operation, operands)
            inner = bfloat16.pairs(problem)
            for vector in ways.vectors(inner):
                for exact in sorted({(False,) * row.rank, *ways._exact_choices(inner, vector)}):

                    def chosen(
                        problem: Problem, strides: Any, _: bool, copied: Any, how: tuple[Any, ...] = (vector, exact)
                    ) -> ways.Way:
                        return ways.way(problem, how[0], strides, how[1], 1, copied)

                    monkeypatch.setattr(prepared, "best_way", chosen)
                    monkeypatch.setattr(prepared, "pieces", lambda best: 2 if can_be_cut(best) else 1)
                    number, tried[operation, vector] = number + 1, tried[operation, vector] + 1
                    lie = list(ORDERS.values())[number % len(ORDERS)]
                    first, second = (lie(operands[role]) for role in OPERATIONS[operation])
                    out = lie(np.full(expected.shape, np.nan, BFLOAT16))
                    bfloat16.build(problem)(first, second, out)
                    what = f"{row.name}, {operation}, {vector}, {exact}, {number % len(ORDERS)}"
                    oracle.assert_close(out.astype("float32"), expected, allowed, what)
    assert set(tried) >= {(operation, vector) for operation in OPERATIONS for vector in VECTORS if vector != "channel"}


def can_be_cut(best: ways.Way) -> bool:
    return best.asked.produces is Role.WEIGHT and best.vector != "example" and best.asked.batch % 2 == 0


@pytest.mark.parametrize("row", [*GRID, *LARGE[3:6]], ids=lambda row: row.name)
def test_nan_and_infinity_travel_as_ieee_says(row: Row) -> None:
    random = np.random.default_rng(6)
    for operation, (first, second) in OPERATIONS.items():
        for spoilt in (first, second) if takes(row, operation) else ():
            for special in ([np.nan], [np.inf], [np.inf, -np.inf]):
                operands = halves(row, 7)
                if operands[spoilt].size:
                    operands[spoilt].flat[random.integers(operands[spoilt].size, size=len(special))] = special
                wide = {role: array.astype("float32") for role, array in operands.items()}
                # The loops of the reference would take minutes for the large ones.
                expected = run(row, operation, wide, engine="im2row" if row in LARGE else "reference")
                result = run(row, operation, operands, engine="bfloat16").astype("float32")
                np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
                there = ~np.isfinite(expected) & ~np.isnan(expected)
                np.testing.assert_array_equal(result[there], expected[there])


@pytest.mark.parametrize("padding", range(3))
def test_zeros_beside_a_line_make_no_nan_of_an_infinity(padding: int) -> None:
    """Wherever it is: lines of three channels have a zero before them, or behind, or neither."""
    row = Row("lines", (2, 3, 8), (3,), 4, stride=2, padding=padding, visible_size=(8,))
    assert bfloat16._lines(problem_of(row, "conv"))
    for place in np.ndindex(row.visible[1:]):
        operands = {role: ORDERS["channels last"](array) for role, array in halves(row).items()}
        operands["visible"][(0, *place)] = np.inf
        expected = run(row, "conv", {r: a.astype("float32") for r, a in operands.items()}, engine="reference")
        found = run(row, "conv", operands, engine="bfloat16").astype("float32")
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))


def test_lines_leave_few_pairs_with_one_number() -> None:
    """A kernel of seven taps by three channels has eleven pairs a line, instead of fourteen."""
    plan = triconv.explain("conv", (8, 3, 64, 64), (64, 3, 7, 7), stride=2, padding=3, dtype="bfloat16")
    assert "11 deep" in plan.engine.describe(plan.problem)
    for change in ({"dilation": 2}, {"stride": 1}, {"border": "circular"}):
        options = {"stride": 2, "padding": 3, **change}
        other = triconv.explain("conv", (8, 3, 64, 64), (64, 3, 7, 7), engine="bfloat16", dtype="bfloat16", **options)
        assert bfloat16._lines(other.problem) is None


@operations
def test_whole_numbers_are_rounded_once_to_the_nearest_even(operation: str) -> None:
    """Their sums are exact in float32, so every bit of the result is known."""
    for row in LARGE:
        rng = np.random.default_rng(0)
        shapes = {role: getattr(row, role) for role in ("visible", "hidden", "weight")}
        operands = {role: rng.integers(-8, 9, shape).astype(BFLOAT16) for role, shape in shapes.items()}
        wide = {role: array.astype("float64") for role, array in operands.items()}
        exact = run(row, operation, wide, engine="direct")
        assert np.abs(exact).max() > 256 or row.bank  # beyond what bfloat16 holds exactly
        for order in ORDERS.values():
            found = run(row, operation, {role: order(array) for role, array in operands.items()}, engine="bfloat16")
            np.testing.assert_array_equal(found, exact.astype(BFLOAT16), err_msg=row.name)


@operations
@pytest.mark.parametrize("row", LARGE, ids=lambda row: row.name)
def test_the_same_bits_for_any_number_of_threads(row: Row, operation: str) -> None:
    operands, bits = halves(row), set()
    for number in (1, 2, 3, 8):
        with triconv.threads(number):
            bits.add(run(row, operation, operands, engine="bfloat16").tobytes())
    assert len(bits) == 1


def test_numbers_too_small_to_be_normal_are_zero() -> None:
    """As the processor has it; where precision is "highest", and in other engines, they are not."""
    tiny, large = np.full((1, 2, 1), 2.0**-130).astype(BFLOAT16), np.full((1, 2, 1), 2.0**127).astype(BFLOAT16)
    assert tiny.all()
    assert triconv.conv(tiny, large, engine="bfloat16").item() == 0
    assert triconv.conv(tiny, large, precision="highest").item() == 0.25
    with pytest.raises(ValueError, match='precision="highest" keeps numbers that are too small'):
        triconv.conv(tiny, large, precision="highest", engine="bfloat16")


def test_the_choice() -> None:
    """Large problems of bfloat16 are computed in it, those of float16 and float32 are not."""
    shapes = (8, 256, 28, 28), (256, 256, 1, 1)
    plan = triconv.explain("conv", *shapes, dtype="bfloat16")
    assert (plan.engine.name, plan.problem.dtype) == ("bfloat16", "bfloat16")
    assert set(plan.why_not) == set(dispatch.ENGINES)
    assert "engine         bfloat16" in str(plan)
    assert plan.bytes == triconv.explain("conv", *shapes).bytes // 2
    # Without what it takes to convert the operands, float32 would seem the cheaper.
    few = triconv.explain("conv_weight", (8, 64, 56, 56), (64, 64, 1, 1), dtype="bfloat16")
    assert few.engine.name == "bfloat16"
    half = triconv.explain("conv", *shapes, dtype="float16")
    assert half.problem.dtype == "float32"
    assert half.why_not["bfloat16"] == "it multiplies bfloat16, not float16"
    assert "bfloat16" not in triconv.explain("conv", *shapes).why_not
    with pytest.raises(ValueError, match="bfloat16: it multiplies bfloat16, not float32"):
        triconv.explain("conv", *shapes, engine="bfloat16")
    direct = triconv.explain("conv", *shapes, dtype="bfloat16", engine="direct")
    assert (direct.engine.name, direct.problem.dtype) == ("direct", "float32")


@operations
@pytest.mark.parametrize("row", LARGE, ids=lambda row: row.name)
def test_tensors_and_their_gradients(row: Row, operation: str) -> None:
    """The same bits as arrays; and gradients are the operations that the table of derivatives says."""
    first, second = OPERATIONS[operation]
    operands = halves(row)
    tensors = {r: torch.tensor(a.astype("float32")).to(torch.bfloat16) for r, a in operands.items()}
    a, b = (tensors[role].requires_grad_() for role in (first, second))
    shared = {name: value for name, value in row.options.items() if name != "groups"}
    options = {**shared, "groups": row.groups, "engine": "bfloat16", **row.extra(operation)}
    result = getattr(front, operation)(a, b, **options)
    assert result.dtype is torch.bfloat16
    np.testing.assert_array_equal(numbers(result), run(row, operation, operands, engine="bfloat16").astype("float32"))
    cotangent = tensors[RESULT[operation]].detach()
    gradients = torch.autograd.grad(result, (a, b), cotangent)
    for role, gradient in zip((first, second), gradients, strict=True):
        (inner,) = (name for name, made in RESULT.items() if made == role)
        oracle.assert_close(numbers(gradient), *known(row, inner, operands), f"{operation}, {role}")


def numbers(tensor: torch.Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


@pytest.mark.parametrize("name", [name for name in NAMED if not lacking(name) and not target(name).pairs])
def test_targets_without_the_instruction_compute_in_float32(name: str) -> None:
    assert python(f"{HERE}compute_in_float32()", TRICONV_TARGET=name) == "same"


def compute_in_float32() -> None:
    """The bits of the float32 result, rounded once; the engine itself says why it cannot."""
    row = BY_NAME["image"]
    operands = halves(row)
    for operation in OPERATIONS:
        found = run(row, operation, operands)
        wide = run(row, operation, {role: array.astype("float32") for role, array in operands.items()})
        np.testing.assert_array_equal(found, wide.astype(BFLOAT16))
        with pytest.raises(ValueError, match="this processor multiplies no pairs"):
            run(row, operation, operands, engine="bfloat16")
    print("same")


def test_checked_kernels_find_nothing() -> None:
    assert python(f"{HERE}compute_checked()", TRICONV_CHECKED="1") == "checked"


def compute_checked() -> None:
    for row in (BY_NAME["image"], BY_NAME["tiled in groups"], BY_NAME["affine in groups"], *LARGE[-8:-3]):
        operands = halves(row)
        for operation in OPERATIONS:
            for order in list(ORDERS.values()) if takes(row, operation) else ():
                given = {role: order(array) for role, array in operands.items()}
                result = run(row, operation, given, engine="bfloat16").astype("float32")
                oracle.assert_close(result, *known(row, operation, operands), f"{row.name}, {operation}")
    print("checked")


def test_workspace_is_stated() -> None:
    for row in LARGE:
        for operation, (first, second) in OPERATIONS.items():
            plan = dispatch.choose(problem_of(row, operation), "bfloat16")
            operands, out = halves(row), np.empty(getattr(row, RESULT[operation]), BFLOAT16)
            plan.run(operands[first], operands[second], out)
            memory.release()
            tracemalloc.start()
            plan.engine.build(plan.problem)(operands[first], operands[second], out)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= plan.workspace + (1 << 18), f"{row.name}, {operation}"


# The words: pairs multiplied, gathered and rounded.


def test_the_instruction_is_used() -> None:
    made = Contraction(PAIRS, ((0, 0),), (Column(0, 0, 0, 16),), 8, 1, 16, stored=HALF)
    text = assembly(made, target())
    assert "vdpbf16ps" in text
    assert "vcvtneps2bf16" in text


@pytest.mark.parametrize("seed", range(40))
def test_pairs_are_gathered(seed: int) -> None:
    """Copies of drawn dimensions, whose pairs are two positions of an axis that lies anywhere."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(n) for n in rng.choice([1, 2, 3, 9, 16, 17, 40], 3))
    order, to = rng.permutation(4), rng.permutation(3)
    source = rng.integers(1, 1 << 15, [(2, *sizes)[axis] for axis in order], dtype=np.uint16)
    seen = source.transpose(np.argsort(order))  # pair, a, b, c
    pads = [borders(size)[str(rng.choice(["plain", "zeros"]))] for size in sizes]
    room = [max(t + n for _, t, n, *_ in each) for each in pads]
    target_ = np.full([room[axis] for axis in to], np.nan, "float32").transpose(np.argsort(to))
    steps = [step // 2 for step in seen.strides]
    dims = [Dim(p, s, t // 4) for p, s, t in zip(pads, steps[1:], target_.strides, strict=True)]
    Move.of(dims, PAIRS, Stored(GATHERED, "", steps[0])).run(source, target_)
    whole = np.zeros((2, *room), np.uint16)
    whole[np.ix_([0, 1], *(inside(each) for each in pads))] = seen
    found = np.ascontiguousarray(target_).view(np.uint16).reshape(*room, 2)
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), whole)


def inside(pieces: Any) -> Array:
    """The positions of the target that have a source."""
    return np.concatenate([np.arange(t, t + n) for s, t, n, *_ in pieces if s >= 0])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_copies_round(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    source = rng.standard_normal((5, 33, 40), np.float32)
    source[0, 0, :4] = np.inf, -np.inf, np.nan, 0
    result = np.empty([source.shape[axis] for axis in order], BFLOAT16).transpose(np.argsort(order))
    sizes = zip(source.shape, source.strides, result.strides, strict=True)
    Move.of([Dim(((0, 0, n),), s // 4, t // 2) for n, s, t in sizes], PAIRS, Stored("", HALF)).run(source, result)
    np.testing.assert_array_equal(result.astype("float32"), source.astype(BFLOAT16).astype("float32"))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("size", [1, 15, 1000])
def test_what_is_finite(value: float, size: int) -> None:
    array = np.full(size, np.finfo("float32").max / 2).astype(BFLOAT16)
    for kind in (BFLOAT16, np.int16):
        assert all_finite(array.view(kind))
        for place in {0, size // 2, size - 1}:
            spoilt = array.copy()
            spoilt[place] = value
            assert not all_finite(spoilt.view(kind))
            assert not all_finite(np.repeat(spoilt, 2).view(kind)[::2])


def test_results_lie_as_others_do() -> None:
    row = BY_NAME["image"]
    operands = {role: ORDERS["channels last"](array) for role, array in halves(row).items()}
    assert np.moveaxis(run(row, "conv", operands, engine="bfloat16"), 1, -1).flags.c_contiguous
    gradient = run(row, "conv_weight", operands, engine="bfloat16")
    assert gradient.transpose(weight_order(2, False)).flags.c_contiguous
