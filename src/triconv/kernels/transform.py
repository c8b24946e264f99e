"""Winograd's transforms: a small matrix along every axis of a tile, over vectors of channels.

    scratch[place + Σ q_a·P_a + channel] = Σ_j  Π_a M_a[q_a, j_a] · array[place + Σ j_a·s_a + channel]

or back, the array from scratch. One axis is transformed after the other, in memory that stays in the first-level cache.
The array is what the problem has: tiles may reach beyond its edges, and its channels need not fill vectors. What lies
beyond reads as zero, and is not written. Scratch has whole vectors everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import NamedTuple

from ..filtering import Matrix
from . import ir
from .finish import AS_IT_IS, Corner, Finish
from .target import Target
from .words import BYTES, I64, POINTER, Kernel, Place, Value, begin

JOB = 4
"""Integers of a job besides its ends: source, target, channels, and whether the tile lies inside of the array."""

AHEAD = 2
"""Jobs whose array is on its way from memory, to be read or to be written over. More were further from their turn, so
that some had left the nearest cache again."""

At = list[Value | int]
"""Where on each axis."""


class Edge(NamedTuple):
    """Where a tile may not be inside of the array, or channels are less than a vector."""

    used: Value
    """How many channels there are."""
    ends: Sequence[Value]
    """From where to where the array is there, on each axis."""
    nothing: Place
    """A vector of zeros, which is read where the array is not."""
    anything: Place
    """Room for a vector, which is written where the array is not."""


class Table(NamedTuple):
    """What is the same for all passes of a job."""

    steps: Sequence[Value]
    lanes: int
    ahead: Value
    """How far a job to come is from this one, in the array."""
    wrong: Value
    """A vector that is no longer zero once something was made that is not finite."""
    end: Corner = (None, None)
    """What the result is finished with, from the tile's corner on."""


