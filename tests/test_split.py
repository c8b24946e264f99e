"""float32 numbers in halves: how they are split, every problem that is multiplied so, and what cannot be split."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from bounds import HALVED, problem_of
from grid import OPERATIONS, RESULT, Row
from numpy.typing import NDArray
from test_direct import ORDERS
from test_matrices import HERE

import triconv
from triconv.after import After
from triconv.dispatch import ENGINES
from triconv.engines import bfloat16, split
from triconv.kept import Kept
from triconv.kernels import gradients
from triconv.kernels import halves as banded
from triconv.kernels.block import Block
from triconv.kernels.compile import assembly
from triconv.kernels.contract import Column, Contraction
from triconv.kernels.copy import Dim, Move, Stored
from triconv.kernels.index import Index
from triconv.kernels.matrices import best_matrices
from triconv.kernels.registers import SIDE
from triconv.kernels.target import target
from triconv.kernels.words import APART, LEAST_DATA, LEAST_WEIGHT, MOST_SPLIT, SPLIT, WHOLE, bits_of

Array = NDArray[Any]

able = pytest.mark.skipif(not target().matrices, reason="this processor, or its system, multiplies no matrices")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

GIVEN = [
    Row("affine", (3, 8), (), 16, dtype="float32"),
    Row("line", (2, 24, 37), (9,), 32, padding=4, dtype="float32"),
    Row("image", (3, 32, 9, 11), (3, 3), 48, padding=1, dtype="float32"),
    Row("strided", (2, 64, 11, 14), (3, 2), 32, stride=(2, 3), padding=(1, 0), dtype="float32"),
    Row("more stride than kernel", (2, 16, 9, 9), (1, 1), 16, stride=2, dtype="float32"),
    Row("dilated", (1, 48, 17, 12), (2, 3), 16, dilation=(3, 2), padding=(2, 3), dtype="float32"),
    Row("circular", (2, 32, 10, 8), (3, 3), 16, padding=1, border=("circular", "reflect"), dtype="float32"),
    Row("few and odd panels", (2, 20, 7, 8), (3, 3), 8, padding=1, dtype="float32"),
    Row("groups", (2, 48, 9, 7), (3, 3), 96, padding=1, groups=3, dtype="float32"),
    Row("small groups", (4, 24, 9, 8), (2, 3), 36, padding=1, groups=6, dtype="float32"),
    Row("large groups", (2, 64, 10, 9), (3, 3), 96, padding=1, stride=2, groups=2, dtype="float32"),
    Row("volume", (2, 16, 6, 5, 7), (3, 2, 3), 32, padding=(1, 0, 1), dtype="float32"),
    Row("long lines", (1, 32, 4, 100), (3, 3), 16, padding=(1, 2), dtype="float32"),
    Row("bands of one example", (2, 32, 24, 10), (3, 3), 16, padding=1, dtype="float32"),
    Row("bands of a strided transpose", (1, 16, 24, 18), (4, 4), 64, stride=2, padding=1, dtype="float32"),
    Row("a large weight", (4, 64, 5, 6), (3, 3), 96, padding=1, dtype="float32"),
    Row("blocks of examples", (8, 32, 7, 7), (3, 3), 48, padding=1, dtype="float32"),
    Row("short lines of many examples", (32, 16, 5, 3), (1, 2), 32, padding=(0, 1), dtype="float32"),
    Row("few positions", (12, 64, 3), (1,), 32, dtype="float32"),
    Row("more columns than rows", (4, 8, 12, 13), (3, 3), 64, padding=2, dilation=2, dtype="float32"),
    Row("more rows than columns", (4, 128, 9, 10), (1, 1), 16, dtype="float32"),
    Row("odd rows", (2, 21, 10, 10), (3, 3), 32, padding=1, dtype="float32"),
    Row("odd columns", (2, 32, 10, 10), (3, 3), 21, padding=1, dtype="float32"),
    Row("residues", (4, 16, 13, 23), (2, 3), 32, stride=(2, 4), padding=(0, 2), dilation=(1, 3), dtype="float32"),
    Row("strided taps of one", (6, 32, 8, 8), (1, 1), 48, stride=2, dtype="float32"),
    Row("a long line", (4, 32, 700), (5,), 16, padding=2, dtype="float32"),
    Row("strided taps, turned", (4, 32, 8, 8), (1, 1), 16, stride=2, dtype="float32"),
    Row("windows in the padding", (2, 8, 4, 5), (2, 1), 16, padding=((2, 2), (0, 0)), dtype="float32"),
    Row("no tap meets", (2, 16, 4), (1,), 16, stride=5, padding=((13, 1),), dtype="float32"),
    Row("padding before all", (2, 16, 3, 5), (1, 2), 16, padding=((0, 0), (9, 0)), dtype="float32"),
    Row("padding behind all", (4, 16, 5), (2,), 16, padding=((0, 9),), stride=3, dtype="float32"),
    Row("lines of three channels", (2, 3, 20, 22), (7, 7), 48, stride=2, padding=3, dtype="float32"),
    Row("lines of odd channels", (3, 17, 9, 10), (3, 3), 23, padding=1, dtype="float32"),
    Row("lines without padding", (2, 5, 7, 12), (2, 3), 20, dtype="float32"),
    Row("a line of one channel", (2, 1, 40), (9,), 16, stride=3, padding=((5, 2),), dtype="float32"),
    Row("lines of even positions", (2, 5, 6, 2), (3, 4), 17, padding=(1, 1), dtype="float32"),
    Row("lines of long windows", (2, 11, 5, 14), (2, 5), 32, padding=(0, 4), dtype="float32"),
    Row("lines of few pairs", (2, 4, 9, 8), (3, 3), 6, padding=1, dtype="float32"),
    Row("lines of a volume", (2, 3, 5, 6, 8), (2, 3, 3), 18, stride=(2, 1, 1), padding=1, dtype="float32"),
    Row("groups of odd columns", (2, 32, 7, 10), (3, 3), 80, padding=1, groups=2, dtype="float32"),
    Row("lines of more padding than stride", (2, 3, 5, 8), (3, 3), 16, stride=(1, 5), padding=2, dtype="float32"),
    Row("a border of lines", (2, 16, 8, 9), (3, 3), 16, padding=1, border=("reflect", "zero"), dtype="float32"),
]
"""Sums have an even number of channels, or of examples, for some operation."""

ROWS = [replace(row, visible_size=row.visible[2:]) for row in GIVEN]


def takes(row: Row, operation: str) -> bool:
    """Whether it is taken where the processor multiplies matrices."""
    return all("multiplies no matrices" in reason for reason in split.why_not(problem_of(operation, row)))


PAIRS = [(row, operation) for row in ROWS for operation in OPERATIONS if takes(row, operation)]


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of which a band of few lines, or a weight of few channels, fills half."""
    for module in (banded, gradients):
        monkeypatch.setattr(module, "cache_bytes", lambda: (1 << 12, 1 << 16))
    forget()
    yield
    forget()


