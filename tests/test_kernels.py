"""The kernels' groundwork: the contraction on every target at hand, checked mode, targets, compiling, the cache.

This file is a script too: it runs every case of the contraction under the environment's target and mode, each array
at the end of its memory, so that reading or writing past it ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import assert_close, bound

from triconv import cache
from triconv.kernels import compile as compiling
from triconv.kernels.contract import Column, Contraction
from triconv.kernels.finish import Finish
from triconv.kernels.target import NAMED, cache_bytes, caches, lacking, runnable, target
from triconv.kernels.words import CHECKED

Array = NDArray[Any]

DTYPES = ("float32", "float64")
GAP = 3
"""Numbers of C between what two vectors of a tile write: they must stay as they were."""
GUARD, SENTINEL = 64, 12345
"""How much memory lies before and behind an array, and what is in it."""


@dataclass(frozen=True)
class Case:
    """A contraction of odd offsets."""

    rows: int = 3
    used: tuple[int, ...] = (0, 0)
    """Lanes of each column; 0 and below counts from a whole vector."""
    depth: int = 5
    vectors_deep: int = 0
    """Vectors that the depth has besides."""
    tiles: tuple[tuple[int, int], ...] = ((0, 3), (1, 3), (2, 2), (0, 1))
    """The first tap of each tile and the one after its last."""
    wide: bool = False
    summed: bool = False
    add: bool = False
    adding: bool = True
    """What a kernel that may add is told."""
    side_by_side: bool = False
    """Whether the columns of a summed tile are neighbours in C."""
    ahead: tuple[int, int] = (0, 0)
    onward: tuple[int, int] = (0, 0)
    together: int = 1
    written: bool = False
    """Whether the steps of the depth are written out; there are no taps then."""
    evenly: bool = False
    """Whether rows are evenly apart in C."""


WHOLE_SUMS = ((0, 1), (1, 2), (2, 3))

CASES = {
    "plain": Case(),
    "added to what is there": Case(add=True),
    "written over what is there, which it could be added to": Case(add=True, adding=False),
    "summed, written over": Case(summed=True, wide=True, depth=1, add=True, adding=False),
    "as tall as AVX-512 allows": Case(rows=14),
    "one number": Case(rows=1, used=(1,), depth=1, tiles=((0, 1),)),
    "no tile": Case(tiles=()),
    "masked": Case(used=(1, -1, 0)),
    "masked, added": Case(used=(1, -1), add=True),
    "one row and column, shallow": Case(rows=1, used=(0,), depth=5),
    "one row and column, deep": Case(rows=1, used=(0,), depth=16),
    "one row and column, deep with a tail": Case(rows=1, used=(-1,), depth=21, add=True),
    "two rows": Case(rows=2, used=(0,), depth=7),
    "two by two": Case(rows=2, depth=9),
    "of any depth": Case(rows=4, depth=21),
    "of any depth, masked, added": Case(rows=3, used=(0, 1, -1), depth=18, add=True),
    "of any depth, wide, asked for onward": Case(wide=True, rows=4, depth=37, onward=(64, 3)),
    "of any depth and pitch": Case(rows=4, depth=21, evenly=True),
    "of any depth and pitch, masked, added": Case(rows=3, used=(0, 1, -1), depth=18, add=True, evenly=True),
    "wide": Case(wide=True),
    "wide, masked, added": Case(wide=True, used=(1, -1), add=True),
    "wide, small": Case(wide=True, rows=1, used=(0,), depth=11),
    "steps together": Case(wide=True, together=3, depth=8),
    "steps together, masked, added": Case(wide=True, together=4, depth=8, used=(1, -1), add=True),
    "written out": Case(tiles=WHOLE_SUMS, depth=5, written=True),
    "written out, wide": Case(wide=True, tiles=WHOLE_SUMS, depth=5, written=True),
    "written out, wide, masked": Case(wide=True, tiles=WHOLE_SUMS, depth=4, used=(1, -1), written=True),
    "written out, added": Case(wide=True, tiles=WHOLE_SUMS, depth=4, used=(1, -1), add=True, written=True),
    "summed": Case(summed=True, wide=True, vectors_deep=2),
    "summed, whole vectors": Case(summed=True, wide=True, vectors_deep=3, depth=0),
    "summed, less than a vector, added": Case(summed=True, wide=True, depth=1, add=True),
    "summed, small": Case(summed=True, wide=True, rows=1, used=(0,), depth=1, vectors_deep=17),
    "summed, not said to be wide": Case(summed=True, vectors_deep=1, depth=1),
    "summed, neighbours": Case(summed=True, rows=2, side_by_side=True),
    "summed, more than a vector of neighbours, added": Case(
        summed=True, rows=3, used=(0,) * 7, side_by_side=True, add=True
    ),
    "summed, one row of more than a vector": Case(summed=True, rows=1, used=(0,) * 19, side_by_side=True),
    "summed, steps together": Case(summed=True, wide=True, together=2, vectors_deep=5, depth=3),
    "summed, steps together, none left over": Case(summed=True, together=3, vectors_deep=6, depth=0, add=True),
    "asked for ahead": Case(ahead=(100, 0), depth=1),
    "asked for step by step": Case(ahead=(0, 100)),
    "asked for far beyond the end": Case(ahead=(0, 1 << 24), onward=(1 << 24, 3), depth=21),
    "summed, asked for ahead": Case(summed=True, ahead=(0, 100), vectors_deep=1),
}


@dataclass
class Work:
    """A contraction with arrays to run it on."""

    contraction: Contraction
    a: Array
    b: Array
    c: Array
    tiles: NDArray[np.int64]
    taps: NDArray[np.int64]
    adding: bool = True

    def run(self, count: int | None = None) -> None:
        arrays = (self.a, self.b, self.c, self.tiles, self.taps)
        a, b, c, tiles, taps = (array.ctypes.data for array in arrays)
        number = len(self.tiles) if count is None else count
        run, told, more = (
            compiling.function(self.contraction.shared()),
            self.contraction.told,
            compiling.bounds(*arrays),
        )
        run(a, b, c, tiles, number, taps, self.adding, *told, **more)


def indices(work: Work) -> Iterator[tuple[Array, Array, Array]]:
    """Numbers of C, and for each its factors in A and in B: arrays of (n,), (terms, n) and (terms, n) places."""
    spec = work.contraction
    k = np.arange(spec.depth)
    ak, bk, an = (1, 1, 0) if spec.summed else (spec.ak, spec.bk, int(spec.wide))
    for a0, b0, c0, t0, t1 in work.tiles:
        a_t, b_t = work.taps[t0:t1, :, None].swapaxes(0, 1)
        for (a_m, c_m), column in product(spec.rows, spec.columns):
            n = np.arange(1 if spec.summed else column.used)
            a_j = column.a if spec.wide or spec.summed else 0
            a = (a0 + a_m + a_j + a_t + k * ak).reshape(-1, 1) + n * an
            b = (b0 + column.b + b_t + k * bk).reshape(-1, 1) + n
            yield c0 + c_m + column.c + n, a, b


def oracle(work: Work) -> tuple[Array, Array]:
    """What C should be, and how far it may be off; what no tile names may not change at all."""
    expected, allowed = work.c.astype(np.float64), np.zeros(len(work.c))
    for c, a, b in indices(work):
        products = work.a[a].astype(np.float64) * work.b[b]
        before = expected[c] if work.contraction.add and work.adding else np.zeros(len(c))
        expected[c] = before + products.sum(0)
        allowed[c] = bound(len(a) + 1, np.abs(before) + np.abs(products).sum(0), work.a.dtype)
    return expected, allowed


def guarded(array: Array) -> Array:
    """A copy in the middle of more memory, which must stay as it was."""
    around = np.full(len(array) + 2 * GUARD, SENTINEL, array.dtype)
    around[GUARD:-GUARD] = array
    return around[GUARD:-GUARD]


def fenced(array: Array) -> Array:
    """A copy that ends where memory ends: behind it is a page that nobody may touch."""
    page = mmap.PAGESIZE
    whole = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, whole + page)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(place + whole), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, whole - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


def work_of(case: Case, dtype: str, lanes: int, place: Callable[[Array], Array] = guarded) -> Work:
    """A case as a contraction for vectors of a length, and arrays that reach just far enough."""
    rng = np.random.default_rng(7)
    used = [number if number > 0 else lanes + number for number in case.used]
    across, down = lanes + GAP, (lanes + GAP) * len(used)
    a_m, (a_j, b_j) = rng.integers(0, 50, case.rows), rng.integers(0, 50, (2, len(used)))
    c_m = (np.arange if case.evenly else rng.permutation)(case.rows) * down
    c_j = rng.permutation(len(used)) * across
    if case.side_by_side:
        c_j = np.arange(len(used))
    contraction = Contraction(
        dtype,
        tuple((int(a), int(c)) for a, c in zip(a_m, c_m, strict=True)),
        tuple(Column(int(a), int(b), int(c), n) for a, b, c, n in zip(a_j, b_j, c_j, used, strict=True)),
        case.depth + case.vectors_deep * lanes,
        ak=2,
        bk=lanes + 1,
        wide=case.wide,
        summed=case.summed,
        add=case.add,
        ahead=case.ahead,
        onward=case.onward,
        together=case.together,
        steps=tuple((2 * k, (lanes + 1) * k) for k in range(case.depth)) if case.written else (),
    )
    corners = rng.integers(0, 40, (len(case.tiles), 3))
    corners[:, 2] = GAP + rng.permutation(len(case.tiles)) * case.rows * down
    tiles = np.concatenate([corners, np.array(case.tiles, np.int64).reshape(-1, 2)], 1)
    taps = rng.integers(0, 1 if case.written else 30, (3, 2))
    work = Work(contraction, *np.zeros((3, 0), dtype), tiles, taps, case.adding)
    places = zip(*indices(work), strict=True)
    sizes = [max(int(which.max(initial=0)) + 1 for which in array) for array in places] or [1, 1, 1]
    work.c, work.a, work.b = (place(rng.standard_normal(size).astype(dtype)) for size in sizes)
    if place is fenced:
        work.tiles, work.taps = fenced(work.tiles), fenced(work.taps)
    return work


def check(case: Case, dtype: str, place: Callable[[Array], Array] = guarded) -> None:
    """Run a case, and compare every number of C with the oracle's."""
    work = work_of(case, dtype, target().lanes(np.dtype(dtype).itemsize), place)
    expected, allowed = oracle(work)
    work.run()
    assert_close(work.c, expected, allowed)
    if place is guarded:
        around = work.c.base
        assert around is not None
        assert (around[:GUARD] == SENTINEL).all()
        assert (around[-GUARD:] == SENTINEL).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_contraction(name: str, dtype: str) -> None:
    check(CASES[name], dtype)