@dataclass(frozen=True)
class Transform:
    """What a transform is specialised to; sizes of arrays and their steps are in its tables."""

    dtype: str
    matrices: tuple[Matrix, ...]
    """Of each axis; rows make results."""
    back: bool = False
    """Whether it goes from scratch to an array, and not from an array to scratch."""
    adds: bool = False
    """Whether it adds to what the array has."""
    finish: Finish = AS_IT_IS
    """What is done on the way back to what is written."""
    edges: bool = True
    """Whether some tiles reach beyond the array, or some channels are less than a vector."""
    stored: str = ""
    """How the array is stored, and what finishes it, if not as what is computed with."""
    past: bool = False
    """Whether what lies inside of the array goes to memory past the caches, which it would only fill: it is whole
    vectors, each of which begins where a vector does."""

    @property
    def name(self) -> str:
        return "transform"

    @property
    def arguments(self) -> dict[str, ir.Type]:
        """`steps` are those of the axes in the source, then in the target.

        On the way back `wrong` gets a vector that is zero only if all that was written is finite.
        """
        found: dict[str, ir.Type] = {"source": POINTER, "target": POINTER, "jobs": POINTER, "count": I64}
        return {**found, "steps": POINTER, **({"wrong": POINTER} if self.back else {}), **self.finish.arguments}

    @property
    def job(self) -> int:
        """Integers of a job: behind its first ones, where on each axis the array begins and ends."""
        return JOB + 2 * len(self.matrices)

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        arrays = "target" if self.back else "source", *self.finish.arguments
        k = begin(module, name, self.dtype, self.arguments, dict.fromkeys(arrays, self.stored))
        rank, lanes = len(self.matrices), machine.lanes(BYTES[self.dtype])
        rooms = [k.scratch(prod(self._sizes(axis)) * lanes) for axis in range(rank - 1)]
        steps = [k.load(k["steps"], number, I64) for number in range(2 * rank)]
        wrong, nothing, anything = k.variable(k.vector(lanes)), k.scratch(lanes), k.scratch(lanes)
        k.put(wrong, k.zeros(lanes))
        k.store_vector(k.zeros(lanes), nothing)
        with k.loop(k["count"]) as i:
            source, target, channels, inside, *ends = k.row("jobs", i, self.job)
            soon = k.build.select(k.less(k.add(i, AHEAD), k["count"]), I64(AHEAD), I64(0))
            far, here = (1, target) if self.back else (0, source)
            ahead = k.sub(k.load(k["jobs"], k.add(k.mul(k.add(i, soon), self.job), far), I64), here)
            table = Table(steps, lanes, ahead, wrong)
            with k.loop(channels, step=lanes) as channel:
                corner = k.at(k["source"], k.add(source, channel)), k.at(k["target"], k.add(target, channel))
                left = k.sub(channels, channel)
                full = k.build.icmp_signed(">=", left, I64(lanes))
                whole = k.build.and_(full, k.build.icmp_signed("!=", inside, I64(0)))
                used = k.build.select(full, I64(lanes), left)
                table = table._replace(end=self.finish.corner(k, k.add(target, channel)))
                for axis in range(rank):
                    if axis != (rank - 1 if self.back else 0) or not self.edges:
                        self._pass(k, axis, corner, rooms, table)
                        continue
                    with k.build.if_else(whole) as (then, otherwise):
                        with then:
                            self._pass(k, axis, corner, rooms, table)
                        with otherwise:
                            self._pass(k, axis, corner, rooms, table, Edge(used, ends, nothing, anything))
        if self.back:
            k.store_vector(k.get(wrong, k.vector(lanes)), k["wrong"])
        k.build.ret_void()

    def _sizes(self, axis: int) -> list[int]:
        """How long the axes are once one, and those before it, are transformed."""
        done, left = self.matrices[: axis + 1], self.matrices[axis + 1 :]
        return [*map(len, done), *(len(matrix[0]) for matrix in left)]

    def _pass(
        self,
        k: Kernel,
        axis: int,
        corner: tuple[Place, Place],
        rooms: Sequence[Place],
        table: Table,
        edge: Edge | None = None,
    ) -> None:
        """Transform one axis, the array's side within its `edge`."""
        rank, matrix, (steps, lanes, ahead, _, (_, mask)) = len(self.matrices), self.matrices[axis], table

        source, own = (rooms[axis - 1], self._apart(axis - 1, lanes)) if axis else (corner[0], steps[:rank])
        target, to = (rooms[axis], self._apart(axis, lanes)) if axis < rank - 1 else (corner[1], steps[rank:])
        # Worked out before the loops, as nothing else takes them out.
        read_at, write_at = (
            [k.mul(n, step[axis]) for n in range(len(one))] for one, step in ((matrix[0], own), (matrix, to))
        )

        def read(first: Place, at: At) -> Value:
            place = k.at(first, read_at[at[axis]])
            if axis or self.back:
                return k.load_vector(place, lanes)
            k.prefetch(place, ahead)
            if edge is not None:
                place = k.unless(_outside(k, at, edge.ends), place, edge.nothing, edge.used)
            return k.load_vector(place, lanes, None if edge is None else edge.used)

        def write(first: Place, kept: Place | None, at: At, value: Value) -> None:
            place = k.at(first, write_at[at[axis]])
            if axis < rank - 1 or not self.back:
                k.store_vector(value, place)
            else:
                kept = None if kept is None else k.at(kept, write_at[at[axis]])
                self._finished(k, value, place, kept, at, table, edge)

        others = self._sizes(axis)
        others.pop(axis)
        with ExitStack() as loops:
            at: At = [loops.enter_context(k.loop(size)) for size in others]
            at[axis:axis] = [0]
            first, last = _moved(k, source, at, own), _moved(k, target, at, to)
            kept_at = _moved(k, mask, at, to) if mask is not None and axis == rank - 1 else None
            values = [read(first, [*at[:axis], j, *at[axis + 1 :]]) for j in range(len(matrix[0]))]
            for q, value in _product(k, matrix, values):
                write(last, kept_at, [*at[:axis], q, *at[axis + 1 :]], value)

    def _finished(
        self, k: Kernel, value: Value, place: Place, kept: Place | None, at: At, table: Table, edge: Edge | None
    ) -> None:
        """Write a vector of the result, and mark what is not finite."""
        lanes, used, before = table.lanes, None, place
        if not self.past:
            k.prefetch(place, table.ahead, written=True)
        if edge is not None:
            outside, used = _outside(k, at, edge.ends), edge.used
            before = k.unless(outside, place, edge.nothing, used)
            kept = None if kept is None else k.unless(outside, kept, edge.nothing, used)
            place = k.unless(outside, place, edge.anything, used)
        if self.adds:
            value = k.build.fadd(k.load_vector(before, lanes, used), value)
        # Infinite or NaN times zero is not zero. What is not written may be of products that nobody made.
        seen = value
        if edge is not None:
            there = k.build.select(outside, I64(0), edge.used)
            seen = k.build.select(k.first(there, lanes), value, k.zeros(lanes))
        k.put(table.wrong, k.fma(seen, k.zeros(lanes), k.get(table.wrong, value.type)))
        value = self.finish(k, value, (table.end[0], kept), used)
        if self.past and edge is None:
            k.store_past(value, place)
        else:
            k.store_vector(value, place, used)

    def _apart(self, axis: int, lanes: int) -> list[Value | int]:
        """How far vectors are apart on each axis, in numbers, once one is transformed."""
        sizes = self._sizes(axis)
        return [prod(sizes[axis + 1 :]) * lanes for axis in range(len(sizes))]