def forget() -> None:
    """Bands and chunks chosen for other caches."""
    for chosen in (split._best, banded.halves, gradients.gradient):
        chosen.cache_clear()  # type: ignore[attr-defined]


def random_in(order: Callable[[Array], Array], row: Row) -> dict[str, Array]:
    return {role: order(array) for role, array in row.operands().items()}


def laid_out(array: Array, order: tuple[int, ...]) -> Array:
    """The same numbers, the axes in this order in memory."""
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


def allowed(row: Row, operation: str, operands: dict[str, Array]) -> Array:
    """What a sum may be off, and what its products may: HALVED of each, derived in engines/split.py."""
    sizes = {role: np.abs(array).astype("float64") for role, array in operands.items()}
    found: Array = row.allowed(operation, operands) + HALVED * row.expected(operation, sizes)
    return found


# Halves


@pytest.fixture(scope="module")
def numbers() -> Array:
    """Numbers of all sizes that can be split, and zeros of either sign; an even number."""
    random = np.random.default_rng(0)
    sizes = random.uniform(np.log2(LEAST_DATA), np.log2(MOST_SPLIT), 2000)
    plain = [0.0, -0.0, LEAST_DATA, -MOST_SPLIT, 1.0, 1 + 2.0**-23, 255 / 256, 1 + 2.0**-8]
    return np.concatenate([np.float32(random.choice([-1, 1], 2000) * 2**sizes), np.float32(plain)])


def split_up(source: Array, dims: list[Dim], how: Stored, low: int, size: int) -> tuple[Array, bool]:
    """What a copy of halves writes, two to a number, and whether it marks anything."""
    target, mark = np.full(size, np.nan, "float32"), np.zeros(1, "float32")
    (call,) = Move.of(dims, SPLIT, how).halves(low).calls(source, target, 0, 1, mark)
    call.run()
    return target.view(BFLOAT16).astype("float32").reshape(size, 2), bool(mark[0])


