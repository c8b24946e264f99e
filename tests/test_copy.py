"""Copies against NumPy's indexing: every number of the target's buffer, the ones beside the target included."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from triconv.kernels import copy, ir
from triconv.kernels.compile import assembly, function
from triconv.kernels.copy import Copy, Dim, Move, converted
from triconv.kernels.target import target
from triconv.kernels.team import run_all
from triconv.kernels.words import CHECKED, I64, POINTER, Kernel, Place, Value
from triconv.memory import address

Array = NDArray[Any]
Shape = tuple[int, ...]

GUARD = 40
"""Numbers before and behind an array that a copy must leave alone: more than two vectors."""


def borders(size: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Segments along a dimension whose source has this size, by name."""
    half = size // 2
    return {
        "plain": ((0, 0, size),),
        "part": ((half, 1, size - half),),
        "zeros": ((-1, 0, 2), (0, 2, size), (-1, size + 2, 3)),
        "zeros alone": ((-1, 0, size),),
        "circular": ((size - 1, 0, 1), (0, 1, size), (0, size + 1, 1)),
        "reflect": ((half, 0, half, -1), (0, half, size)),
        "replicate": ((0, 0, 2, 0), (0, 2, size), (size - 1, size + 2, 3, 0)),
        "backwards": ((size - 1, 0, size, -1),),
        "residues": tuple((first, first * size, len(range(first, size, 2)), 2) for first in range(min(2, size))),
        "holes": ((0, 1, half), (-1, half + 2, 1)),
        "nothing": ((0, 0, 0),),
        "shuffled": tuple((source, target, 1) for target, source in enumerate([*range(half, size), *range(half)])),
    }


def laid_out(sizes: Shape, order: Shape, gaps: Shape, signs: Shape) -> tuple[Shape, int, int]:
    """Steps of an array with its dimensions in an order, gaps behind each; its span, and where its first entry is."""
    steps, span = [0] * len(sizes), 1
    for axis, gap in zip(reversed(order), gaps, strict=True):
        steps[axis] = span * signs[axis]
        span *= sizes[axis] + gap
    return tuple(steps), span, sum((n - 1) * -step for n, step in zip(sizes, steps, strict=True) if step < 0)


def buffered(sizes: Shape, steps: Shape, span: int, origin: int, values: Array) -> tuple[Array, Array]:
    """A buffer with guards, and the array in it."""
    buffer = values[: span + 2 * GUARD].copy()
    strides = [step * buffer.itemsize for step in steps]
    return buffer, np.lib.stride_tricks.as_strided(buffer[GUARD + origin :], sizes, strides)


def check(names: tuple[str, ...], sizes: Shape, source: Any, target: Any, dtype: str, parts: int) -> None:
    """A copy of dimensions by name, from one layout to another: (order, gaps, signs) each."""
    segments = [borders(size)[name] for name, size in zip(names, sizes, strict=True)]
    room = tuple(max(t + n for _, t, n, *_ in each) or 1 for each in segments)
    source_steps, source_span, source_origin = laid_out(sizes, *source)
    target_steps, target_span, target_origin = laid_out(room, *target)
    values = np.arange(1, max(source_span, target_span) + 2 * GUARD + 1, dtype=dtype)
    _, given = buffered(sizes, source_steps, source_span, source_origin, values)
    buffer, result = buffered(room, target_steps, target_span, target_origin, -values)
    expected_buffer, expected = buffered(room, target_steps, target_span, target_origin, -values)
    for pairs in product(*segments):
        sources = [s + (step[0] if step else 1) * np.arange(n) for s, _, n, *step in pairs]
        where = np.ix_(*(np.arange(t, t + n) for _, t, n, *_ in pairs))
        expected[where] = 0 if any(pair[0] == -1 for pair in pairs) else given[np.ix_(*sources)]

    dims = [Dim(*each) for each in zip(segments, source_steps, target_steps, strict=True)]  # type: ignore[arg-type]
    move = Move.of(dims, dtype)
    run_all([move.calls(given, result, part, parts) for part in range(parts)])
    np.testing.assert_array_equal(buffer, expected_buffer)