def test_one_kernel_serves_any_depth_and_any_pitch_of_rows() -> None:
    def kernel(**other: Any) -> Contraction:
        rows = tuple((7 * m, other.get("pitch", 40) * m + other.get("uneven", 0) * (m == 2)) for m in range(4))
        columns = tuple(Column(0, at, at, 16) for at in (0, 16))
        finish = Finish(positive=other.get("positive", False))
        return Contraction("float32", rows, columns, other.get("depth", 64), 1, 32, add=True, finish=finish)

    one = kernel()
    assert one.told == (64, 40)
    assert kernel(pitch=320, depth=32).told == (32, 320)
    assert kernel(pitch=320, depth=32).shared() == one.shared()
    assert kernel(uneven=1).told == (64, 0)
    assert kernel(uneven=1, depth=32).shared() == kernel(uneven=1).shared() != one.shared()
    assert kernel(positive=True, depth=32).shared() == kernel(positive=True).shared()
    assert kernel(positive=True, pitch=320).shared() != kernel(positive=True).shared()
    assert kernel(depth=20).shared() == kernel(depth=20), "its steps are written out"


def test_the_order_and_number_of_slices_change_no_bit() -> None:
    for name, case in CASES.items():
        whole, sliced = (work_of(case, "float32", target().lanes(4)) for _ in range(2))
        whole.run()
        table = sliced.tiles
        for number in reversed(range(len(table))):
            sliced.tiles = table[number : number + 1]
            sliced.run()
        np.testing.assert_array_equal(whole.c, sliced.c, err_msg=name)