@able
@pytest.mark.parametrize("how", [WHOLE, APART])
@pytest.mark.parametrize("turned", [False, True])
def test_halves(numbers: Array, how: str, turned: bool) -> None:
    """The high one is the number rounded, the low one what that leaves over, rounded; two of them are side by side."""
    count = 31
    given = numbers[: 64 * count].reshape((32, 2 * count) if how == WHOLE else (64, count))
    step, other = (count, 0) if how == WHOLE else (2 * count, count)
    wide, high = (1, 40) if turned else (100, 1)
    low = 2000 if turned else 50
    dims = [Dim(((0, 0, 32),), step, wide), Dim(((0, 0, count),), 1, high)]
    found, marked = split_up(given, dims, Stored(how, "", other, bits_of(LEAST_DATA)), low, 4000)
    assert not marked
    rows, columns = np.ogrid[:32, :count]
    place = rows * wide + columns * high
    expected = given.reshape(32, count, 2) if how == WHOLE else given.reshape(32, 2, count).swapaxes(1, 2)
    upper = expected.astype(BFLOAT16).astype("float32")
    np.testing.assert_array_equal(found[place], upper)
    np.testing.assert_array_equal(found[place + low], (expected - upper).astype(BFLOAT16).astype("float32"))
    written = np.zeros(4000, bool)
    written[place] = written[place + low] = True
    assert np.isnan(found[~written, 1]).all()


def test_what_halves_leave_over(numbers: Array) -> None:
    """At most 2⁻¹⁷ of a number, and a low half is at most 2⁻⁸ of it: what the bound is made of."""
    high = numbers.astype(BFLOAT16).astype("float64")
    low = (numbers - high).astype("float32").astype(BFLOAT16).astype("float64")
    assert (np.abs(low) <= 2.0**-8 * np.abs(numbers)).all()
    assert (np.abs(numbers - high - low) <= 2.0**-17 * np.abs(numbers)).all()


@able
@pytest.mark.parametrize("how", [WHOLE, APART])
@pytest.mark.parametrize(
    "number", [np.inf, -np.inf, np.nan, 1e-45, LEAST_DATA / 2, -np.nextafter(np.float32(2.0**50), np.float32(np.inf))]
)
def test_what_cannot_be_split_is_marked(how: str, number: float) -> None:
    """Wherever it is, in whole vectors or what is left of them, and nothing beside what is copied."""
    source = np.ones(2 * 45, "float32")
    dims, stored = [Dim(((0, 0, 40),), 1, 1)], Stored(how, "", 45 * (how == APART), bits_of(LEAST_DATA))
    read = range(80) if how == WHOLE else [*range(40), *range(45, 85)]
    for place in range(90):
        source[place] = number
        assert split_up(source, dims, stored, 40, 80)[1] is (place in read), place
        source[place] = 1


# Problems


