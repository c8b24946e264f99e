"""A loop nest over three strided arrays, and how it is cut into tiles.

A nest multiplies entries of A and B, sums them over some indices, and puts the sums into C:

    C[corner + results] = Σ_{taps, sums}  A[corner + tap + results + sums] · B[corner + tap + results + sums]

One index is the vector: it steps by one in B, and in A and C too where it steps in them at all. Which of the others
become rows of a tile (they leave B alone), columns (they leave A alone), depth, taps or tiles follows from their steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from ..memory import LINE, PAGE
from .block import WRITTEN, Block, Sets, best_block, fresh, least_written, together, written_out
from .edges import BITS, Edge, Edges, Position, positions
from .index import Index, Table, merged, outer_sum
from .matrices import at_a_time, best_matrices
from .target import cache_bytes

if TYPE_CHECKING:
    from .target import Target

SOME = 4
"""Turns that make a loop worth being the innermost."""

LONG = 256
"""Steps of a sum that make up for loading and storing what is added to."""

LONG_OF_MATRICES = 512
"""Steps of a sum of matrices: their rows stay in the first-level cache then, as the second does not feed them all."""

MANY = 64
"""So many taps lie so far apart that what they meet comes from there."""


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
    """Bytes that the operands which every tile reads take. Where they outgrow the cache, the sum is taken in parts."""
    edges: tuple[Edge, ...] = ()
    """Axes of A with edges that tiles know of, as numbered by the loops; their sums are written out. Corners go on with
    where they are along each of these, counted from the first position that is read."""
    leaps: bool = False
    """Whether what taps meet of B lies wherever a graph's edges lead, which no processor foresees."""

    adds: bool = False
    """Whether C may hold something already, to which all is added."""
    pairs: bool = False
    """Whether numbers are pairs of bfloat16, which a processor may multiply as matrices."""
    past: bool = False
    """Whether C is written past the caches, which it would only fill, if its vectors are whole and in line."""
    low: tuple[int, int] = (0, 0)
    """How far low halves of numbers are behind the high ones in A and B, if numbers are split, as for matrices only."""
    ordered: bool = False
    """Whether tiles are matrices of pairs of the last sum, and take turns as the loops say: whoever made these knows
    what the caches hold."""
    left_over: float = 1.0
    """How many times as long tiles are taken to take that leave something over, which needs a kernel of its own."""
    pieces: tuple[int, ...] = ()
    """Where pieces of the corners begin that add to no number of C in common, and where the last ends, if any do."""

    @property
    def split(self) -> bool:
        """Whether numbers are."""
        return any(self.low)

    @property
    def as_matrices(self) -> bool:
        """Whether tiles are, of pairs of the last sum, in any case."""
        return self.split or self.ordered

    def turn(self, loop: Index, i: int) -> tuple[int, ...]:
        """What a turn of a loop adds to a corner, and to where it is along the axes with edges."""
        along = (i * loop.move if loop.axis == axis else 0 for axis in range(len(self.edges)))
        return i * loop.a, i * loop.b, i * loop.c, 0, 0, *along


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
    met: tuple[Position, ...] = ()
    """Where these are along the axes with edges."""
    together: int = 1
    """How many steps of the depth are written out, so that what they share is loaded once."""
    pairs: int = 0
    """How many pairs of the depth are multiplied at a time, as matrices; 0 where they are vectors."""

    @property
    def tiles(self) -> int:
        """How many tiles there are, those of all parts."""
        each = prod(ceil(loop.count / size) for loop, size in zip(self.results, self.block.sizes, strict=True))
        spread = prod(loop.count for loop in self.others) if self.nest.spread else 1
        return each * len(self.nest.corners) * spread * self.parts

    @property
    def adds(self) -> bool:
        """Whether tiles add to what C holds."""
        return self.parts > 1 or self.nest.spread or self.nest.adds

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
            corners[:, 3:5] = 0, 1
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
    apart = len(corners) > 1 or nest.spread or nest.ordered
    outer, inner = (merged(nest.outer), nest.results) if apart else ((), (*nest.outer, *nest.results))
    results, lanes = (*outer, *merged(inner)), machine.lanes(itemsize)
    if nest.edges:
        return _written(nest, results, len(outer), _steps(nest), machine, lanes)
    depth, others = _depth(nest, 1 if nest.spread else ceil(nest.reread / room))
    around, taps = prod(loop.count for loop in others), corners[:, 4] - corners[:, 3]
    each = ceil(depth.count / lanes) if depth.vector else depth.count
    steps = each * around * int(taps.sum()) / max(len(corners), 1)
    parts = 1
    if not nest.spread:
        longest = int(taps.max(initial=1)) * around
        matrices = nest.pairs and machine.matrices and nest.reread
        wanted = max(ceil(nest.reread / room), ceil(steps / LONG_OF_MATRICES) if matrices else 1)
        parts = max(1, min(wanted, longest, int(steps) // LONG))
        results = _in_blocks(results, len(outer), nest.reread // (parts * room), lanes)
    loads = _vector_loads([*results, depth, *others], nest, lanes)
    block, pairs = _block(nest, results, depth, others, steps, machine, loads, lanes)
    made = Cut(nest, results, len(outer), depth, others, block, parts, pairs=pairs)
    if made.tiles == len(corners) * parts:  # every tile is all there is to read
        made = replace(made, parts=1)
    least = least_written(results, steps, lanes) * len(corners)
    if (
        made.parts == 1
        and not nest.spread
        and least < block.cycles
        and not nest.as_matrices
        and (written := _steps(nest))
    ):
        other = _written(nest, results, len(outer), written, machine, lanes)
        if other.block.cycles < block.cycles:
            return other
    return made if pairs else replace(made, together=together(results, depth, block, lanes, machine.registers))


def _written(
    nest: Nest,
    results: tuple[Index, ...],
    outer: int,
    steps: tuple[tuple[int, int], ...],
    machine: Target,
    lanes: int,
) -> Cut:
    """The cut of a nest whose sums are written out."""
    met = tuple(positions(nest.sums, len(nest.edges)))

    def able(tall: Sequence[int]) -> bool:
        """Whether the places of a tile with so many rows have bits enough for their edges."""
        rows = positions([replace(loop, count=n) for loop, n in zip(results, tall, strict=True)], len(nest.edges))
        return Edges.of(nest.edges, rows, met).count <= BITS

    loads = _vector_loads([*results, *nest.sums], nest, lanes)
    block = written_out(results, steps, lanes, machine.registers, loads, able if nest.edges else None)
    block = replace(block, cycles=block.cycles * len(nest.corners))
    return Cut(nest, results, outer, Index(1, 0, 0, 0), (), block, 1, steps, met)


def _block(
    nest: Nest,
    results: Sequence[Index],
    depth: Index,
    others: Sequence[Index],
    steps: float,
    machine: Target,
    loads: tuple[int, int],
    lanes: int,
) -> tuple[Block, int]:
    """The best block for sums in loops, with the cycles of all corners; and its pairs, 0 for vectors."""
    able, other = nest.pairs and machine.matrices and not nest.once, None
    if able:
        other = best_matrices(results, depth, steps, lanes, nest.split, len(nest.taps) > 1 or len(others) > 1)
    block = other if nest.as_matrices else _block_of_vectors(nest, results, depth, others, steps, machine, loads, lanes)
    if other is not None and (block is None or other.cycles < block.cycles):
        block = other
    assert block is not None, f"depth {depth}: expected pairs that fill matrices"
    return replace(block, cycles=block.cycles * len(nest.corners)), at_a_time(depth.count) if block is other else 0


def _block_of_vectors(
    nest: Nest,
    results: Sequence[Index],
    depth: Index,
    others: Sequence[Index],
    steps: float,
    machine: Target,
    loads: tuple[int, int],
    lanes: int,
) -> Block:
    """The best block whose sums are vectors."""
    scattered = len(nest.taps) > MANY and not depth.vector and not any(loop.a for loop in results if loop.vector)
    found = fresh(results, [depth, *others], lanes) if scattered else None
    held = depth.count if scattered and depth.count <= machine.registers // 4 else 0  # numbers of A
    registers, whole_lines = machine.registers - held, nest.once in ("B", "C")
    itemsize = machine.vector_bytes // lanes
    line, ways = LINE // itemsize, cache_bytes()[0] // PAGE
    # What a step reads of A is met again by the next ones, if they read the same lines.
    page, whole = PAGE // itemsize, bool(nest.pieces)
    sets = Sets(page, line, ways) if abs(depth.a) < line and not depth.vector else None
    return best_block(
        results,
        depth,
        steps,
        lanes,
        registers,
        loads,
        whole_lines,
        nest.spread,
        found,
        sets,
        whole,
        page,
        nest.left_over,
    )


def _steps(nest: Nest) -> tuple[tuple[int, int], ...]:
    """How far the products of a sum are from its first in A and B, if they are few and everywhere the same.

    One alone needs no loops either; but only tiles that know of edges have none.
    """
    firsts, lasts = nest.corners[:, 3], nest.corners[:, 4]
    many = set((lasts - firsts).tolist())
    if len(many) != 1 or nest.once or any(loop.vector for loop in nest.sums):
        return ()
    (taps,) = many
    if not (0 if nest.edges else 1) < taps * prod(loop.count for loop in nest.sums) <= WRITTEN:
        return ()
    patterns = nest.taps[firsts[:, None] + np.arange(taps)] - nest.taps[firsts[:, None]]
    if (patterns != patterns[0]).any():
        return ()
    turns = [[(i * loop.a, i * loop.b) for i in range(loop.count)] for loop in nest.sums]
    return tuple((int(a), int(b)) for a, b in outer_sum(patterns[0], *turns))


def _in_blocks(results: tuple[Index, ...], outside: int, blocks: int, lanes: int) -> tuple[Index, ...]:
    """The loops with the vectors in at least so many blocks, outside of what takes turns with them, if they divide so.

    What all turns read of B is then in the cache, where it is more than a part of the sum could make fit.
    """
    vectors = next((loop for loop in results if loop.vector), None)
    if vectors is None or blocks < 2:
        return results
    most = min(vectors.count // lanes, 4 * blocks)
    many = next((n for n in range(blocks, most + 1) if vectors.count % (n * lanes) == 0), 1)
    inner = replace(vectors, count=vectors.count // many)
    around = Index(many, inner.count * vectors.a, inner.count * vectors.b, inner.count * vectors.c)
    within = tuple(inner if loop is vectors else loop for loop in results[outside:])
    return (*results[:outside], around, *within) if many > 1 else results


def _depth(nest: Nest, parts: int) -> tuple[Index, tuple[Index, ...]]:
    """The sum that is the depth, and the others.

    The depth is the sum over vectors; or that over a matrix's pairs, which is the last; or the one of those of some
    length that has the shortest steps; or where taps are inside, the last if it is a loop of taps.
    If the sum is taken in parts, the others should have as many turns.
    """
    if nest.as_matrices:
        return nest.sums[-1], merged(nest.sums[:-1])
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
    tables = (np.array([(loop.a, loop.b) for loop in steps] or [(0, 0)]), nest.taps, nest.corners)
    a, b = np.any([(table[:, :2] % lanes).any(axis=0) for table in tables], axis=0).tolist()
    return 1 + a, 1 + b