def script(cache: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """This file as a script, in an environment of its own."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("TRICONV_")}
    return subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**base, "TRICONV_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("checked", ["0", "1"], ids=["bare", "checked"])
@pytest.mark.parametrize("name", ["host", *NAMED])
def test_every_target_at_hand(name: str, checked: str, tmp_path: Path) -> None:
    """All cases are right there; a target that is not at hand says so in one line, and runs nothing."""
    ran = script(tmp_path, TRICONV_TARGET=name, TRICONV_CHECKED=checked)
    if name != "host" and (missing := lacking(name)):
        assert ran.returncode == 1
        *_, last = ran.stderr.splitlines()
        assert re.fullmatch(rf"ValueError: TRICONV_TARGET='{name}': expected one of host, .*", last)
        assert last.endswith(f"as this processor lacks {', '.join(missing)}")
        return
    assert ran.returncode == 0, ran.stderr
    misses = len(MISSES) * len(DTYPES) if checked == "1" else 0
    assert ran.stdout == f"{len(CASES) * len(DTYPES)} cases right, {misses} misses found\n"


# Checked mode


@dataclass(frozen=True)
class Miss:
    """A second tile that leaves an array, at the array's number `first`."""

    array: str
    first: Callable[[Work], int]
    case: Case = Case(rows=1, used=(0,), depth=1, tiles=((0, 1), (0, 1)))

    def change(self, work: Work) -> int:
        """Make a tile or a table wrong; the byte of the array that is missed."""
        first, spec = self.first(work), work.contraction
        match self.array:
            case "A":
                work.tiles[1, 0] = first - spec.rows[0][0] - spec.wide * spec.columns[0].a - work.taps[0, 0]
            case "B":
                work.tiles[1, 1] = first - spec.columns[0].b - work.taps[0, 1]
            case "C":
                work.tiles[1, 2] = first
            case "taps":
                work.tiles[1, 3:] = first // 2, first // 2 + 1
            case "tiles":
                work.tiles = work.tiles[: first // 5].copy()
        return first * getattr(work, self.array.lower()).itemsize


ONE = Miss.case
MISSES = {
    "A behind its end": Miss("A", lambda work: len(work.a)),
    "A before its beginning": Miss("A", lambda _: -1),
    "A wide, by a lane": Miss(
        "A", lambda work: len(work.a) - work.contraction.columns[0].used + 1, replace(ONE, wide=True)
    ),
    "B by a lane": Miss("B", lambda work: len(work.b) - work.contraction.columns[0].used + 1),
    "B before its beginning": Miss("B", lambda _: -1),
    "storing C by a lane": Miss("C", lambda work: len(work.c) - work.contraction.columns[0].used + 1),
    "storing C by a masked lane": Miss(
        "C", lambda work: len(work.c) - work.contraction.columns[0].used + 1, replace(ONE, used=(-1,))
    ),
    "storing C before its beginning": Miss("C", lambda _: -1),
    "adding to C behind its end": Miss("C", lambda work: len(work.c), replace(ONE, add=True)),
    "storing a sum behind the end of C": Miss("C", lambda work: len(work.c), replace(ONE, summed=True)),
    "the taps": Miss("taps", lambda work: work.taps.size),
    "the tiles": Miss("tiles", lambda _: 5),
}


def check_miss(miss: Miss, dtype: str) -> None:
    """In checked mode a miss is an error of kernel, array and byte, and C is as the tile before left it."""
    lanes = target().lanes(np.dtype(dtype).itemsize)
    work, right = work_of(miss.case, dtype, lanes), work_of(miss.case, dtype, lanes)
    right.run(1)
    offset = miss.change(work)
    expected = rf"^kernel Contraction\(.*\): {miss.array} at byte {offset}: expected an offset inside its array$"
    with pytest.raises(IndexError, match=expected):
        work.run(2)
    np.testing.assert_array_equal(work.c.base, right.c.base)


# Targets


def hottest(text: str, multiply_add: str) -> str:
    """The block of an assembly with the most multiply-adds."""
    return max(re.split(r"(?m)^(?=\.?L\w+:)", text), key=lambda block: len(re.findall(multiply_add, block)))


@pytest.mark.skipif(CHECKED, reason="checked kernels leave their loops")
@pytest.mark.parametrize(
    ("name", "rows", "vectors", "multiply_add", "register"),
    [
        ("avx512", 14, 2, r"\bvfmadd\d+ps\b", "%zmm"),
        ("avx512", 2, 1, r"\bvfmadd\d+ps\b", "%zmm"),
        ("avx2", 6, 2, r"\bvfmadd\d+ps\b", "%ymm"),
        ("sse", 3, 3, r"\baddps\b", "%xmm"),
        ("neon", 12, 2, r"\bfmla\b", r"\bv\d+\.4s"),
    ],
)
def test_the_inner_loop_stays_in_registers(
    name: str, rows: int, vectors: int, multiply_add: str, register: str
) -> None:
    """Eight multiply-adds or more on the target's vectors, nothing put aside on the stack, and no function called."""
    machine = target(name)
    case = Case(rows=rows, used=(0,) * vectors, depth=512, evenly=True)  # too long to be written out
    text = compiling.assembly(work_of(case, "float32", machine.lanes(4)).contraction.shared(), machine)
    loop = hottest(text, multiply_add)
    assert len(re.findall(multiply_add, loop)) == max(8, rows * vectors)
    assert re.search(register, loop)
    frame = r"\(%rbp|" if re.search(r"%rsp, %rbp", text) else ""  # else a register like any other
    assert not re.search(frame + r"\(%rsp|\[sp|\[x29", loop)
    assert not re.search(r"(?m)^\s(call|bl)\w*\s", text)


@pytest.mark.skipif(CHECKED, reason="checked kernels ask for nothing")
@pytest.mark.parametrize(("dtype", "lanes", "each"), [("float32", 16, 1), ("float64", 8, 2)])
def test_all_of_the_next_rows_are_asked_for(dtype: str, lanes: int, each: int) -> None:
    """A line of each of 14 rows in as many steps as a line has numbers: 16 of float32, 8 of float64."""
    rows, columns = tuple((256 * m, 64 * m) for m in range(14)), tuple(Column(0, at, at, lanes) for at in (0, lanes))
    text = compiling.assembly(
        Contraction(dtype, rows, columns, 256, 1, 2 * lanes, onward=(14 * 256, 256)).shared(), target("avx512")
    )
    loop = hottest(text, r"\bvfmadd\d+p[sd]\b")
    assert len(re.findall(r"\bvfmadd\d+p[sd]\b", loop)) == 28
    assert len(re.findall(r"\bprefetch", loop)) == each


@pytest.mark.skipif(CHECKED, reason="checked kernels leave their loops")
def test_sums_that_leave_few_registers_are_not_moved_about() -> None:
    """Neighbours along an axis, whose three taps are written out, in a tile of 7 × 4 vectors."""
    at = [(y, x) for y in range(4) for x in range(7)]
    columns = tuple(Column(0, 16 * (9 * y + x), 16 * (7 * y + x), 16) for y, x in at)
    text = compiling.assembly(Contraction("float32", ((0, 0),), columns, 3, 1, 16, together=3), target("avx512"))
    loop = hottest(text, r"\bvfmadd\d+ps\b")
    assert len(re.findall(r"\bvfmadd\d+ps\b", loop)) == 3 * len(columns)
    assert not re.search(r"vmovap[sd]\s+%zmm\d+, %zmm", loop)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("case", ["masked, added", "wide, masked, added", "summed, small"])
def test_every_target_compiles_everywhere(case: str, name: str) -> None:
    machine = target(name)
    for dtype, size in (("float32", 4), ("float64", 8)):
        contraction = work_of(CASES[case], dtype, machine.lanes(size)).contraction.shared()
        code = compiling.object_code(contraction, machine)
        if "linux" in machine.triple:  # the machine in an ELF file's head
            assert int.from_bytes(code[18:20], "little") == (183 if name == "neon" else 62)
        assert not re.search(r"\bfmaf?\b", compiling.assembly(contraction, machine))


def test_a_target_that_is_unknown_or_not_at_hand_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"^TRICONV_TARGET='mmx': expected host or one of avx512, avx2, sse, neon, imitated$"
    ):
        target("mmx")
    elsewhere = "neon" if lacking("neon") else "sse"
    monkeypatch.setenv("TRICONV_TARGET", elsewhere)
    with pytest.raises(ValueError, match=rf"^TRICONV_TARGET='{elsewhere}': expected one of host.* lacks \w+$"):
        runnable()


def test_the_host_takes_its_widest_vectors() -> None:
    widest = next(name for name in NAMED if not lacking(name))
    assert (target("host").vector_bytes, target("host").registers) == NAMED[widest][2:4]


def test_cache_sizes_are_read_where_they_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(index: int, kind: str, level: str, size: str) -> None:
        (tmp_path / f"index{index}").mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / f"index{index}" / name).write_text(f"{text}\n")

    assert caches(tmp_path) == {}
    say(0, "Data", "1", "48K")
    say(1, "Instruction", "1", "64K")
    say(2, "Unified", "2", "2M")
    say(3, "Unified", "3", "32M")
    assert caches(tmp_path) == {1: 48 << 10, 2: 2 << 20, 3: 32 << 20}
    say(4, "Data", "1", "")
    (tmp_path / "index5").mkdir()
    assert caches(tmp_path) == {1: 48 << 10, 2: 2 << 20, 3: 32 << 20}
    say(6, "Unified", "4", "1G")
    assert caches(tmp_path)[4] == 1 << 30
    monkeypatch.setattr("triconv.kernels.target.caches", dict)
    assert cache_bytes.__wrapped__() == (32 << 10, 512 << 10)


