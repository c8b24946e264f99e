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
from triconv.form import Role
from triconv.kept import Kept
from triconv.kernels import prepared, ways
from triconv.kernels.prepared import Prepared
from triconv.kernels.program import Program

Array = NDArray[Any]

WIDE = Row("1×1", (8, 256, 15, 14), (1, 1), 128, dtype="float32")
STRIDED = Row("3×3/2", (8, 64, 29, 28), (3, 3), 128, stride=2, padding=1, dtype="float64", visible_size=(29, 28))
ODD = Row("no whole lines", (8, 131, 15, 14), (1, 1), 131, dtype="float32")
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
    assert way.near_copies(1) == 1
    assert way.near_copies(2) == 2
    assert way.near_copies(64) <= positions // ways.OFTEN


@ROWS
def test_copies_take_no_more_memory_than_allowed(row: Row, allow: Callable[[int], None]) -> None:
    way = best(row, "conv")
    weight = way.buffers[2]
    assert weight is not None
    one = weight.size * way.asked.itemsize
    for more, copies in ((-1, 1), (one - 1, 1), (one, 2), (2 * one, min(3, way.near_copies(64)))):
        allow(way.copied + more)
        assert way.near_copies(3) == copies
    for threads, more in ((1, 0), (2, one)):
        allow(way.copied + one)
        with triconv.threads(threads):
            assert prepared.scratch(way, tuple(layout.steps for layout in way.layouts)) == way.copied + more


@pytest.mark.parametrize("size", [(128 << 10) * 8, (128 << 10) * 2 - 2], ids=["nearest", "too large"])
def test_what_stays_in_no_cache_of_a_thread_has_one_copy(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    way = best(WIDE, "conv")
    monkeypatch.setattr(ways, "cache_bytes", lambda: (size if size > 1 << 19 else 1 << 10, size))
    assert way.near_copies(2) == 1


def test_a_gradient_has_no_copies_of_its_result() -> None:
    """Also where it is summed in a buffer."""
    problem, strides = direct._run(planned(WIDE, "conv_weight").problem, True)
    found = best(WIDE, "conv_weight")
    way = ways.way(problem, found.vector, strides, found.exact, 1, frozenset({Role.WEIGHT}), *found.how)
    assert way.buffers[2] is not None
    assert way.near_copies(2) == 1


@pytest.mark.parametrize("row", [WIDE, STRIDED, ODD], ids=lambda row: row.name)
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
    written: list[tuple[int, int, int]] = []
    short = Prepared._short
    monkeypatch.setattr(Prepared, "_short", lambda self, like, *key: written.append(key) or short(self, like, *key))
    run: Any = direct.build(planned(WIDE, "conv").problem)
    first, second, out = operands(WIDE, "conv", np.float32)
    kept = Kept()
    for threads in (1, 2, 3, 2):
        with triconv.threads(threads):
            run(first, second, out, kept)
    assert written == [(1, 1, 0), (2, 2, 0), (3, 3, 0)]
    assert [len(one) for one in kept._made.values()] == [1, 2, 3]


@pytest.mark.parametrize(("threads", "slices"), [(2, 1), (2, 2), (2, 1.5), (3, 4 / 3), (3, 2)])
def test_each_thread_fills_and_reads_its_own(threads: int, slices: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are more parts than threads, and not a multiple: threads have ranges of them, as in relay.py."""
    seen: list[Any] = []

    def stages(self: Program, pieces: Any, threads: int, fills: Any = (), near: Any = ()) -> Any:
        found = made(self, pieces, threads, fills, near)
        seen.append((found, near))
        return found

    made = Program.stages
    monkeypatch.setattr(Program, "stages", stages)
    monkeypatch.setattr(prepared, "WRITTEN", 0)
    monkeypatch.setattr(Program, "parts", lambda *_: round(threads * slices))
    first, second, out = operands(WIDE, "conv", np.float32)
    with triconv.threads(threads):
        direct.build(planned(WIDE, "conv").problem)(first, second, out)
    ((_, filled, multiplied), near), *_ = seen
    places = [place for place, _ in near]
    assert len(filled) == len(places) == threads
    for copy, part in zip(places, filled, strict=True):
        assert all(np.shares_memory(copy, call.arrays[1]) for call in part)
    ends = [len(multiplied) * thread // threads for thread in range(threads + 1)]
    for place, begin, end in zip(places, ends, ends[1:], strict=False):
        assert all(call.arrays[1] is place for part in multiplied[begin:end] for call in part)
