"""A loop nest over three strided arrays, and how it is cut into tiles.

A nest multiplies entries of A and B, sums them over some indices, and puts the sums into C:

    C[corner + results] = Σ_{taps, sums}  A[corner + tap + results + sums] · B[corner + tap + results + sums]

One index is the vector: it steps by one in B, and in A and C too where it steps in them at all. Which of the others
become rows of a tile (they leave B alone), columns (they leave A alone), depth, taps or tiles follows from their steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .target import Target

Table = NDArray[np.int64]

LOADS, MULTIPLICATIONS = 2, 2
"""How many of them a core starts in a cycle."""

SOME = 8
"""Turns that make a loop worth being the innermost."""

WHOLE = 4
"""Vectors next to each other that memory gives as fast as it can."""

LONG = 256
"""Steps of a sum that make up for loading and storing what is added to."""

FETCHED = 6
"""As many loads as a vector takes that comes from the second-level cache, as do the channels of neighbouring lines."""

FAR_APART = 0.02
"""By how much of a step each further run of neighbouring rows or columns makes it longer."""

OVERHEAD, SUM_UP, SUMMED = 20, 6, 1.25
"""Cycles that a tile takes besides its steps, and that adding up the lanes of a vector takes; and how much longer a
step takes where both operands come as vectors, as the caches feel it."""


@dataclass(frozen=True)
class Index:
    """A loop: how often, and how far it steps in A, B and C, in numbers; one of a nest runs over vectors."""

    count: int
    a: int
    b: int
    c: int
    vector: bool = False

    def around(self, inner: Index) -> bool:
        """Whether this loop around another one is one longer loop."""
        steps = ((self.a, inner.a), (self.b, inner.b), (self.c, inner.c))
        return not self.vector and all(step == inner.count * by for step, by in steps)


@dataclass(frozen=True, eq=False)
class Nest:
    """The loops of one operation: those over its results, outermost first, and those over what is summed.

    Each corner (a, b, c, first tap, last tap) begins the whole nest somewhere else, with taps of its own. The corners
    take turns inside of the `outer` loops over results, and around the others.
    """

    outer: tuple[Index, ...]
    results: tuple[Index, ...]
    sums: tuple[Index, ...]
    corners: Table
    taps: Table
    taps_inside: bool = False
    """Whether the taps are summed inside of the sums, so that what neighbouring taps share is still in the cache."""
    once: str = ""
    """A, B or C if that is a large weight of which each part is met once: then it is taken as it lies."""
    spread: bool = False
    """Whether the turns of all sums but the depth are tiles of their own, which add to C: where C is small, and they
    read what lies side by side. C adds up what several nests find, too."""
    reread: int = 0
    """Bytes of operands that every tile reads. Where they outgrow the cache, the sum is taken in parts."""


@dataclass(frozen=True)
class Block:
    """How many of each result index a tile takes, numbers of the vector among them, and cycles for the whole nest."""

    sizes: tuple[int, ...]
    cycles: float


@dataclass(frozen=True, eq=False)
class Cut:
    """A nest made ready: loops merged, the depth chosen, the tile and the parts of the sum decided; no tables yet."""

    nest: Nest
    results: tuple[Index, ...]
    outer: int
    """How many of the results are outside of the corners."""
    depth: Index
    others: tuple[Index, ...]
    """The sums besides the depth, which multiply the taps."""
    block: Block
    parts: int
    steps: tuple[tuple[int, int], ...] = ()
    """Where the whole sum is written out: how far its products are from the first in A and B. No depth is left then."""
    together: int = 1
    """How many steps of the depth are written out, so that what they share is loaded once."""

    @property
    def tiles(self) -> int:
        """How many tiles there are, those of all parts."""
        each = prod(ceil(loop.count / size) for loop, size in zip(self.results, self.block.sizes, strict=True))
        spread = prod(loop.count for loop in self.others) if self.nest.spread else 1
        return each * len(self.nest.corners) * spread * self.parts

    @property
    def adds(self) -> bool:
        """Whether tiles add to what C holds."""
        return self.parts > 1 or self.nest.spread

    @property
    def taps(self) -> int:
        """How many taps there are, times the other sums."""
        around = 1 if self.nest.spread else prod(loop.count for loop in self.others)
        return 1 if self.steps else len(self.nest.taps) * around

    def tables(self) -> tuple[Table, Table]:
        """The corners and the taps, with the other sums."""
        nest, corners = self.nest, self.nest.corners.copy()
        if self.steps:
            corners[:, :2] += nest.taps[corners[:, 3]]
            corners[:, 3:] = 0, 1
            return corners, np.zeros((1, 2), np.int64)
        if nest.spread:
            turns = [[(i * loop.a, i * loop.b, 0, 0, 0) for i in range(loop.count)] for loop in self.others]
            return outer_sum(corners, *turns), nest.taps
        others = [[(i * loop.a, i * loop.b) for i in range(loop.count)] for loop in self.others]
        around = outer_sum([(0, 0)], *others)
        corners[:, 3:] *= len(around)
        if not nest.taps_inside:
            return corners, outer_sum(nest.taps, around)
        ranges = sorted({(int(first), int(last)) for first, last in nest.corners[:, 3:]})
        inside = [outer_sum(around, nest.taps[first:last]) for first, last in ranges]
        begins = np.cumsum([0, *map(len, inside)])
        for row, (first, last) in zip(corners, nest.corners[:, 3:], strict=True):
            number = ranges.index((int(first), int(last)))
            row[3:] = begins[number], begins[number + 1]
        return corners, np.concatenate(inside) if inside else nest.taps


def cut(nest: Nest, itemsize: int, machine: Target, room: int) -> Cut:
    """Decide how a nest is run; `room` is what the operands may take of a cache."""
    corners = nest.corners
    outer, inner = (
        (merged(nest.outer), nest.results) if len(corners) > 1 or nest.spread else ((), (*nest.outer, *nest.results))
    )
    results = (*outer, *merged(inner))
    lanes, parts = machine.lanes(itemsize), 1 if nest.spread else ceil(nest.reread / room)
    depth, others = _depth(nest, parts)
    around = prod(loop.count for loop in others)
    longest = int((corners[:, 4] - corners[:, 3]).max(initial=1)) * around
    each = ceil(depth.count / lanes) if depth.vector else depth.count
    steps = each * around * int((corners[:, 4] - corners[:, 3]).sum()) / max(len(corners), 1)
    loads = _vector_loads([*results, depth, *others], nest, lanes)
    block = best_block(results, depth, steps, lanes, machine.registers, loads, nest.once in ("B", "C"), nest.spread)
    block = replace(block, cycles=block.cycles * len(corners))
    tiles = prod(ceil(loop.count / size) for loop, size in zip(results, block.sizes, strict=True))
    parts = max(1, min(parts, longest, int(steps) // LONG)) if tiles > 1 else 1
    if parts == 1 and not nest.spread and (written := _steps(nest)):
        other = written_out(results, written, lanes, machine.registers, loads)
        if other.cycles * len(corners) < block.cycles:
            other = replace(other, cycles=other.cycles * len(corners))
            return Cut(nest, results, len(outer), Index(1, 0, 0, 0), (), other, 1, written)
    together = _together(results, depth, block, lanes, machine.registers)
    return Cut(nest, results, len(outer), depth, others, block, parts, (), together)


def _together(results: Sequence[Index], depth: Index, block: Block, lanes: int, registers: int) -> int:
    """How many steps of the depth share what they load, if A comes as vectors of which rows read several."""
    tall = [size if loop.b == 0 and not loop.vector else 1 for loop, size in zip(results, block.sizes, strict=True)]
    wide = prod(
        ceil(size / lanes) if loop.vector else size
        for loop, size in zip(results, block.sizes, strict=True)
        if loop.vector or (loop.a == 0 and loop.b != 0)
    )
    if depth.vector or not any(loop.vector and loop.a for loop in results) or prod(tall) == 1:
        return 1
    together = max(1, min(TOGETHER, depth.count, registers - prod(tall) * wide - 2))
    turns = tuple((n, loop.a) for n, loop in zip(tall, results, strict=True) if n > 1)
    fewer = _places(tuple(i * depth.a for i in range(together)), turns) < prod(tall) * together
    return together if fewer else 1


TOGETHER = 4
"""Steps of a depth that are written out: most of what they share is between neighbours."""


def _steps(nest: Nest) -> tuple[tuple[int, int], ...]:
    """How far the products of a sum are from its first in A and B, if they are few and everywhere the same."""
    firsts, lasts = nest.corners[:, 3], nest.corners[:, 4]
    many = set((lasts - firsts).tolist())
    if len(many) != 1 or nest.once or any(loop.vector for loop in nest.sums):
        return ()
    (taps,) = many
    if not 1 < taps * prod(loop.count for loop in nest.sums) <= WRITTEN:
        return ()
    patterns = nest.taps[firsts[:, None] + np.arange(taps)] - nest.taps[firsts[:, None]]
    if (patterns != patterns[0]).any():
        return ()
    turns = [[(i * loop.a, i * loop.b) for i in range(loop.count)] for loop in nest.sums]
    return tuple((int(a), int(b)) for a, b in outer_sum(patterns[0], *turns))


def written_out(
    results: Sequence[Index],
    steps: Sequence[tuple[int, int]],
    lanes: int,
    registers: int,
    vector_loads: tuple[int, int],
) -> Block:
    """The tile of the fewest cycles where all products of a sum are written out, and what they share is loaded once."""
    vector = next((loop for loop in results if loop.vector), Index(lanes, 0, 1, 0, True))
    rows = [loop.count if loop.b == 0 and not loop.vector else 1 for loop in results]
    columns = [loop.count if loop.a == 0 and loop.b != 0 and not loop.vector else 1 for loop in results]
    alone = prod(loop.count for loop in results if loop.a != 0 != loop.b and not loop.vector)
    every = ceil(vector.count / lanes)
    steps_a, steps_b = zip(*steps, strict=True)
    best = Block((), float("inf"))
    for tall, many in product(_patches(rows, registers), _patches(columns, registers)):
        height, width = prod(tall), prod(many)
        a = _places(steps_a, tuple((n, loop.a) for n, loop in zip(tall, results, strict=True) if n > 1))
        b = _places(steps_b, tuple((n, loop.b) for n, loop in zip(many, results, strict=True) if n > 1))
        for vectors in range(1, min(every, WHOLE) + 1):
            products = height * width * vectors * len(steps)
            # What shares a load is multiplied in turn, and its other factors are kept in registers until then.
            if vector.a:
                live, shared = height, ceil(height * len(steps) / a)
                loads = width * vectors * (a * vector_loads[0] * FETCHED + len(steps) * vector_loads[1])
            else:
                live, shared = height * width * vectors, ceil(width * len(steps) / b)
                loads = vectors * b * vector_loads[1] + height * a
            if products > WRITTEN_IN_ALL or live + shared + 2 > registers:
                continue
            cycles = max(products / MULTIPLICATIONS, loads / LOADS) + height * width * vectors + OVERHEAD
            cycles *= alone * _tiles(rows, tall) * _tiles(columns, many) * ceil(every / vectors)
            if cycles < best.cycles * (1 - 1e-9):
                taken = (
                    min(vectors * lanes, vector.count) if loop.vector else m * c
                    for loop, m, c in zip(results, tall, many, strict=True)
                )
                best = Block(tuple(taken), cycles)
    return best


WRITTEN, WRITTEN_IN_ALL = 64, 256
"""Products of a sum, and of a tile, that are few enough to be written out."""


def _patches(counts: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Part of the innermost dimension, with one or few of each of the others, while they are few enough together."""
    inner = max((axis for axis, count in enumerate(counts) if count > 1), default=-1)
    choices = [range(1, (count if axis == inner else min(count, LINES)) + 1) for axis, count in enumerate(counts)]
    return (sizes for sizes in product(*choices) if prod(sizes) <= limit)