# Compiling


def numbered(number: int) -> Contraction:
    """Kernels that differ in what they compute: C[0] = A[number] · B[0]."""
    return Contraction("float64", ((number, 0),), (Column(0, 0, 0, 1),), 1, 1, 1)


def computes(kernel: Contraction) -> int:
    """Which of the numbered kernels a kernel's compiled function really is."""
    tiles = np.array([[0, 0, 0, 0, 1]])
    work = Work(kernel, np.arange(100.0), np.ones(1), np.zeros(1), tiles, np.zeros((1, 2), np.int64))
    work.run()
    return int(work.c[0])


def test_a_function_is_compiled_once() -> None:
    assert compiling.function(numbered(1)) is compiling.function(replace(numbered(1)))
    assert compiling.function(numbered(1)) is not compiling.function(numbered(2))


def within(seconds: float, call: Callable[[], Any]) -> bool:
    """Whether a call ends in time on another thread."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_looking_up_does_not_wait_for_compiling() -> None:
    assert computes(numbered(3)) == 3
    with compiling._lock:  # as held while something is compiled
        assert within(20, lambda: computes(numbered(3)))
        assert not within(0.1, lambda: compiling.function(numbered(4)))
    assert computes(numbered(4)) == 4  # the thread that waited is done before the next test begins


def test_many_threads_compile_at_once(fresh: Path) -> None:
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait(60)
        wrong.extend(number for number in range(6) if computes(numbered(number)) != number)

    users = [threading.Thread(target=use) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
        assert not user.is_alive()
    assert wrong == []
    assert len(files(fresh)) == 6


def test_a_child_forked_in_the_middle_of_compiling_compiles(tmp_path: Path) -> None:
    ran = script(tmp_path, "fork")
    assert (ran.returncode, ran.stdout) == (0, "child done\n"), ran.stderr


def check_fork() -> None:
    """Fork while another thread is inside the compiler; the child compiles and runs."""
    inside, optimised = threading.Event(), compiling._optimised

    def slowly(*arguments: Any) -> Any:
        inside.set()
        threading.Event().wait(0.3)
        return optimised(*arguments)

    compiling._optimised = slowly
    other = threading.Thread(target=compiling.function, args=(numbered(1),))
    other.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(20)
        right = [computes(numbered(number)) for number in (1, 2)] == [1, 2]
        os._exit(0 if right else 1)
    other.join()
    assert os.waitpid(child, 0)[1] == 0
    assert computes(numbered(1)) == 1
    print("child done")


# The cache


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing compiled yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRICONV_CACHE", str(folder))
    monkeypatch.setattr(compiling, "_functions", {})
    monkeypatch.setattr(compiling, "_linked", set())
    return folder


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each kernel that is compiled, not read from the cache."""
    made: list[str] = []
    compile_ = compiling.object_code

    def counting(kernel: Any, *how: Any) -> bytes:
        made.append(kernel.name)
        return compile_(kernel, *how)

    monkeypatch.setattr(compiling, "object_code", counting)
    return made