def _moved(k: Kernel, place: Place, at: At, steps: Sequence[Value | int]) -> Place:
    terms = [k.mul(index, step) for index, step in zip(at, steps, strict=True) if index != 0]
    return k.at(place, k.add(*terms)) if terms else place


def _outside(k: Kernel, at: At, ends: Sequence[Value]) -> Value:
    """Whether a position is beyond the array."""
    sides = [
        side
        for axis, n in enumerate(at)
        for side in (k.less(n, ends[2 * axis]), k.less(ends[2 * axis + 1], k.add(n, 1)))
    ]
    return reduce(k.build.or_, sides)


def _product(k: Kernel, matrix: Matrix, values: Sequence[Value]) -> Iterator[tuple[int, Value]]:
    """A matrix times a column of vectors. Rows that differ in signs alone share the sums of what they agree on."""
    lanes = values[0].type.count
    rows = dict(enumerate(matrix))
    while rows:
        number, row = rows.popitem()
        twin = next((other for other, own in rows.items() if _twins(row, own)), None)
        if twin is None:
            yield number, _sum(k, row, values, lanes)
            continue
        own = rows.pop(twin)
        same = _sum(k, tuple(a if a == b else 0.0 for a, b in zip(row, own, strict=True)), values, lanes)
        other = _sum(k, tuple(a if a != b else 0.0 for a, b in zip(row, own, strict=True)), values, lanes)
        yield number, k.build.fadd(same, other)
        yield twin, k.build.fsub(same, other)


def _twins(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether rows are alike but for some signs, and share enough."""
    agreed = sum(x == y != 0 for x, y in zip(a, b, strict=True))
    opposed = sum(x == -y != 0 for x, y in zip(a, b, strict=True))
    return agreed > 0 < opposed and [abs(x) for x in a] == [abs(y) for y in b]


def _sum(k: Kernel, row: Sequence[float], values: Sequence[Value], lanes: int) -> Value:
    """A row times a column of vectors."""
    terms = sorted((abs(factor) != 1, number, factor) for number, factor in enumerate(row) if factor)
    combine: Callable[[Value, Value], Value]
    total = None
    for scaled, number, factor in terms:
        value, constant = values[number], k.constant(factor, lanes)
        if scaled:
            total = k.build.fmul(value, constant) if total is None else k.fma(value, constant, total)
        elif total is None:
            total = value if factor == 1 else k.build.fneg(value)
        else:
            combine = k.build.fadd if factor == 1 else k.build.fsub
            total = combine(total, value)
    return k.zeros(lanes) if total is None else total
