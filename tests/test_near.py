"""Copies of a weight, one near each thread that reads it again and again: where, how many, and always the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from grid import Row
from numpy.typing import NDArray

import triconv
from triconv.engines import direct
from triconv.kept import Kept
from triconv.kernels import prepared, ways
from triconv.kernels.prepared import Prepared
from triconv.kernels.program import Program
from triconv.kernels.target import target

Array = NDArray[Any]

WIDE = Row("1×1", (8, 256, 15, 14), (1, 1), 128, dtype="float32")
STRIDED = Row("3×3/2", (8, 64, 29, 28), (3, 3), 128, stride=2, padding=1, dtype="float64", visible_size=(29, 28))
ROWS = pytest.mark.parametrize("row", [WIDE, STRIDED], ids=lambda row: row.name)
OPERATIONS = pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
CACHES = 32 << 10, 2 << 20


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "cache_bytes", lambda: CACHES)


def planned(row: Row, operation: str, dtype: str = "", engine: str = "direct") -> triconv.Plan:
    return triconv.explain(
        operation,
        row.visible,
        row.weight,
        dtype=dtype or row.dtype,
        engine=engine,
        stride=row.stride,
        padding=row.padding,
    )


def best(row: Row, operation: str) -> ways.Way:
    """Of arrays that lie well. Not kept: others have other caches."""
    problem = planned(row, operation).problem
    way: ways.Way = ways.best_way.__wrapped__(*direct._run(problem, True), True)  # type: ignore[attr-defined]
    return way


def operands(row: Row, operation: str, dtype: Any) -> tuple[Array, Array, Array]:
    """Small whole numbers, and a result full of NaN, channels innermost."""
    plan, random = planned(row, operation, "float32"), np.random.default_rng(0)
    first, second = (random.integers(-4, 5, plan.shape(role)).astype(dtype) for role in plan.problem.operands)
    result = np.full(plan.shape(plan.problem.produces), np.nan, dtype)
    weight = np.ascontiguousarray(second.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    return last(first), weight, last(result)


def last(array: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def expected(row: Row, operation: str, first: Array, second: Array) -> Array:
    plan = planned(row, operation, str(first.dtype), engine="im2row")
    found = np.empty(plan.shape(plan.problem.produces), first.dtype)
    plan.run(first, second, found)
    return found


@ROWS
@OPERATIONS
def test_there_is_a_copy_for_each_thread_that_reads_much_of_it(row: Row, operation: str) -> None:
    way, positions = best(row, operation), 8 * np.prod(row.hidden[2:])
    assert way.near(1) == 1
    assert way.near(2) == 2
    assert way.near(64) <= positions // ways.OFTEN


@ROWS
def test_copies_take_no_more_memory_than_allowed(row: Row, allow: Callable[[int], None]) -> None:
    way = best(row, "conv")
    weight = way.buffers[2]
    assert weight is not None
    one = weight.size * way.asked.itemsize
    for more, copies in ((-1, 1), (one - 1, 1), (one, 2), (2 * one, min(3, way.near(64)))):
        allow(way.copied + more)
        assert way.near(3) == copies
    for threads, more in ((1, 0), (2, one)):
        allow(way.copied + one)
        with triconv.threads(threads):
            assert prepared.scratch(way, tuple(layout.steps for layout in way.layouts)) == way.copied + more


@pytest.mark.parametrize("size", [(128 << 10) * 8, (128 << 10) * 2 - 2], ids=["nearest", "too large"])
def test_what_stays_in_no_cache_of_a_thread_has_one_copy(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    way = best(WIDE, "conv")
    monkeypatch.setattr(ways, "cache_bytes", lambda: (size if size > 1 << 19 else 1 << 10, size))
    assert way.near(2) == 1


def test_a_gradient_has_no_copies_of_its_result() -> None:
    assert best(WIDE, "conv_weight").near(2) == 1


@ROWS
@OPERATIONS
@pytest.mark.parametrize("written", [0, 1 << 24], ids=["as it comes", "written down"])
def test_the_same_for_any_threads(row: Row, operation: str, written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, which add in any order; also of copies that are kept while the number of threads changes."""
    monkeypatch.setattr(prepared, "WRITTEN", written)
    run: Any = direct.build(planned(row, operation).problem)
    first, second, out = operands(row, operation, row.dtype)
    right = expected(row, operation, first, second)
    kept = Kept()
    for threads in (1, 2, 3, 8, 2, 1):
        with triconv.threads(threads):
            for one in (None, kept, kept):
                out[...] = np.nan
                run(first, second, out, one)
                np.testing.assert_array_equal(out, right)


def test_what_is_kept_is_for_the_threads_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is made, and as the work on it is written down."""
    written: list[tuple[int, int]] = []
    short = Prepared._short
    monkeypatch.setattr(Prepared, "_short", lambda self, *key: written.append(key) or short(self, *key))
    run: Any = direct.build(planned(WIDE, "conv").problem)
    first, second, out = operands(WIDE, "conv", np.float32)
    kept = Kept()
    for threads in (1, 2, 3, 2):
        with triconv.threads(threads):
            run(first, second, out, kept)
    assert written == [(1, 1), (2, 2), (3, 3)]
    assert [len(one) for one in kept._made.values()] == [1, 2, 3]


@OPERATIONS
def test_pairs_of_halves_too(operation: str) -> None:
    if not target().pairs:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    first, second, _ = operands(WIDE, operation, np.float32)
    right = expected(WIDE, operation, first, second).astype(ml_dtypes.bfloat16)
    halves = first.astype(ml_dtypes.bfloat16), second.astype(ml_dtypes.bfloat16)
    function, size = getattr(triconv, operation), {"visible_size": (15, 14)} if operation == "conv_transpose" else {}
    for threads in (1, 2, 3):
        with triconv.threads(threads):
            found = function(*halves, engine="bfloat16", **size)
            np.testing.assert_array_equal(found.astype(np.float32), right.astype(np.float32))


def test_each_thread_fills_and_reads_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two threads with two parts each: the first two read another copy than the others."""
    seen: list[Any] = []

    def stages(self: Program, pieces: Any, threads: int, fills: Any = (), near: Any = ()) -> Any:
        found = made(self, pieces, threads, fills, near)
        seen.append((found, near))
        return found

    made = Program.stages
    monkeypatch.setattr(Program, "stages", stages)
    monkeypatch.setattr(prepared, "WRITTEN", 0)
    first, second, out = operands(WIDE, "conv", np.float32)
    with triconv.threads(2):
        direct.build(planned(WIDE, "conv").problem)(first, second, out)
    ((filled, multiplied), near), *_ = seen
    places = [place for place, _ in near]
    assert len(filled) == len(places) == 2
    for copy, part in zip(places, filled, strict=True):
        targets = [array for call in part for array in call.arrays if np.shares_memory(array, copy)]
        assert targets
    half = len(multiplied) // 2
    for place, parts in zip(places, (multiplied[:half], multiplied[half:]), strict=True):
        assert all(call.arrays[1] is place for part in parts for call in part)