def forget() -> None:
    """As in the next process, but that code which was linked stays."""
    compiling._functions.clear()
    compiling._linked.clear()
    compiling._linker.cache_clear()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def stored(folder: Path, number: int) -> Path:
    """The file of a numbered kernel, compiled if need be."""
    forget()
    key = compiling._key(numbered(number), runnable())
    assert key is not None
    assert computes(numbered(number)) == number
    forget()
    return folder / compiling.KEPT.file("contract", key)


def test_the_next_process_reads_what_was_compiled(fresh: Path, compiled: list[str]) -> None:
    path = stored(fresh, 1)
    assert files(fresh) == [path]
    assert computes(numbered(1)) == 1
    assert len(compiled) == 1
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["cut", "emptied", "longer", "first byte", "digest", "code", "last byte"])
def test_a_damaged_file_is_compiled_again(what: str, fresh: Path, compiled: list[str]) -> None:
    path = stored(fresh, 1)
    whole = path.read_bytes()
    if what in ("cut", "emptied", "longer"):
        path.write_bytes({"cut": whole[:-1], "emptied": b"", "longer": whole + b"\0"}[what])
    else:
        place = {"first byte": 0, "digest": len(compiling.KEPT.begin), "code": len(whole) // 2, "last byte": -1}[what]
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
    assert computes(numbered(1)) == 1
    assert len(compiled) == 2
    assert path.read_bytes() == whole
    assert files(fresh) == [path]


def trojan(folder: Path) -> Path:
    """A whole file for kernel 1 with the code of kernel 2: as good as the real one, but for who may have written it."""
    path = stored(folder, 1)
    key = compiling._key(numbered(1), runnable())
    assert key is not None
    code = compiling.object_code(numbered(2), runnable(), compiling._symbol(numbered(1)))
    path.write_bytes(compiling.KEPT.whole(key, code))
    return path


def test_a_trojan_is_whole(fresh: Path) -> None:
    """What the tests below refuse is refused for nothing but what they change."""
    trojan(fresh)
    assert computes(numbered(1)) == 2


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_run(mode: int, fresh: Path) -> None:
    path = trojan(fresh)
    path.chmod(mode)
    assert computes(numbered(1)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(mode: int, fresh: Path) -> None:
    before = trojan(fresh).read_bytes()
    fresh.chmod(mode)
    assert computes(numbered(1)) == 1
    assert [path.read_bytes() for path in files(fresh)] == [before]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_belongs_to_another_is_not_run(what: str, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trojan(fresh)
    look = os.fstat

    def foreign(descriptor: int) -> os.stat_result:
        status = look(descriptor)
        if stat.S_ISDIR(status.st_mode) is (what == "folder"):
            return os.stat_result([*status[:4], os.geteuid() + 1, *status[5:]])
        return status

    monkeypatch.setattr(os, "fstat", foreign)
    assert computes(numbered(1)) == 1


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_is_not_followed(what: str, fresh: Path, tmp_path: Path) -> None:
    path = trojan(fresh)
    linked = path if what == "file" else fresh
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    assert computes(numbered(1)) == 1


def test_a_kernel_under_another_name_is_not_run(fresh: Path) -> None:
    stored(fresh, 2).replace(stored(fresh, 1))
    assert computes(numbered(1)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(fresh: Path) -> None:
    path = stored(fresh, 1)
    path.unlink()
    os.mkfifo(path)
    assert within(30, lambda: computes(numbered(1)))


@pytest.mark.parametrize("place", ["", "file", "file/below", "/dev/null/below"])
def test_where_there_can_be_no_cache_there_is_none(
    place: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TRICONV_CACHE", place and str(tmp_path / place))
    for turn in (1, 2):
        forget()
        assert computes(numbered(1)) == 1
        assert len(compiled) == turn
    assert (tmp_path / "file").read_text() == "mine"
    assert not fresh.exists()


def test_without_a_home_there_is_no_cache(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: list[str]
) -> None:
    for name in ("TRICONV_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it returns where nobody knows
    monkeypatch.chdir(tmp_path)
    assert computes(numbered(1)) == 1
    assert (compiled, files(tmp_path), fresh.exists()) == (["contract"], [], False)


def test_the_cache_is_where_the_system_wants_it(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRICONV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert computes(numbered(1)) == 1
    assert len(files(tmp_path / "xdg" / "triconv")) == 1
    assert not fresh.exists()


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_cache_that_cannot_be_written_is_still_read(
    call: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    path = stored(fresh, 1)
    real = getattr(os, call)

    def refuse(*arguments: Any, **options: Any) -> Any:
        if call == "replace" or arguments[1] & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, refuse)
    assert [computes(numbered(number)) for number in (1, 2)] == [1, 2]
    assert len(compiled) == 2
    assert files(fresh) == [path]


def test_the_key_is_all_that_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = runnable()
    keys = {
        compiling._key(numbered(1), machine),
        compiling._key(numbered(2), machine),
        compiling._key(numbered(1), replace(machine, features=f"{machine.features},+none")),
        compiling._key(numbered(1), replace(machine, cpu="other")),
    }
    for where, name, value in (
        (compiling.llvmlite, "__version__", "0"),
        (compiling.llvm, "llvm_version_info", (0, 0, 0)),
        (compiling, "_source", lambda _: "another version"),
        (compiling, "CHECKED", not CHECKED),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            keys.add(compiling._key(numbered(1), machine))
    assert len(keys) == 8
    assert None not in keys


def test_the_digest_of_the_source_is_of_all_of_it(tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiling._source(str(tmp_path / "none")) is None
    assert compiling._source(None) is None
    seen = set()
    for name, text in (("a", "one"), ("a", "two"), ("b", "two")):
        (tmp_path / f"{name}.py").write_text(text)
        compiling._source.cache_clear()
        seen.add(compiling._source(str(tmp_path)))
    assert len(seen) == 3
    assert compiling._source(str(tmp_path / "a.py")) == compiling._source(str(tmp_path / "b.py"))
    monkeypatch.setattr(compiling, "_source", lambda _: None)  # as where only compiled Python is installed
    assert computes(numbered(1)) == 1
    assert not fresh.exists()


def test_processes_write_the_same_files_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "TRICONV_CACHE": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen([sys.executable, __file__, "numbers"], env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(files(tmp_path / "cache")) == 10
    for path in files(tmp_path / "cache"):
        head, _, rest = path.read_bytes().partition(b"\n")
        assert head + b"\n" == compiling.KEPT.begin
        assert len(rest) > cache.DIGEST


def test_the_cache_is_looked_at_seldom(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first file that a process writes, and then once for so many."""
    looks: list[int] = []
    monkeypatch.setattr(cache.Shelf, "prune", lambda _, folder: looks.append(folder))
    monkeypatch.setattr(compiling, "KEPT", cache.Shelf("o", 8))
    monkeypatch.setattr(cache, "SELDOM", 4)
    seen = []
    for number in range(9):
        stored(fresh, number)
        seen.append(len(looks))
    assert seen == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_a_large_cache_loses_its_older_half(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SELDOM", 1)
    stored(fresh, 0)
    others = [fresh / "notes-of-mine.o", fresh / compiling.KEPT.file("best", bytes(32)).replace(".o", ".answer")]
    for one in others:
        one.write_text("of another kind")
        os.utime(one, (0, 0))
    left = fresh / f"{'0' * 16}.part"
    left.write_text("")
    os.utime(left, (0, 0))
    monkeypatch.setattr(compiling, "KEPT", cache.Shelf("o", 8))
    paths = [stored(fresh, number) for number in range(12)]
    for age, path in enumerate(reversed(paths)):
        if path.exists():
            os.utime(path, (1000 - age, 1000 - age))
    newest = stored(fresh, 99)
    kept = files(fresh)
    assert {newest, *others} < set(kept)
    assert left not in kept
    assert 4 < len(kept) - len(others) <= 8
    assert paths[-1] in kept


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fork"]:
            check_fork()
        case ["numbers"]:
            assert [computes(numbered(number)) for number in range(10)] == [*range(10)]
        case _:
            for name, dtype in product(CASES, DTYPES):
                print(name, dtype, file=sys.stderr)
                check(CASES[name], dtype, fenced)
            misses = list(product(MISSES, DTYPES)) if CHECKED else []
            for name, dtype in misses:
                print(name, dtype, file=sys.stderr)
                check_miss(MISSES[name], dtype)
            print(f"{len(CASES) * len(DTYPES)} cases right, {len(misses)} misses found")