def compact(rank: int, order: Shape | None = None) -> tuple[Shape, Shape, Shape]:
    return order or tuple(range(rank)), (0,) * rank, (1,) * rank


def drawn(seed: int, largest: int = 2000) -> None:
    """A copy of random dimensions and layouts."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(0, 5))
    sizes = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 8, 9, 16, 17, 33, 40, 70], rank))
    while prod(sizes) > largest * 20:
        sizes = (*(max(1, n // 2) for n in sizes),)
    names = tuple(str(rng.choice(list(borders(1)))) if rng.random() < 0.6 else "plain" for _ in sizes)
    layouts = [
        (tuple(rng.permutation(rank).tolist()), tuple(rng.choice([0, 0, 0, 1, 3], rank).tolist()),
         tuple(rng.choice([1, 1, 1, -1], rank).tolist()))
        for _ in range(2)
    ]  # fmt: skip
    check(names, sizes, *layouts, str(rng.choice(["float32", "float64"])), int(rng.choice([1, 2, 3, 8])))


@pytest.mark.parametrize("seed", range(150))
def test_drawn_copies(seed: int) -> None:
    drawn(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_many_drawn_copies(seed: int) -> None:
    drawn(seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(borders(9)))
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_every_border_in_every_order(dtype: str, name: str, order: Shape) -> None:
    check(("plain", name, name), (3, 20, 18), compact(3), compact(3, order), dtype, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 4, 5, 7, 15, 16, 17, 47, 48, 63, 64, 65, 129, 300])
@pytest.mark.parametrize("columns", [1, 5, 9, 16, 31, 40, 48, 64, 90, 257])
def test_transposed_blocks_and_their_tails(dtype: str, rows: int, columns: int) -> None:
    check(("plain",) * 2, (rows, columns), compact(2), compact(2, (1, 0)), dtype, 2)
    check(("plain",) * 2, (rows, columns), ((0, 1), (3, 2), (1, -1)), ((1, 0), (1, 3), (-1, 1)), dtype, 1)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2)])
@pytest.mark.parametrize("sizes", [(40, 50, 9), (9, 40, 50), (40, 9, 50), (7, 11, 13), (6, 300, 5), (5, 6, 300)])
@pytest.mark.parametrize("gap", [0, 1])
def test_slices_that_chain_and_that_do_not(sizes: Shape, order: Shape, gap: int) -> None:
    gapped = (gap, 0, 0), (1, 1, 1)
    check(("plain",) * 3, sizes, ((0, 1, 2), *gapped), (order, *gapped), "float32", 3)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 1000, 40_000])
def test_runs_and_their_tails(length: int) -> None:
    for name in ("plain", "zeros", "backwards"):
        check((name,), (length,), compact(1), compact(1), "float32", 3)
        check((name,), (length,), compact(1), compact(1), "float64", 8)


def test_a_repeated_target_is_refused() -> None:
    with pytest.raises(ValueError, match="the same number"):
        Move.of([Dim(((0, 0, 2),), 1, 0)], "float32")


def test_a_source_can_be_read_often() -> None:
    """Windows of a signal: two dimensions of the target that share one of the source."""
    signal, windows = np.arange(20.0), np.full((16, 5), np.nan)
    Move.of([Dim(((0, 0, 16),), 1, 5), Dim(((0, 0, 5),), 1, 1)], "float64").run(signal, windows)
    np.testing.assert_array_equal(windows, np.lib.stride_tricks.sliding_window_view(signal, 5))


def test_not_a_number_beside_a_target_stays_and_in_a_source_moves() -> None:
    source, target = np.full((20, 20), np.nan, np.float32), np.full((22, 20), 7, np.float32)
    Move.of([Dim(((-1, 0, 1), (0, 1, 20), (-1, 21, 1)), 1, 20), Dim(((0, 0, 20),), 20, 1)], "float32").run(
        source, target
    )
    assert np.isnan(target[1:-1]).all()
    assert not target[[0, -1]].any()


def in_checked_mode() -> None:
    """What the next test runs: copies that stay inside their arrays pass, and those that do not are told."""
    for seed in range(40):
        drawn(seed, 200)
    for segments, message in (((0, 1, 20), "target"), ((1, 0, 20), "source"), ((-1, 1, 20), "target")):
        for other in ((1, 1), (20, 1), (1, 20)):
            move = Move.of([Dim((segments,), 20, 20 if other[1] == 1 else 1),
                            Dim(((0, 0, 20),), 1, 1 if other[1] == 1 else 20)], "float32")  # fmt: skip
            with pytest.raises(IndexError, match=message):
                move.run(np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32))


def test_no_copy_leaves_its_arrays() -> None:
    environment = {**os.environ, "TRICONV_CHECKED": "1"}
    command = [sys.executable, "-c", "import test_copy; test_copy.in_checked_mode()"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_half_is_converted_as_numpy_does(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    for array in (every, every[::-1], every.reshape(16, 64, 64).transpose(2, 0, 1), every.reshape(256, 256)[::3, 5::7]):
        wide = converted(array, np.dtype("float32"))
        np.testing.assert_array_equal(wide, array.astype("float32"))
        np.testing.assert_array_equal(np.signbit(wide), np.signbit(array.astype("float32")))
        assert wide.strides == array.astype("float32").strides


@np.errstate(over="ignore")
def test_float16_is_rounded_as_numpy_does() -> None:
    """To even where two are as near; to infinity beyond the largest; what is too small to be normal too."""
    exact = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype("float32")
    exact = exact[np.isfinite(exact)]
    between = (exact[1:] + exact[:-1]) / 2
    for array in (exact, between, np.nextafter(between, 0), np.nextafter(between, np.float32(1e9)), -between):
        np.testing.assert_array_equal(converted(array, np.dtype("float16")), array.astype("float16"))
    special = np.array([np.inf, -np.inf, np.nan, 65519.99, 65520, 1e30, 2.0**-25, 2.0**-26], np.float32)
    np.testing.assert_array_equal(converted(special, np.dtype("float16")), special.astype("float16"))


@np.errstate(invalid="ignore")
def test_bfloat16_is_rounded_as_ml_dtypes_does() -> None:
    """Every half, what lies in the middle of two and beside, what is too small to be normal, and what is not finite."""
    exact = np.arange(1 << 16, dtype=np.uint16).astype(np.uint32) << 16
    for beside in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        array = (exact + np.uint32(beside)).view(np.float32)
        found, expected = converted(array, np.dtype(ml_dtypes.bfloat16)), array.astype(ml_dtypes.bfloat16)
        nan = np.isnan(array)
        assert np.isnan(found[nan].astype("float32")).all()
        np.testing.assert_array_equal(found[~nan].view(np.uint16), expected[~nan].view(np.uint16))


@pytest.mark.parametrize(
    ("source", "segments", "expected"),
    [((1, 64), ((0, 0, 64),), {True: False}), ((64, 1), ((0, 0, 64),), {False: True})],
)
def test_the_kernel_has_what_its_jobs_need(
    source: Shape, segments: tuple[tuple[int, ...], ...], expected: dict[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares of vectors where something is transposed, and all else where something is not: both are long."""
    kernels: list[Copy] = []
    monkeypatch.setattr(copy, "function", lambda kernel: kernels.append(kernel) or function(kernel))
    given, made = np.arange(64.0 * 64).reshape(64, 64), np.empty((64, 64))
    Move.of([Dim(segments, step, to) for step, to in zip(source, (64, 1), strict=True)], "float64").run(given, made)
    assert (made == (given.T if source[0] == 1 else given)).all()
    assert {kernel.turns: kernel.others for kernel in kernels} == expected