@able
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("row", "operation"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_every_row(row: Row, operation: str, order: str) -> None:
    """Within the bound, and the same bits for any number of threads."""
    assert_right(row, operation, order, (1, 2, 3, 8))
    operands = row.operands()
    found, other = (
        row.call(getattr(triconv, operation), operation, operands, engine=engine) for engine in ("split", "direct")
    )
    assert not np.array_equal(found, other)


def assert_right(row: Row, operation: str, order: str, threads: Sequence[int]) -> None:
    """A call of an engine built anew."""
    operands, found = random_in(ORDERS[order], row), []
    run = ENGINES["split"].build(problem_of(operation, row))
    a, b = (operands[role] for role in OPERATIONS[operation])
    for count in threads:
        with triconv.threads(count):
            out = ORDERS[order](np.full(getattr(row, RESULT[operation]), np.nan, "float32"))
            assert run(a, b, out)
            found.append(out)
    expected, within = row.expected(operation, operands), allowed(row, operation, operands)
    oracle.assert_close(found[0], expected, within, f"{row}, {operation}, {order}")
    assert len({one.tobytes() for one in found}) == 1


@able
@pytest.mark.usefixtures("small_caches")
@pytest.mark.parametrize(("row", "operation"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_every_row_in_bands(row: Row, operation: str) -> None:
    """Of parts of an example, in turn for a weight that is too large, and otherwise."""
    assert_right(row, operation, "channels last", (1, 3))


@able
@pytest.mark.parametrize("small", [False, True])
def test_drawn_problems(small: bool, request: pytest.FixtureRequest) -> None:
    """Of every rank, with any stride, dilation, padding and border, in some memory order."""
    if small:
        request.getfixturevalue("small_caches")
    random, taken = np.random.default_rng(5), Counter[str]()

    def some(values: Sequence[Any], rank: int) -> tuple[Any, ...]:
        return tuple(values[n] for n in random.integers(len(values), size=rank))

    while min(taken[name] for name in OPERATIONS) < 10:
        rank = int(random.integers(1, 5))
        kernel, stride = some([1, 2, 3, 4] if rank < 4 else [1, 2], rank), some([1, 1, 2, 3], rank)
        dilation, padding = some([1, 1, 2], rank), some([(0, 0), (1, 1), (2, 0), (0, 3)], rank)
        sizes = tuple(int(n) for n in random.integers(7, (30, 14, 10, 9)[rank - 1], size=rank))
        border = some(["zero", "zero", "zero", "circular", "reflect", "replicate"], rank)
        channels = some([16, 20, 24, 32, 48, 64], 2)
        visible = (int(random.choice([1, 2, 2, 3, 4])), channels[0], *sizes)
        row = Row("drawn", visible, kernel, channels[1], stride, padding, dilation, border=border, dtype="float32")
        row = replace(row, visible_size=sizes)
        for operation in OPERATIONS:
            if takes(row, operation):
                taken[operation] += 1
                assert_right(row, operation, list(ORDERS)[int(random.integers(len(ORDERS)))], (1,))


@able
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_results_have_the_memory_order_of_the_data(order: tuple[int, ...]) -> None:
    row = next(row for row in ROWS if row.name == "image")
    operands = {role: array if role == "weight" else laid_out(array, order) for role, array in row.operands().items()}
    for operation in ("conv", "conv_transpose"):
        found = row.call(getattr(triconv, operation), operation, operands, engine="split")
        assert sorted(range(4), key=lambda axis: -abs(found.strides[axis])) == list(order)


@able
def test_enough_of_them_are_taken() -> None:
    taken = [operation for _, operation in PAIRS]
    assert taken.count("conv") >= 20
    assert taken.count("conv_transpose") >= 16
    assert taken.count("conv_weight") >= 18


@able
@pytest.mark.parametrize(("row", "operation"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_relative_error(row: Row, operation: str) -> None:
    """At most 5e-6 of the result, root mean square, of random operands; and 1e-5 of its largest number anywhere."""
    operands = row.operands()
    wrong = row.call(getattr(triconv, operation), operation, operands, engine="split")
    expected = row.expected(operation, operands)
    wrong = wrong - expected
    assert np.sqrt(np.mean(wrong**2)) <= 5e-6 * np.sqrt(np.mean(expected**2))
    assert np.abs(wrong).max() <= 1e-5 * np.abs(expected).max()


@able
@pytest.mark.parametrize("number", [np.inf, np.nan, 1e-40, 1e30])
@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@pytest.mark.parametrize("role", ["data", "weight"])
@pytest.mark.parametrize("name", ["image", "lines of odd channels"])
def test_numbers_that_cannot_be_split(operation: str, role: str, number: float, name: str) -> None:
    """The result is that of the sum as written, to the bit, whether the weight is kept or not."""
    assert_as_written(operation, role, number, name)


def assert_as_written(operation: str, role: str, number: float, name: str = "image") -> None:
    """With such a number in one of the operands."""
    row = next(row for row in ROWS if row.name == name)
    operands = row.operands()
    data = "visible" if operation == "conv" else "hidden"
    operands[data if role == "data" else "weight"][1, 3, 2, 1] = number
    run = getattr(triconv, operation)
    with np.errstate(all="ignore"):
        expected = row.call(run, operation, operands, precision="highest")
        np.testing.assert_array_equal(row.call(run, operation, operands, engine="split"), expected)
        plan = triconv.explain(operation, row.visible, row.weight, dtype="float32", engine="split", **row.options)
        known, found = plan.with_weight(operands["weight"]), np.empty_like(expected)
        for _ in range(2):
            found[...] = -1
            known(operands[data], found)
            np.testing.assert_array_equal(found, expected)


@able
@pytest.mark.parametrize("number", [np.inf, np.nan, 1e-40, 1e30])
@pytest.mark.parametrize("row", [row for row, name in PAIRS if name == "conv_weight"])
@pytest.mark.usefixtures("small_caches")
def test_gradients_of_numbers_that_cannot_be_split(row: Row, number: float) -> None:
    """The result is that of the sum as written, to the bit, if the number is in a corner and some window sees it."""
    corners = list(product((0, -1), repeat=len(row.visible)))
    for role, corner in product(("visible", "hidden"), corners):
        operands = row.operands()
        operands[role][corner] = number
        with np.errstate(all="ignore"):
            expected = row.call(triconv.conv_weight, "conv_weight", operands, precision="highest")
            found = row.call(triconv.conv_weight, "conv_weight", operands, engine="split")
        if role == "hidden" or not np.isfinite(expected).all():
            np.testing.assert_array_equal(found, expected, f"{role} {corner}")


@able
@pytest.mark.parametrize(
    ("operation", "name", "data", "other"),
    [
        ("conv", "image", "visible", "weight"),
        ("conv_transpose", "image", "hidden", "weight"),
        ("conv_weight", "more columns than rows", "hidden", "visible"),
        ("conv_weight", "more rows than columns", "hidden", "visible"),
    ],
)
def test_small_numbers(operation: str, name: str, data: str, other: str) -> None:
    """Products of the smallest numbers that can be split keep all their halves; of smaller ones all is as written."""
    row = next(row for row in ROWS if row.name == name)
    random = np.random.default_rng(2)
    for down in (0, 1):
        operands = row.operands()
        for role, least in ((data, LEAST_DATA), (other, LEAST_WEIGHT)):
            sizes = random.uniform(1, 2, operands[role].shape) * random.choice([-1, 1], operands[role].shape)
            operands[role] = (sizes * least / 2**down).astype("float32")
        found, written = (
            row.call(getattr(triconv, operation), operation, operands, engine=engine) for engine in ("split", "direct")
        )
        oracle.assert_close(found, row.expected(operation, operands), allowed(row, operation, operands), operation)
        assert np.array_equal(found, written) is bool(down)


@able
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("taken", ["image", "lines of odd channels"])
def test_operands_that_repeat_a_number_along_an_axis(operation: str, operand: int, axis: int, taken: str) -> None:
    row = next(row for row in ROWS if row.name == ("residues" if operation == "conv_weight" else taken))
    operands, name = row.operands(), OPERATIONS[operation][operand]
    array = operands[name]
    first = array[tuple(slice(1) if number == axis else slice(None) for number in range(4))]
    operands[name] = np.broadcast_to(first, array.shape)
    found = row.call(getattr(triconv, operation), operation, operands, engine="split")
    oracle.assert_close(found, row.expected(operation, operands), allowed(row, operation, operands), operation)


@able
def test_what_no_window_meets_need_not_be_split() -> None:
    """A number of the visible between windows is not looked at; one that is copied beside them, and zero, is."""
    visible, weight = np.ones((1, 16, 9), "float32"), np.ones((16, 16, 1), "float32")
    expected = triconv.conv(visible, weight, stride=3, engine="split")
    visible[0, :, 8] = np.inf
    np.testing.assert_array_equal(triconv.conv(visible, weight, stride=3, engine="split"), expected)


@able
@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (2, 3, 0, 1), (3, 0, 2, 1)])
@pytest.mark.parametrize("name", ["image", "groups", "lines of odd channels"])
@pytest.mark.parametrize("small", [False, True])
def test_what_is_done_to_the_result(
    operation: str, order: tuple[int, ...], name: str, small: bool, request: pytest.FixtureRequest
) -> None:
    """The bias, the positive part and a mask give the bits that they give afterwards, in tiles and beside them."""
    if small:
        request.getfixturevalue("small_caches")
    row = next(row for row in ROWS if row.name == name)
    operands = {role: array if role == "weight" else laid_out(array, order) for role, array in row.operands().items()}
    run = ENGINES["split"].build(problem_of(operation, row))
    plain = row.call(getattr(triconv, operation), operation, operands, engine="split")
    random = np.random.default_rng(1)
    bias = random.standard_normal(plain.shape[1]).astype("float32")
    where = laid_out(random.standard_normal(plain.shape).astype("float32"), order)
    for after in (After(bias), After(None, True), After(bias, True), After(None, False, where)):
        expected, out = plain.copy(order="K"), np.full_like(plain, np.nan)
        after.apply(expected)
        a, b = (operands[role] for role in OPERATIONS[operation])
        assert run(a, b, out, None, after)
        np.testing.assert_array_equal(out, expected)


@able
@pytest.mark.parametrize(
    ("name", "times"), [("image", 1), ("groups", 1), ("lines of three channels", 2), ("lines of odd channels", 5)]
)
def test_a_weight_is_split_once_where_it_is_kept(name: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ROWS if row.name == name)
    operands, made = row.operands(), list[object]()
    of = Kept.of
    monkeypatch.setattr(Kept, "of", lambda self, key, make: of(self, key, lambda: made.append(key) or make()))
    run, kept = ENGINES["split"].build(problem_of("conv", row)), Kept()
    found = [np.empty(row.hidden, "float32") for _ in range(3)]
    for out in found:
        assert run(operands["visible"], operands["weight"], out, kept)
    assert len(made) == times
    assert run(operands["visible"], operands["weight"], found[0], None)
    assert len({one.tobytes() for one in found}) == 1


@pytest.mark.parametrize(
    ("operation", "changes", "reason"),
    [
        ("conv", {"dtype": "float64"}, "float32, not float64"),
        ("conv_weight", {"visible": (3, 32, 9, 9)}, "pairs of examples, not 3"),
        ("conv_weight", {"visible": (2, 17, 9, 9), "out": 18}, "at most 16 channels"),
        ("conv_weight", {"out": 18, "stride": 2}, "at most 16 channels"),
        ("conv_weight", {"border": ("zero", "circular")}, "zero border"),
        ("conv_weight", {"padding": ((1, 1), (5, 1))}, "meets only zeros"),
        ("conv_weight", {"visible": (2, 32), "kernel": (), "padding": 0}, "spatial axis"),
        ("conv", {"visible": (2, 31, 9, 9)}, "4 to 16 pairs at a time of 31 channels"),
        ("conv", {"visible": (2, 31, 9, 10), "dilation": 2}, "4 to 16 pairs at a time of 31 channels"),
        ("conv", {"visible": (2, 31, 9, 10), "border": ("zero", "circular")}, "at a time of 31 channels"),
        ("conv", {"visible": (2, 1, 9, 10)}, "4 to 16 pairs at a time of 1 channels"),
        ("conv_transpose", {"out": 3}, "4 to 16 pairs at a time of 3 channels"),
        ("conv_transpose", {"visible": (2, 16, 10, 10), "out": 31, "stride": 2}, "at a time of 31 channels"),
        ("conv", {"visible": (2, 34, 9, 9), "dilation": 2}, "4 to 16 pairs at a time of 34 channels"),
        ("conv", {"groups": 8}, "4 to 16 pairs at a time of 4 channels"),
        ("conv", {"groups": 32}, "4 to 16 pairs at a time of 1 channels"),
        ("conv", {"groups": ((True,) * 32,) * 32}, "whole groups"),
        ("conv", {"bank": 2}, "one kernel for all positions"),
        ("conv_transpose", {"border": "circular"}, "border"),
    ],
)
def test_why_not(operation: str, changes: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"visible": (2, 32, 9, 9), "kernel": (3, 3), "out": 32, "padding": 1, "dtype": "float32"}
    row = Row("one", **{**given, **changes})
    assert any(reason in one for one in split.why_not(problem_of(operation, row)))


@able
def test_the_highest_precision_splits_nothing() -> None:
    row = ROWS[2]
    plan = triconv.explain("conv", row.visible, row.weight, dtype="float32", precision="highest", padding=1)
    assert "precision" in plan.why_not["split"]


# Bands


CONVS = [row for row, operation in PAIRS if operation == "conv"]


def halves_of(row: Row, operation: str = "conv") -> banded.Halves:
    (found, *_), _ = split._choice(problem_of(operation, row), True)
    assert isinstance(found, banded.Halves)
    return found


@able
@pytest.mark.usefixtures("small_caches")
def test_bands_fit_the_cache() -> None:
    found = {row.name: halves_of(row) for row in CONVS}
    assert found["bands of one example"].parts is not None
    transpose = next(row for row in ROWS if row.name == "bands of a strided transpose")
    assert halves_of(transpose, "conv_transpose").parts is not None
    assert found["a large weight"].in_turn
    assert not found["affine"].in_turn
    room = banded.ROOM * (1 << 16)
    too_large = {name for name, one in found.items() if 4 * one.buffer(one.seen).size > room}
    assert too_large <= {"circular", "long lines", "volume"}  # of borders, or of few lines that are long


@able
@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_short_lines_fill_matrices_with_examples(operation: str) -> None:
    row = Row("short", (8, 512, 7, 7), (3, 3), 512, padding=1, dtype="float32")
    (cut,) = halves_of(row, operation).band.cuts()
    assert prod(size for loop, size in zip(cut.results, cut.block.sizes, strict=True) if loop.row) == 28


@able
def test_memory() -> None:
    """Besides the result no more than one padded copy of the operands and the weight, of rows worth several bands."""
    for row in CONVS:
        problem = problem_of("conv", row)
        if not any(part.lines for part in split._parts(problem)):  # which have zeros among the weight's numbers
            assert halves_of(row).extra <= problem.extra
        assert 4 * halves_of(row).scratch <= problem.extra + 64 * 1024, row.name


# Lines


@able
def test_lines_of_windows() -> None:
    """Two problems where every other window begins with the second number of a pair, each of lines of whole pairs."""
    given = {row.name: split._parts(problem_of("conv", row)) for row in ROWS}
    found = {name: [part.lines for part in parts if part.lines] for name, parts in given.items()}
    first, second = found["lines of odd channels"]
    assert [one.problem.geometry.axes[-1].kernel for one in (first, second)] == [26, 26]  # 51 numbers, and one or none
    assert (first.front, second.front) == (1, 0)
    (line,) = found["lines of three channels"]
    assert (line.problem.geometry.axes[-1].kernel, line.front) == (11, 1)
    assert [one.problem.geometry.axes[-1].kernel for one in found["lines of long windows"]] == [28, 28]  # 2 times 14
    assert not found["image"]


@able
def test_lines_of_one_position() -> None:
    """No position is a problem of its own where there is only the first."""
    row = Row("one", (2, 3, 4, 6), (2, 6), 16, dtype="float32")
    assert len(split._parts(problem_of("conv", row))) == 1
    assert_right(row, "conv", "channels last", (1,))


@able
@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_lines_of_arrays_that_lie_otherwise(operation: str) -> None:
    """Backwards, with gaps, or where no number can lie."""
    row = next(row for row in ROWS if row.name == "lines of odd channels")
    operands = row.operands()
    expected, within = row.expected(operation, operands), allowed(row, operation, operands)
    name = OPERATIONS[operation][0]
    data = operands[name]
    backwards = data[..., ::-1].copy()[..., ::-1]
    wide = np.zeros((*data.shape[:-1], 2 * data.shape[-1]), "float32")
    wide[..., ::2] = data
    bytes_of = np.empty(data.nbytes + 1, np.uint8)
    odd = bytes_of[1:].view("float32").reshape(data.shape)
    odd[...] = data
    for given in (backwards, wide[..., ::2], odd):
        found = row.call(getattr(triconv, operation), operation, {**operands, name: given}, engine="split")
        oracle.assert_close(found, expected, within, operation)


@able
def test_memory_of_lines_whose_weight_is_kept() -> None:
    """Of a large weight and little data, both parts' lines and halves."""
    row = Row("kept", (1, 31, 4, 4), (3, 4), 512, padding=2, dtype="float32")
    problem, operands, kept = problem_of("conv", row), row.operands(), Kept()
    run, out = split.ENGINE.build(problem), np.empty(row.hidden, "float32")
    with triconv.threads(1):
        run(operands["visible"], operands["weight"], out)
        tracemalloc.start()
        try:
            assert run(operands["visible"], operands["weight"], out, kept)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert operands["weight"].nbytes < peak <= split.workspace(problem)


# Chunks


def gradient_of(row: Row) -> tuple[gradients.Gradient, bool]:
    """The chunks, and whether operands are in each other's place."""
    (found,), turned = split._choice(problem_of("conv_weight", row), True)
    assert isinstance(found, gradients.Gradient)
    return found, turned


@able
@pytest.mark.usefixtures("small_caches")
def test_chunks_of_every_kind() -> None:
    """The rows have gradients in pieces and in one, of one chunk and several, of parts of lines, with operands in each
    other's place, of residues, and of one pair of examples to a block or of several."""
    found = [gradient_of(row) for row, operation in PAIRS if operation == "conv_weight"]
    kinds = {
        "pieces": {one.pieces > 1 for one, _ in found},
        "shared": {one.units > 1 for one, _ in found if one.pieces == 1},
        "parts": {one.parts.count > 1 for one, _ in found},
        "parts of lines": {one.parts.count > 1 for one, _ in found if len(one.axes) == 1},
        "turned": {turned for _, turned in found},
        "residues": {len(one.rows.residues) > 1 for one, _ in found},
        "examples": {one.examples > 1 for one, _ in found},
    }
    assert {name for name, seen in kinds.items() if seen != {False, True}} == set()


@able
def test_memory_of_gradients() -> None:
    """Besides the result no more than one padded copy of the operands and the weight, of rows worth several chunks."""
    for row, operation in PAIRS:
        if operation == "conv_weight":
            problem = problem_of(operation, row)
            assert gradient_of(row)[0].extra <= problem.extra, row.name
            assert 4 * gradient_of(row)[0].scratch <= problem.extra + 64 * 1024, row.name


@able
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("row", [row for row, name in PAIRS if name == "conv_weight"])
def test_gradients_in_bfloat16(row: Row, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks wherever these are able to: small whole numbers, exact in float32, are rounded once; and an infinity
    is where it belongs."""
    monkeypatch.setattr(gradients, "LONGER", float("inf"))
    gradients.of_pairs.cache_clear()  # type: ignore[attr-defined]
    made = list[object]()
    schedule = gradients.Gradient.schedule
    monkeypatch.setattr(
        gradients.Gradient, "schedule", lambda self, *given: made.append(self) or schedule(self, *given)
    )
    random = np.random.default_rng(0)
    small = {role: random.integers(-3, 4, array.shape) for role, array in row.operands().items()}
    operands = {role: ORDERS[order](array.astype(BFLOAT16)) for role, array in small.items()}
    run = bfloat16.ENGINE.build(replace(problem_of("conv_weight", row), dtype="bfloat16", itemsize=2))
    found = np.empty(row.weight, BFLOAT16)
    run(operands["visible"], operands["hidden"], found)
    whole, told = {role: array.astype("float64") for role, array in small.items()}, {"engine": "reference"}
    np.testing.assert_array_equal(found, row.call(triconv.conv_weight, "conv_weight", whole, **told).astype(BFLOAT16))
    seen = problem_of("conv_weight", row).geometry.axes[-1].every_window_sees
    many = row.out // problem_of("conv_weight", row).channels.groups
    assert bool(made) is (seen and (many % SIDE == 0 or many < SIDE))
    operands["visible"].flat[-1] = whole["visible"].flat[-1] = np.inf
    with np.errstate(all="ignore"):
        run(operands["visible"], operands["hidden"], found)
        expected = row.call(triconv.conv_weight, "conv_weight", whole, **told)
    np.testing.assert_array_equal(found.astype("float64"), expected.astype(BFLOAT16).astype("float64"))
    gradients.of_pairs.cache_clear()  # type: ignore[attr-defined]


# Tiles


def test_the_code_multiplies_all_halves_but_two_low_ones() -> None:
    rows = tuple((32 * m, 64 * m) for m in range(2 * SIDE))
    kernel = Contraction(SPLIT, rows, (Column(0, 0, 0, SIDE),), SIDE, 1, 2 * SIDE, pairs=SIDE, low=(SIDE, SIDE))
    text = assembly(kernel, HERE)
    assert [text.count(word) for word in ("tdpbf16ps", "tileloadd", "tilestored", "tilezero")] == [6, 8, 2, 2]


def test_rows_of_tiles_are_whole_matrices() -> None:
    """A tile of lines too short for matrices costs as much as one of whole ones."""
    columns, depth = Index(64, 0, 1, 1, True), Index(16, 1, 32, 0)

    def best(*rows: Index) -> Block:
        found = best_matrices((*rows, columns), depth, 576.0, SIDE, True)
        assert found is not None
        return found

    whole, short = best(Index(64, 32, 0, 64)), best(Index(8, 320, 0, 512), Index(8, 32, 0, 64))
    assert whole.sizes[0] in (SIDE, 2 * SIDE)
    assert short.cycles > 1.5 * whole.cycles
