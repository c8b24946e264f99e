"""Copies from one strided array to another, with borders and in any order of the dimensions, at memory's speed.

A dimension gives pairs of positions, by segments; the pairs of all dimensions combined say which number goes where.
A plan cuts the combinations into boxes, one segment of each dimension; merges the dimensions of a box that chain; and
cuts what is left into jobs of three loops, small enough for the first-level cache. One kernel runs a table of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import accumulate, product, repeat
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import allocate
from ..memory import CLASH, address
from . import ir
from .compile import Call, Compiled, function
from .sheet import Sheet
from .target import Target, cache_bytes
from .team import in_parts, parts_of
from .threads import thread_count
from .words import (
    APART,
    BFLOAT16,
    BYTES,
    CHECKED,
    EXACT,
    FLOAT16,
    GATHERED,
    I64,
    POINTER,
    SPLIT,
    SPLIT_LANES,
    SPLITS,
    STORED,
    WHOLE,
    Kernel,
    Place,
    Value,
    begin,
    bits_of,
)

Array = NDArray[Any]

ZERO = -1
"""The source of a segment whose targets get zeros."""

RUNS, BESIDE, BELOW, SCATTERED, ZERO_RUNS, ZERO_SCATTERED = range(6)
"""Kinds of jobs: vectors along the columns; blocks to transpose, of slices side by side or one below the other; number
by number; and zeros."""

JOB = 12
"""Integers of a job: its kind, source, target; and count, source step, target step of its slices, rows and columns."""


class Segment(NamedTuple):
    """Positions along a dimension: `count` of the target from `target` on, each with one of the source or zero."""

    source: int
    target: int
    size: int
    stride: int = 1
    """Of the source's positions: 2 takes every other, -1 mirrors, 0 repeats."""


@dataclass(frozen=True)
class Dim:
    """A dimension of a copy: its segments, and the steps of one position in numbers."""

    segments: tuple[Segment | tuple[int, int, int] | tuple[int, int, int, int], ...]
    source: int
    target: int


class Loop(NamedTuple):
    """A count, and the steps of one turn in source and target: whole numbers, or values of a kernel."""

    size: Value
    source: Value
    target: Value

    def reversed(self) -> Loop:
        return Loop(self.size, -self.source, -self.target)


ONCE = Loop(1, 0, 0)


class Stored(NamedTuple):
    """How source and target are stored, if not as numbers of the copy's dtype; how far the other of a pair is; and the
    bits of the least number that can be split."""

    source: str = ""
    target: str = ""
    other: int = 0
    least: int = 0


AS_THEY_ARE = Stored()


def in_halves(other: int, least: float) -> Stored:
    """How an operand is stored that is to be split, whose pairs' numbers are so far apart, or side by side."""
    return Stored(APART if other else WHOLE, "", other, bits_of(least))