def test_a_copy_moved_shares_its_jobs() -> None:
    """As every band and chunk has one: its table, and what else is found out about it, are made once."""
    move = Move.of([Dim(((0, 0, 4), (-1, 4, 1)), 2, 1)], "float32")
    further = move.moved(3, 5)
    assert further.jobs is move.jobs
    source, target = np.arange(20, dtype=np.float32), np.full(20, np.nan, np.float32)
    further.run(source, target)
    np.testing.assert_array_equal(target[5:10], [3, 5, 7, 9, 0])
    assert np.isnan(target).sum() == 15
    joined = Move.joined([move, further], "float32")
    joined.run(source, target)
    np.testing.assert_array_equal(target[:10], [0, 2, 4, 6, 0, 3, 5, 7, 9, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(3, 100, 90), (40, 17, 50), (7, 3, 300), (1, 300, 4), (2, 64, 64), (5, 1, 70)])
def test_what_comes_from_far_is_copied_alike(dtype: str, sizes: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the next block's lines are asked for, the last block of all included."""
    monkeypatch.setattr(copy, "cache_bytes", lambda: (0, 0))
    for order in ((0, 2, 1), (2, 1, 0), (1, 2, 0)):
        check(("plain",) * 3, sizes, compact(3), compact(3, order), dtype, 2)
        check(("backwards", "plain", "circular"), sizes, compact(3, order), compact(3), dtype, 1)


@dataclass(frozen=True)
class Telling(Copy):
    """A copy that tells what it asks for; no test finds another one's."""

    slices: int = 1


@pytest.mark.skipif(CHECKED, reason="nothing is asked for in checked mode")
@pytest.mark.parametrize("slices", [1, 3])
def test_what_is_asked_for_is_read_next_or_written_now(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last block, what it reads itself; of slices side by side, where the first column is written."""
    asked: dict[bool, list[int]] = {False: [], True: []}
    tell = {written: ctypes.CFUNCTYPE(None, ctypes.c_void_p)(asked[written].append) for written in asked}

    def prefetch(k: Kernel, place: Place, offset: Value | int, written: bool = False) -> None:
        where = k.build.gep(place.pointer, k.whole(offset), k.element(place))
        told = I64(ctypes.cast(tell[written], ctypes.c_void_p).value)
        k.build.call(ir.Callee(ir.VOID, k.build.inttoptr(told, POINTER).ref), [where])

    monkeypatch.setattr(Kernel, "prefetch", prefetch)
    monkeypatch.setenv("TRICONV_CACHE", "")
    rows, columns = 128, 128 if slices == 1 else 16
    dims = [Dim(((0, 0, rows),), columns * slices, 1), Dim(((0, 0, columns),), 1, rows)]
    dims += [Dim(((0, 0, slices),), columns, 2 * rows * columns)] * (slices > 1)
    move = Move.of(dims, "float32")
    source, made, lanes = np.zeros(1 << 18, np.float32), np.zeros(1 << 18, np.float32), min(target().lanes(4), 8)
    jobs, begins = move.jobs.table.tolist(), {False: address(source), True: address(made)}
    function(Telling("float32", True, False, slices=slices))(*begins.values(), move.jobs.begin, len(jobs), 1, 0)

    expected: dict[bool, list[int]] = {False: [], True: []}
    for number, (kind, _, to, groups, _, _, high, apart, _, wide, _, step) in enumerate(jobs):
        assert (kind, groups) == (copy.BESIDE, slices)
        _, following, *_ = jobs[min(number + 1, len(jobs) - 1)]
        for r, j, n in product(range(0, high, lanes), range(0, wide * groups, lanes), range(lanes)):
            expected[False].append(following + (r + n) * apart + j)
            expected[True].append(to + r + (j + n) * step * (slices == 1))
    assert len(jobs) > 1
    for written, places in asked.items():
        assert [(place - begins[written]) // 4 for place in places] == expected[written]


@pytest.mark.parametrize(("size", "far"), [(64, False), (2048, True)])
def test_what_is_turned_is_asked_for_where_it_is_more_than_the_cache_holds(size: int, far: bool) -> None:
    move = Move.of([Dim(((0, 0, size),), 1, size), Dim(((0, 0, size),), size, 1)], "float32")
    (call,) = move.calls(np.empty((size, size), np.float32), np.empty((size, size), np.float32), 0, 1)
    told = dict(zip(Copy("float32", True, False).arguments, call.values, strict=True))
    assert told["far"] == far
    text = assembly(Copy("float32", True, False), target("neon"))
    asked = [text.count(word) for word in ("pldl1keep", "pstl1keep")]
    assert asked == ([0, 0] if CHECKED else [4, 4])  # a square's rows ahead, and its columns' lines