LINES = 4
"""Neighbouring lines of a tile, which share most of what they read."""


@lru_cache(maxsize=1024)
def _places(steps: tuple[int, ...], turns: tuple[tuple[int, int], ...]) -> int:
    """How many places are read from steps on in turns of loops, each a count and a step."""
    found = np.array(steps)
    for count, step in turns:
        found = np.unique(np.add.outer(np.arange(count) * step, found))
    return len(set(found.tolist()))


def merged(loops: Sequence[Index]) -> tuple[Index, ...]:
    """The same loops, with those of one turn left out and those that are one longer loop made one."""
    kept: list[Index] = []
    for loop in reversed(loops):
        if kept and loop.count > 1 and loop.around(kept[-1]):
            kept[-1] = replace(kept[-1], count=loop.count * kept[-1].count)
        elif loop.count > 1 or loop.vector:
            kept.append(loop)
    return tuple(reversed(kept))


def _depth(nest: Nest, parts: int) -> tuple[Index, tuple[Index, ...]]:
    """The sum that is the depth, and the others.

    The depth is the sum over vectors; or the one of those of some length that has the shortest steps; or where taps are
    inside, the last if it is a loop of taps.
    If the sum is taken in parts, the others should have as many turns.
    """
    loops = list(merged(nest.sums))
    some = 1 if nest.spread else min(SOME, max((loop.count for loop in loops), default=1))
    able = [loop for loop in loops if loop.vector] or [loop for loop in loops if loop.count >= some]
    depth = min(able, key=lambda loop: abs(loop.a) + abs(loop.b), default=Index(1, 0, 0, 0))
    if nest.taps_inside and not depth.vector:
        depth = loops[-1] if len(nest.taps) == 1 and loops else Index(1, 0, 0, 0)
    others = prod(loop.count for loop in loops) // depth.count
    if parts > 1 and others * len(nest.taps) < parts and depth in loops and not depth.vector:
        turns = next((n for n in range(parts, 4 * parts) if depth.count % n == 0), 1)
        inner = replace(depth, count=depth.count // turns)
        loops[loops.index(depth)] = replace(depth, count=turns, a=inner.count * depth.a, b=inner.count * depth.b)
        loops, depth = [*loops, inner], inner
    return depth, tuple(loop for loop in loops if loop is not depth)


def _vector_loads(loops: Sequence[Index], nest: Nest, lanes: int) -> tuple[int, int]:
    """What a vector of A and of B cost to load: twice as much where most of them lie across two lines of the cache."""
    steps = [loop for loop in loops if loop.count > 1 and not loop.vector]
    a = [*(loop.a for loop in steps), *nest.taps[:, 0], *nest.corners[:, 0]]
    b = [*(loop.b for loop in steps), *nest.taps[:, 1], *nest.corners[:, 1]]
    return (1 + bool((np.array(a) % lanes).any()), 1 + bool((np.array(b) % lanes).any()))


def best_block(
    results: Sequence[Index],
    depth: Index,
    steps: float,
    lanes: int,
    registers: int,
    vector_loads: tuple[int, int] = (1, 1),
    whole_lines: bool = False,
    both_data: bool = False,
) -> Block:
    """The tile that takes the fewest cycles.

    A step loads vectors and numbers and multiplies rows × columns times; a tile's sums and the vectors it loads
    must fit the registers, and enough multiplications must be under way to hide how long one takes.
    """
    rows = [loop.count if loop.b == 0 and not loop.vector else 1 for loop in results]
    columns = [loop.count if loop.a == 0 and loop.b != 0 and not loop.vector else 1 for loop in results]
    alone = prod(loop.count for loop in results if loop.a != 0 != loop.b and not loop.vector)
    heights = [(prod(tall), tall, max(tall, default=1), _tiles(rows, tall)) for tall in _sizes(tuple(rows), registers)]
    vector = next((loop for loop in results if loop.vector), Index(lanes, 0, 1, 0, True))
    every = ceil(vector.count / lanes)
    best = Block(tuple(min(loop.count, lanes) if loop.vector else 1 for loop in results), float("inf"))
    most = min(every, registers // 2)
    for vectors in range(min(most, WHOLE) if whole_lines else 1, most + 1):
        for many in _sizes(tuple(columns), registers // vectors):
            width = vectors * prod(many)
            most_high, tiles = (
                max(1, (registers - 1) // width - 1),
                alone * _tiles(columns, many) * ceil(every / vectors),
            )
            for height, tall, longest, tiles_down in heights:
                if height > most_high or ((height + (height > 1)) * width + 1 > registers and height * width > 1):
                    continue
                from_a, from_b = (vectors * vector_loads[0] if vector.a else 1), vector_loads[1]
                loads: float = height * (vector_loads[0] if depth.vector else from_a) + width * from_b
                if vector.a and not depth.vector:
                    fetched = vector_loads[0] * (height / depth.count + height // longest) + both_data * vector_loads[1]
                    loads = max(loads, FETCHED * width * fetched)
                cycles = max(height * width / MULTIPLICATIONS, loads / LOADS, 1)
                cycles *= SUMMED if depth.vector else 1
                # Rows and columns that are far apart share none of what they read.
                cycles *= 1 + FAR_APART * (height // longest + width // vectors - 2)
                each = steps * cycles + height * width * (SUM_UP if depth.vector else 1) + OVERHEAD
                total = each * tiles * tiles_down
                if total < best.cycles * (1 - 1e-9):
                    taken = (
                        min(vectors * lanes, vector.count) if loop.vector else m * c
                        for loop, m, c in zip(results, tall, many, strict=True)
                    )
                    best = Block(tuple(taken), total)
    return best


def _tiles(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """How many blocks of these sizes cover so many."""
    return prod(ceil(count / size) for count, size in zip(counts, sizes, strict=True))


def _sizes(counts: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    """Part of one dimension, with all or one of each of the others, while they are few enough together."""
    choices = [(1,) if count == 1 else (1, count) for count in counts]
    for whole in product(*choices):
        taken = prod(whole)
        if taken <= limit:
            yield whole
        for axis, count in reversed(list(enumerate(counts))):
            if whole[axis] == 1 < count:
                for size in range(2, min(count - 1, limit // taken) + 1):
                    yield (*whole[:axis], size, *whole[axis + 1 :])


def outer_sum(*parts: Any) -> Table:
    """Rows of fields, summed for every combination of one row from each part, the last part running fastest."""
    total = np.asarray(parts[0], dtype=np.int64)
    for part in parts[1:]:
        rows = np.asarray(part, dtype=np.int64).reshape(-1, total.shape[1])
        total = (total[:, None, :] + rows[None, :, :]).reshape(-1, total.shape[1])
    return total