@dataclass(frozen=True, eq=False)
class Jobs:
    """A table of jobs in the order of their targets, and the kernel that runs it."""

    table: NDArray[np.int64]
    dtype: str
    stored: Stored
    low: int = 0
    """How many numbers further on in the target low halves go, if numbers are split."""
    _slices: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict, repr=False)

    @cached_property
    def kernel(self) -> Compiled:
        turned = (self.table[:, :1] == (BESIDE, BELOW)).any(axis=1)
        return function(Copy(self.dtype, bool(turned.any()), not turned.all(), *self.stored[:2]))

    @cached_property
    def begin(self) -> int:
        return address(self.table)

    @cached_property
    def done(self) -> NDArray[np.int64]:
        """Numbers written before each job, and in all."""
        return np.concatenate([[0], np.cumsum(self.table[:, 3::3].prod(axis=1))])

    @cached_property
    def lowest(self) -> int:
        """The lowest place of the source that is read; zeros are read nowhere."""
        read = self.table[:, 0] < ZERO_RUNS
        return int(self.table[read, 1].min()) if read.any() else 0

    @cached_property
    def far(self) -> bool:
        """Whether what is copied, and what it is copied over, are more than the second-level cache holds."""
        return int(self.done[-1]) * sum(self.sizes) > cache_bytes()[1]

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Bytes of a number of the source and of the target."""
        source, target = self.stored[:2]
        own = BYTES[self.dtype]
        return STORED[source].bytes if source else own, STORED[target].bytes if target else own

    def slice(self, part: int, parts: int) -> tuple[int, int]:
        """Where a part's jobs begin, in bytes, and how many there are."""
        if (found := self._slices.get((part, parts))) is None:
            shares = [self.done[-1] * part // parts, self.done[-1] * (part + 1) // parts]
            begin, end = np.searchsorted(self.done[:-1], shares) if parts > 1 else (0, len(self.table))
            found = self._slices[part, parts] = int(begin) * JOB * 8, int(end - begin)
        return found


@dataclass(frozen=True, eq=False)
class Move:
    """The plan of a copy: its jobs, and by how many numbers they are further on in the source and in the target."""

    jobs: Jobs
    source: int = 0
    target: int = 0

    @classmethod
    def of(cls, dims: Sequence[Dim], dtype: str, stored: Stored = AS_THEY_ARE) -> Move:
        """target[Σ position · step] = source[Σ position · step], or zero, for every combination of the dims' pairs.

        Arrays are given when the copy is run. No two combinations may have the same target.
        """
        segments = [[Segment(*segment) for segment in dim.segments if segment[2] > 0] for dim in dims]
        jobs = [_box(list(zip(dims, box, strict=True)), dtype) for box in product(*segments)]
        return cls._of_jobs(jobs, dtype, stored)

    @classmethod
    def joined(cls, moves: Iterable[Move], dtype: str) -> Move:
        """The plans of copies between the same arrays as one. No two may have the same target."""
        found = list(moves)
        tables = [move.jobs.table.copy() for move in found]
        for move, table in zip(found, tables, strict=True):
            table[:, 1:3] += move.source, move.target
        return cls._of_jobs(tables, dtype, found[0].jobs.stored if found else AS_THEY_ARE)

    @classmethod
    def _of_jobs(cls, tables: Sequence[NDArray[np.int64]], dtype: str, stored: Stored) -> Move:
        jobs = np.concatenate([np.zeros((0, JOB), np.int64), *tables])
        return cls(Jobs(np.ascontiguousarray(jobs[np.argsort(jobs[:, 2], kind="stable")]), dtype, stored))

    def halves(self, low: int) -> Move:
        """This copy, of high halves, and of the low ones to so many numbers further on."""
        return replace(self, jobs=replace(self.jobs, low=low, _slices={}))

    def as_read(self) -> Move:
        """This copy in the order in which the source lies: where the target's pieces are long, and the source's not."""
        table = self.jobs.table
        return replace(self, jobs=replace(self.jobs, table=table[np.argsort(table[:, 1], kind="stable")], _slices={}))

    def moved(self, source: int, target: int) -> Move:
        """The plan of the same copy from and to places so much further on."""
        return Move(self.jobs, self.source + source, self.target + target)

    @property
    def size(self) -> int:
        """How many numbers it writes."""
        return int(self.jobs.done[-1])

    @property
    def begin(self) -> int:
        """The lowest place that it reads from."""
        return self.source + self.jobs.lowest

    def run(self, source: Array, target: Array) -> None:
        """Copy. The arrays' first entries are offset 0."""
        (call,) = self.calls(source, target, 0, 1)
        call.run()

    def calls(self, source: Array, target: Array, part: int, parts: int, *mark: Array) -> list[Call]:
        """What copies one part; parts may run at the same time. A mark is set if a number cannot be split."""
        jobs = self.jobs
        (first, count), (read, written) = jobs.slice(part, parts), jobs.sizes
        places = address(source) + self.source * read, address(target) + self.target * written
        marked = (jobs.low, jobs.stored.least, *map(address, mark)) if mark else ()
        told = *places, jobs.begin + first, count, int(jobs.far), jobs.stored.other, *marked
        return [Call(jobs.kernel, told, (source, target, jobs.table, *mark))]


Copying = tuple[Move, Array, Array]
"""The plan of a copy, from where and to where."""


def in_stage(copies: Sequence[Copying], threads: int) -> list[list[Call]]:
    """What makes some copies, in parts for so many threads."""
    parts = parts_of(sum(move.size for move, _, _ in copies), threads) if copies else 0
    return [
        [call for move, source, target in copies for call in move.calls(source, target, part, parts)]
        for part in range(parts)
    ]


def clearing(array: Array) -> Copying:
    """What puts zeros into an array."""
    return _zeros(array.shape, array.strides, array.dtype), array, array


@lru_cache(maxsize=256)
def _zeros(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Move:
    steps = [step // dtype.itemsize for step in strides]
    return Move.of([Dim(((ZERO, 0, size),), 0, step) for size, step in zip(shape, steps, strict=True)], dtype.name)


def _box(pairs: Sequence[tuple[Dim, Segment]], dtype: str) -> NDArray[np.int64]:
    """The jobs of one segment of each dimension."""
    zero = any(segment.source == ZERO for _, segment in pairs)
    source, target, loops = 0, 0, []
    for dim, segment in pairs:
        loop = Loop(segment.size, 0 if zero else segment.stride * dim.source, dim.target)
        if loop.size > 1 and loop.target == 0:
            raise ValueError(f"dim {dim}: several positions of the target are the same number")
        source += 0 if zero else segment.source * dim.source
        target += segment.target * dim.target
        if loop.target < 0:  # begin at the other end
            source, target = source + (loop.size - 1) * loop.source, target + (loop.size - 1) * loop.target
            loop = loop.reversed()
        loops.append(loop)
    loops = _merged(loops)
    across = next((loop for loop in loops if loop.target == 1), None)
    along = next((loop for loop in loops if abs(loop.source) == 1), None)
    if across and (zero or across.source == 1):
        kind, chosen = ZERO_RUNS if zero else RUNS, [across]
    elif across and along and across != along and not zero and min(_squared(across, along, loops)) > FEW:
        kind, chosen = BESIDE, [along, across]
    else:
        kind, chosen = (
            ZERO_SCATTERED if zero else SCATTERED,
            sorted({across or ONCE, along or ONCE} - {ONCE}, reverse=True),
        )
    others = sorted((loop for loop in loops if loop not in chosen), key=_nearness)
    if kind == BESIDE:
        columns, rows = chosen
        if columns.source < 0:
            source, target = source - (columns.size - 1), target + (columns.size - 1) * columns.target
            columns = columns.reversed()
        kind, slices, sizes = _block(rows, columns, others, _bytes(dtype))
        others = [loop for loop in others if loop != slices]
    else:
        columns, rows, slices, *others = [*chosen, *others, ONCE, ONCE, ONCE]
        limit, turns = (NEAR, min(rows.size, LINE)) if kind in (SCATTERED, ZERO_SCATTERED) else (JOB_NUMBERS, 1)
        wide = min(columns.size, limit // turns)
        high = min(rows.size, max(1, limit // wide))
        sizes = max(1, limit // (high * wide)), high, wide
    return _jobs_of(kind, source, target, others, [slices, rows, columns], sizes)


def _squared(rows: Loop, columns: Loop, loops: Sequence[Loop]) -> tuple[int, int]:
    """How many rows and columns a block may have, with those of slices that go on where they end."""
    below = max((loop.size for loop in loops if loop.target == rows.size <= LINE), default=1)
    beside = max((loop.size for loop in loops if loop.source == columns.size <= LINE), default=1)
    return rows.size * below, columns.size * beside


JOB_NUMBERS = 1 << 14
"""At most so many numbers in a job: enough to be worth one, few enough to share them out and to stay in the cache."""
NEAR = 1 << 12
"""At most so many in one that goes number by number: their lines are there still when the next row comes."""
SIDE = 64
"""Rows of a block that is transposed, and columns of 4 bytes: lines of caches, and not only parts of them."""
LINE = 16
"""The largest number of lanes that a vector has."""
BLOCK = (SIDE + LINE) * SIDE * 4
"""Bytes of a block, with a vector behind each of its lines: less than a first-level cache."""
SQUARE = 32
"""At most so many bytes in a vector of a square: larger ones are no faster, and take three times as long to compile."""
FEW = 4
"""So few rows or columns are not worth squares of vectors."""


def _block(rows: Loop, columns: Loop, others: Sequence[Loop], itemsize: int) -> tuple[int, Loop, tuple[int, int, int]]:
    """The kind of a block; slices that go on where few columns or rows end; and slices, rows and columns of a block."""
    beside = next((loop for loop in others if loop.source == columns.size <= LINE), None)
    below = next((loop for loop in others if loop.target == rows.size <= LINE and not beside), None)
    high = _vectors(min(SIDE, rows.size * (below.size if below else 1)))
    wide = _vectors(min(4 * SIDE // itemsize, columns.size * (beside.size if beside else 1)))
    numbers = BLOCK // itemsize
    if high < SIDE:
        wide = numbers // (high + LINE) // LINE * LINE
    else:
        high = numbers // wide // LINE * LINE - LINE
    if beside:
        return BESIDE, beside, (wide // columns.size, high, columns.size)
    if below:
        return BELOW, below, (high // rows.size, rows.size, wide)
    return BESIDE, ONCE, (1, high, wide)


def _bytes(dtype: str) -> int:
    """Of a number in a block, which has both halves of one that is split."""
    return BYTES[dtype] * (1 + (dtype == SPLIT))


def _vectors(size: int) -> int:
    """A size, up to whole vectors."""
    return -(-size // LINE) * LINE


def _nearness(loop: Loop) -> int:
    nearest: int = min(abs(loop.source) or loop.target, loop.target)
    return nearest


def _jobs_of(
    kind: int, source: int, target: int, others: Sequence[Loop], inner: Sequence[Loop], sizes: Sequence[int]
) -> NDArray[np.int64]:
    """Jobs for every turn of the outer loops and every piece, of at most a size, of the inner ones."""
    steps = [*((1, loop) for loop in others), *zip(sizes, inner, strict=True)]
    axes = np.ix_(*(np.arange(0, loop.size, size) for size, loop in steps))
    jobs = np.empty((*(len(axis.ravel()) for axis in axes), JOB), np.int64)
    jobs[..., 0] = kind
    jobs[..., 1] = source + sum(axis * loop.source for axis, (_, loop) in zip(axes, steps, strict=True))
    jobs[..., 2] = target + sum(axis * loop.target for axis, (_, loop) in zip(axes, steps, strict=True))
    for cell, axis, size, loop in zip((3, 6, 9), axes[-3:], sizes, inner, strict=True):
        jobs[..., cell] = np.minimum(loop.size - axis, size)
        jobs[..., cell + 1 : cell + 3] = loop[1:]
    return jobs.reshape(-1, JOB)


def _merged(loops: Iterable[Loop]) -> list[Loop]:
    """Loops of more than one turn, by their target steps; those that chain in both arrays made one."""
    merged: list[Loop] = []
    for loop in sorted((loop for loop in loops if loop.size > 1), key=lambda loop: -loop.target):
        if merged and merged[-1][1:] == (loop.size * loop.source, loop.size * loop.target):
            loop = Loop(merged.pop().size * loop.size, loop.source, loop.target)
        merged.append(loop)
    return merged


def converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """What array.astype(dtype) gives, of one of `CONVERTED` to another: NumPy converts one number at a time."""
    names = array.dtype.name, dtype.name
    if names not in CONVERTED or not (array.size and array.dtype.isnative and array.flags.aligned):
        return array.astype(dtype)
    out = allocate("a copy", array.shape, dtype, array)
    convert(array, out, *names)
    return out


def convert(array: Array, out: Array, source: str, target: str) -> None:
    """Write an array over another of another dtype, both of `CONVERTED`; bfloat16 may be any numbers of two bytes."""
    if not array.size:
        return
    key = array.shape, array.strides, out.strides, source, target
    if CHECKED:
        in_parts(partial(_conversion(*key).calls, array, out), array.size)
    else:
        threads = thread_count()
        _converting(threads, *key).run((array, out), threads - 1)


CONVERTED: dict[tuple[str, str], Stored] = {
    ("float16", "float32"): Stored(FLOAT16, ""),
    ("float32", "float16"): Stored("", FLOAT16),
    ("bfloat16", "float32"): Stored(BFLOAT16, ""),
    ("float32", "bfloat16"): Stored("", EXACT),
}
"""How the numbers of such copies are stored."""


@lru_cache(maxsize=256)
def _converting(threads: int, shape: tuple[int, ...], *how: Any) -> Sheet:
    """A conversion written down for so many threads."""
    stand_ins = np.empty(1), np.empty(1)
    return Sheet.of([in_stage([(_conversion(shape, *how), *stand_ins)], threads)], stand_ins)


@lru_cache(maxsize=256)
def _conversion(shape: tuple[int, ...], steps: tuple[int, ...], to: tuple[int, ...], source: str, target: str) -> Move:
    how = CONVERTED[source, target]
    sizes = [2 if stored else 4 for stored in (how.source, how.target)]
    dims = [Dim(((0, 0, n),), a // sizes[0], b // sizes[1]) for n, a, b in zip(shape, steps, to, strict=True)]
    return Move.of([dim for dim in dims if dim.segments[0][2] > 1] or dims[:1], "float32", how)


@dataclass(frozen=True)
class Copy:
    """The kernel: runs a table of jobs. All sizes are in the table."""

    dtype: str
    turns: bool
    """Whether some jobs transpose: that takes most of the time to compile."""
    others: bool
    """Whether some do not."""
    source: str = ""
    target: str = ""
    """How the two are stored, if not as numbers."""

    name: ClassVar[str] = "copy"

    @property
    def arguments(self) -> dict[str, ir.Type]:
        """Where numbers are split, a mark is set if one of them cannot be."""
        own = {"source": POINTER, "target": POINTER, "jobs": POINTER, "count": I64, "far": I64, "other": I64}
        return {**own, "low": I64, "least": I64, "mark": POINTER} if self.source in SPLITS else own

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments, {"source": self.source, "target": self.target})
        lanes, splits = machine.lanes(BYTES[self.dtype]), self.source in SPLITS
        telling = k.splitting(k["least"], k["mark"]) if splits else nullcontext()
        with telling, k.loop(k["count"]) as i:
            kind, source, target, *rest = k.row("jobs", i, JOB)
            slices, rows, columns = (Loop(*rest[cell : cell + 3]) for cell in (0, 3, 6))
            corner = k.at(k["source"], source), k.at(k["target"], target)
            below = k.build.icmp_signed("==", kind, I64(BELOW))
            writers: dict[int, Callable[[], None]] = {}
            if self.others:
                writers[RUNS] = lambda: _runs(k, *corner, slices, rows, columns, lanes, zero=False)
                writers[SCATTERED] = lambda: _scattered(k, *corner, slices, rows, columns, zero=False)
                writers[ZERO_RUNS] = lambda: _runs(k, *corner, slices, rows, columns, lanes, zero=True)
                writers[ZERO_SCATTERED] = lambda: _scattered(k, *corner, slices, rows, columns, zero=True)
            if self.turns:
                following = k.mul(k.least(k.add(i, 1), k.add(k["count"], -1)), JOB)
                ahead = k.sub(k.load(k["jobs"], k.add(following, 1), I64), source)
                writers[BESIDE] = lambda: _transposed(k, *corner, slices, rows, columns, lanes, below, ahead)
            kind = k.build.select(below, I64(BESIDE), kind)
            for number, write in writers.items():
                with k.when(k.build.icmp_signed("==", kind, I64(number))):
                    write()
        k.build.ret_void()


def _moved(k: Kernel, place: Place, index: Value | int, step: Value) -> Place:
    return k.at(place, k.mul(index, step))


def _read(k: Kernel, place: Place, lanes: int, used: Value | int | None = None) -> tuple[Value, ...]:
    """The numbers from a place on, or their high halves and their low ones, which are as many as that takes."""
    if _splits(k):
        return k.halves(place, used)
    return (k.load_vector(place, lanes, used),)


def _write(k: Kernel, values: Sequence[Value], place: Place, used: Value | None = None) -> None:
    """Vectors where they belong: low halves further on."""
    for value, far in zip(values, (0, k["low"]) if _splits(k) else (0,), strict=True):
        k.store_vector(value, k.at(place, far), used)


def _splits(k: Kernel) -> bool:
    return k.stored.get("source") in SPLITS


def _nothing(k: Kernel, lanes: int) -> tuple[Value, ...]:
    return (k.zeros(lanes),) * (1 + _splits(k))


def _scattered(k: Kernel, a: Place, b: Place, slices: Loop, rows: Loop, columns: Loop, *, zero: bool) -> None:
    """Number by number."""
    with k.loop(slices.size) as p, k.loop(rows.size) as r:
        from_row = _moved(k, _moved(k, a, p, slices.source), r, rows.source)
        to_row = _moved(k, _moved(k, b, p, slices.target), r, rows.target)
        with k.loop(columns.size) as j:
            place = _moved(k, to_row, j, columns.target)
            if _splits(k):
                both = _nothing(k, SPLIT_LANES) if zero else k.halves(_moved(k, from_row, j, columns.source), 1)
                _write(k, both, place, 1)
            else:
                k.store(k.real(0.0) if zero else k.load(from_row, k.mul(j, columns.source)), place)


def _runs(k: Kernel, a: Place, b: Place, slices: Loop, rows: Loop, columns: Loop, lanes: int, *, zero: bool) -> None:
    """Columns next to each other in both arrays. The last vector of a row overlaps the one before it."""

    def move(source: Place, target: Place, offset: Value | int, used: Value | None = None) -> None:
        for number in range(0 if zero else 1 + (k.stored.get("source") == GATHERED)):
            k.prefetch(k.at(k.at(source, offset), k.mul(k["other"], number)), AHEAD)
        values = _nothing(k, lanes) if zero else _read(k, k.at(source, offset), lanes, used)
        _write(k, values, k.at(target, offset), used)

    with k.loop(slices.size) as p, k.loop(rows.size) as r:
        from_row = _moved(k, _moved(k, a, p, slices.source), r, rows.source)
        to_row = _moved(k, _moved(k, b, p, slices.target), r, rows.target)
        if _splits(k):  # it takes long to compile: there is one place for all of it
            with k.loop(columns.size, step=lanes) as j:
                move(from_row, to_row, j, k.least(k.sub(columns.size, j), lanes))
        else:
            _run(k, partial(move, from_row, to_row), columns.size, lanes)


def _run(k: Kernel, move: Callable[..., None], size: Value, lanes: int) -> None:
    """So many numbers by vectors, some at once."""
    with k.build.if_else(k.less(size, lanes)) as (then, otherwise):
        with then:
            move(0, size)
        with otherwise:
            last = k.sub(size, lanes)
            wide = k.sub(size, WIDE * lanes - 1)
            with k.loop(wide, step=WIDE * lanes) as j:
                for vector in range(WIDE):
                    move(k.add(j, vector * lanes))
            done = k.build.and_(size, I64(-WIDE * lanes))
            with k.loop(last, done, step=lanes) as j:
                move(j)
            move(last)


WIDE = 4
"""Vectors of a run that are copied at once."""

AHEAD = 2048
"""Numbers that are on the way from memory while others are copied: of short runs processors foresee too few."""


def _transposed(
    k: Kernel, a: Place, b: Place, slices: Loop, rows: Loop, columns: Loop, wide: int, below: Value, ahead: Value
) -> None:
    """Columns next to each other in the source, rows in the target.

    Squares of vectors are transposed in registers and put side by side in a block that stays in the first-level
    cache; its lines then go to the target whole. Distances that are powers of two make the caches forget lines early,
    so each is visited once. Slices are below each other in the block where they are in the target, else beside.
    Squares at the borders are filled up with anything, which what follows in the block overwrites. Numbers that come
    from far as they are, are asked for meanwhile, the next block so far `ahead`: processors do not foresee pieces of so
    many rows.
    """
    lanes = min(wide, SQUARE // BYTES[k.dtype])
    across = SPLIT_LANES if _splits(k) else lanes
    pieces, groups = (k.build.select(below, *pair) for pair in ((slices.size, I64(1)), (I64(1), slices.size)))
    width, height = k.mul(columns.size, groups), k.mul(rows.size, pieces)
    pitch = k.build.and_(k.add(height, 2 * lanes - 1), I64(-lanes))
    blocks = [k.scratch(BLOCK // _bytes(k.dtype)) for _ in _nothing(k, lanes)]
    far = k.build.icmp_signed("!=", k["far"], I64(0))
    # Of slices side by side only the first line is asked for: where theirs are is not so soon told.
    apart = k.build.select(k.build.icmp_signed("==", groups, I64(1)), columns.target, I64(0))
    with k.loop(height, step=lanes) as r:
        offsets = _offsets(k, r, height, rows, slices, lanes)
        with k.loop(width, step=across) as j:
            left = k.sub(width, j)
            corners = k.at(a, j), [_moved(k, k.at(block, r), j, pitch) for block in blocks]
            if not k.stored.get("source"):
                with k.when(far):
                    _ask(k, corners[0], [k.add(ahead, offset) for offset in offsets])
                    _ask(k, k.at(b, r), accumulate(repeat(apart, lanes - 1), k.add, initial=k.mul(j, apart)), True)
            if _splits(k):
                read = _square(k, corners[0], offsets, k.least(left, across))
            else:
                read = _either(k, k.less(across - 1, left), corners[0], offsets, left)
            _turn(k, read, corners[1], pitch)
    rest = k.build.and_(height, I64(lanes - 1))
    whole_rows = k.sub(height, rest)

    def lines() -> Iterator[tuple[list[Place], Place]]:
        """Where each line of the blocks is, and where it goes."""
        with k.loop(groups) as g, k.loop(columns.size) as j:
            each = [_moved(k, _moved(k, block, k.mul(g, columns.size), pitch), j, pitch) for block in blocks]
            yield each, _moved(k, _moved(k, b, g, slices.target), j, columns.target)

    def line(each: Sequence[Place], to: Place, at: Value | int, count: int, used: Value | None = None) -> None:
        _write(k, [k.load_vector(k.at(one, at), count) for one in each], k.at(to, at), used)

    # Lines of one vector, unless they all share few places in the cache, which so many at once would wait for.
    clash = k.build.icmp_signed("==", k.remainder(columns.target, CLASH // BYTES[k.dtype]), I64(0))
    short = k.build.and_(k.build.icmp_signed("==", height, I64(wide)), k.build.not_(clash))
    with k.build.if_else(short) as (then, otherwise):
        with then:
            for each, to in lines():
                line(each, to, 0, wide)
        with otherwise:
            for each, to in lines():
                with k.loop(whole_rows, step=lanes) as r:
                    line(each, to, r, lanes)
                with k.when(k.less(0, rest)):
                    line(each, to, whole_rows, lanes, rest)


def _ask(k: Kernel, start: Place, offsets: Iterable[Value], written: bool = False) -> None:
    """Ask for lines so far from a place on, to be read or written."""
    for offset in offsets:
        k.prefetch(start, offset, written)


def _offsets(k: Kernel, first: Value, end: Value, rows: Loop, slices: Loop, lanes: int) -> list[Value]:
    """Where rows from the first on are, those of the slices below each other; the last one stands for any behind it."""
    row = k.build.urem(first, rows.size)
    found = [k.add(k.mul(k.build.udiv(first, rows.size), slices.source), k.mul(row, rows.source))]
    over = k.sub(slices.source, k.mul(k.sub(rows.size, 1), rows.source))
    for number in range(1, lanes):
        row = k.add(row, 1)
        last = k.build.icmp_signed("==", row, rows.size)
        row = k.build.select(last, I64(0), row)
        step = k.build.select(last, over, rows.source)
        there = k.less(k.add(first, number), end)
        found.append(k.add(found[-1], k.build.select(there, step, I64(0))))
    return found


def _square(k: Kernel, source: Place, offsets: Sequence[Value], used: Value | None = None) -> list[tuple[Value, ...]]:
    """A vector of each row, of which so many numbers are there; or its halves."""
    return [_read(k, k.at(source, offset), len(offsets), used) for offset in offsets]


def _either(k: Kernel, whole: Value, source: Place, offsets: Sequence[Value], used: Value) -> list[tuple[Value, ...]]:
    """A vector of each row that is read whole, or in part: what follows is written once, as shuffles take
    long to compile."""
    kind = k.vector(len(offsets))
    kept = [k.variable(kind) for _ in offsets]
    with k.build.if_else(whole) as branches:
        for branch, count in zip(branches, (None, used), strict=True):
            with branch:
                for own, (row,) in zip(kept, _square(k, source, offsets, count), strict=True):
                    k.put(own, row)
    return [(k.get(own, kind),) for own in kept]


def _turn(k: Kernel, read: Sequence[tuple[Value, ...]], targets: Sequence[Place], pitch: Value) -> None:
    """Transpose a vector's length of vectors, or of halves of them."""
    lanes = len(read)
    for target, rows in zip(targets, zip(*read, strict=True), strict=True):
        for first in range(0, rows[0].type.count, lanes):
            square = (
                rows if rows[0].type.count == lanes else [k.shuffle(r, r, range(first, first + lanes)) for r in rows]
            )
            for number, vector in enumerate(_turned(k, list(square))):
                k.store_vector(vector, _moved(k, target, first + number, pitch))


def _turned(k: Kernel, rows: list[Value]) -> list[Value]:
    """Transpose a square of vectors.

    First inside groups of 16 bytes, by interleaving rows that are half a group apart; then the groups, by parting
    those with even from those with odd numbers. Each of these shuffles is one instruction wherever vectors are.
    """
    lanes = len(rows)
    group = 16 // k.real.bytes
    blocks = [rows[first : first + group] for first in range(0, lanes, group)]
    low, high = (
        [
            half * group // 2 + lane // 2 + lane % 2 * lanes + first
            for first in range(0, lanes, group)
            for lane in range(group)
        ]
        for half in (0, 1)
    )
    size = group
    while size > 1:
        blocks = [
            [
                k.shuffle(x, y, lanes_)
                for x, y in zip(block[: group // 2], block[group // 2 :], strict=True)
                for lanes_ in (low, high)
            ]
            for block in blocks
        ]
        size //= 2
    # Now vector `column` of block i holds, in its group g, column g·group + column of rows i·group to (i + 1)·group.
    turned: list[Value] = [None] * lanes
    even, odd = (
        [2 * group * pair + group * side + lane for pair in range(lanes // group) for lane in range(group)]
        for side in (0, 1)
    )
    for column in range(group):
        line = [block[column] for block in blocks]
        size = len(line)
        while size > 1:
            pairs = list(zip(line[::2], line[1::2], strict=True))
            line = [k.shuffle(x, y, even) for x, y in pairs] + [k.shuffle(x, y, odd) for x, y in pairs]
            size //= 2
        for g, vector in enumerate(line):
            turned[g * group + column] = vector
    return turned
