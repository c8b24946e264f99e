"""Products of small matrices of pairs by the processor's own instruction (AMX), for contractions and their blocks.

It adds to one register the product of two: up to 16 rows of A by 16 pairs, and as many pairs by 16 columns of B, whose
rows lie as vectors of B do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, product
from math import ceil, prod
from operator import itemgetter

from ..coefficients import coefficients
from .block import Block, covering, extents, sizes_of
from .index import Index, offsets
from .registers import REGISTERS, SIDE, Imitated, Instructions, registers
from .words import Kernel, Place, Value

PRODUCTS, NEW, SHARED = 3, 2.4, 0.25
"""Of split numbers, products that make one, which take as long whether all rows are there or not; cycles that a new
line of either operand takes, of its high and its low halves; and how much of A is new where taps share it."""

SUMS = 2
"""Matrices of sums of a tile. A processor has few registers besides those that hold something, and a product or load
waits for one: where a second thread has half of them, four sums took twice as long as two, and in no case less."""

LEAST = 4
"""Pairs at a time that make up for fewer than it could multiply."""

LOADED, FED, ENDED, BEGUN = 0.75, 0.25, 3, 60
"""Cycles that a row of a matrix takes to be loaded, and adds where multiplications take longer, and one of sums to be
stored; and that a tile takes besides."""


@dataclass(frozen=True)
class Run:
    """Rows that are as far apart as each other."""

    first: int
    count: int
    step: int


def runs(places: Sequence[int]) -> list[Run]:
    """Rows at these places, as few runs of them as matrices want, and as even."""
    found: list[Run] = []
    begin = 0
    while begin < len(places):
        step = places[begin + 1] - places[begin] if begin + 1 < len(places) else 0
        end = begin + 1
        while end < len(places) and places[end] - places[end - 1] == step:
            end += 1
        parts = ceil((end - begin) / SIDE)
        cuts = [begin + (end - begin) * n // parts for n in range(parts + 1)]
        found += [Run(places[i], j - i, step) for i, j in pairwise(cuts)]
        begin = end
    return found


def at_a_time(depth: int) -> int:
    """How many pairs of such a depth to multiply at a time, so that none is left."""
    return max(n for n in range(1, SIDE + 1) if depth % n == 0)


def fill_columns(many: int) -> bool:
    """Whether so many numbers are columns of whole matrices, or few."""
    return many <= SIDE or many % SIDE == 0


def fits(rows: Sequence[Run], used: Sequence[int]) -> bool:
    """Whether the registers hold the sums of runs by columns, and a matrix of each shape."""
    return len(rows) * len(used) + len(set(used)) + len({run.count for run in rows}) <= REGISTERS


def best_matrices(
    results: Sequence[Index], depth: Index, steps: float, lanes: int, split: bool = False, shared: bool = False
) -> Block | None:
    """The tile of the fewest cycles whose sums are such matrices, if there is one; of numbers that are `split`?

    What a tap reads of A may be `shared` with others then, which find it near.
    """
    pairs = at_a_time(depth.count)
    vector = next((loop for loop in results if loop.vector), None)
    if pairs < LEAST or depth.a != 1 or depth.vector or vector is None or vector.a:
        return None
    if any(loop.column and loop.count > 1 and loop.b % lanes for loop in results):
        return None
    rows = [loop.count if loop.row else 1 for loop in results]
    around = prod(loop.count for loop in results if not loop.row and not loop.vector)
    apart = [abs(loop.a) for loop in results]
    every, found = ceil(vector.count / lanes), []
    for tall in extents(tuple(rows), SUMS * SIDE):
        high, tiles = prod(tall), around * covering(rows, tall)
        far = sum(step * (size - 1) for step, size in zip(apart, tall, strict=True))  # of rows alike, the nearest
        for vectors in range(1, min(every, SUMS // ceil(high / SIDE)) + 1):
            cycles = of_tile(high, _runs(results, tall), vectors, pairs, steps, split, shared)
            found.append((cycles * (tiles * ceil(every / vectors)), far, vectors, tall))
    for cycles, _, vectors, tall in sorted(found, key=itemgetter(0, 1)):
        tile = [replace(loop, count=n) for loop, n in zip(results, tall, strict=True) if loop.row]
        places = offsets(tile, "a")
        if len(runs(places)) * vectors <= SUMS:
            return Block(sizes_of(results, tall, (1,) * len(rows), vectors * lanes), cycles)
    return None


def of_tile(high: int, runs: int, vectors: int, pairs: int, steps: float, split: bool, shared: bool) -> float:
    """The cycles of a tile of so many rows, in so many runs, by vectors, that sums so many steps."""
    loaded = high + pairs * vectors
    each = max(high * vectors, LOADED * loaded) + FED * loaded
    if split:
        new = high * (SHARED if shared else 1) + pairs * vectors
        each = PRODUCTS * coefficients().split_multiplied * runs * vectors + NEW * new
    return steps / pairs * each + high * vectors * ENDED + BEGUN


def _runs(results: Sequence[Index], tall: Sequence[int]) -> int:
    """How many runs the rows of a tile are: loops around each other go on with one where they step on from its end."""
    around, step, length = 1, 0, 1
    for apart, size in sorted((abs(loop.a), size) for loop, size in zip(results, tall, strict=True) if size > 1):
        if length == 1 or apart == step * length:
            step, length = step or apart, length * size
        else:
            around *= size
    return around * ceil(length / SIDE)


@dataclass(frozen=True)
class Matrices:
    """What a tile is made of: runs of rows, the used lanes of each column of B, and pairs at a time."""

    rows: Sequence[Run]
    used: Sequence[int]
    pairs: int
    low: tuple[int, int] = (0, 0)
    """How far low halves are behind the high ones in A and B, if numbers are split: but two low ones, all are
    multiplied with each other."""
    imitated: bool = False
    """Whether the processor has no such registers."""

    def begin(self, k: Kernel) -> Place:
        """Have the registers; and room for the sums."""
        self._registers.begin(k)
        return k.scratch(len(self._cells) * SIDE * SIDE)

    def zero(self, k: Kernel) -> None:
        """Begin new sums."""
        for r, c in self._cells:
            self._registers.zero(k, self._sum(r, c))

    def multiply(self, k: Kernel, a: Place, b: Place, columns: Sequence[int], step: int) -> None:
        """Add the products of some pairs: rows of A from a place on, and rows of B, a step apart, from another."""
        low_a, low_b = self.low
        factors = [(0, (0, low_a)), (low_b, (0,))] if any(self.low) else [(0, (0,))]
        for (c, (place, used)), (half, halves) in product(enumerate(zip(columns, self.used, strict=True)), factors):
            self._load(k, self._b(used), k.at(b, place + half), step, self.pairs, used)
            for other, (r, run) in product(halves, enumerate(self.rows)):
                self._load(k, self._a(run), k.at(a, run.first + other), run.step, run.count, self.pairs)
                self._registers.multiply(k, self._sum(r, c), self._a(run), self._b(used))

    def apart(self, places: Sequence[int]) -> list[tuple[int, int]] | None:
        """Where the rows of each run begin in C, and how far apart they are, if they are evenly so."""
        ends = [0, *accumulate(run.count for run in self.rows)]
        found = [runs(places[first:last]) for first, last in pairwise(ends)]
        return [(own[0].first, own[0].step) for own in found] if all(len(own) == 1 for own in found) else None

    def store(self, k: Kernel, corner: Place, apart: Sequence[tuple[int, int]], columns: Sequence[int]) -> None:
        """Write the sums to where they belong."""
        for r, c in self._cells:
            (first, step), run = apart[r], self.rows[r]
            place = k.at(corner, first + columns[c])
            for row in range(run.count):
                k.check(k.at(place, row * step), 4 * self.used[c])
            self._registers.store(k, self._sum(r, c), place, step)

    def sums(self, k: Kernel, room: Place, lanes: int) -> list[Value]:
        """The sums as vectors, row by row."""
        for r, c in self._cells:
            at = k.at(room, self._sum(r, c) * SIDE * SIDE)
            self._registers.store(k, self._sum(r, c), at, SIDE)
        return [
            k.load_vector(k.at(room, (self._sum(r, c) * SIDE + m) * SIDE), lanes)
            for r, run in enumerate(self.rows)
            for m in range(run.count)
            for c in range(len(self.used))
        ]

    def end(self, k: Kernel) -> None:
        self._registers.end(k)

    @cached_property
    def _registers(self) -> Instructions | Imitated:
        shapes = {}
        for r, run in enumerate(self.rows):
            shapes[self._a(run)] = run.count, self.pairs
            for c, used in enumerate(self.used):
                shapes[self._sum(r, c)] = run.count, used
                shapes[self._b(used)] = self.pairs, used
        return registers(shapes, self.imitated)

    @property
    def _cells(self) -> list[tuple[int, int]]:
        return list(product(range(len(self.rows)), range(len(self.used))))

    def _sum(self, r: int, c: int) -> int:
        return r * len(self.used) + c

    def _b(self, used: int) -> int:
        return len(self._cells) + sorted(set(self.used)).index(used)

    def _a(self, run: Run) -> int:
        return REGISTERS - 1 - sorted({other.count for other in self.rows}).index(run.count)

    def _load(self, k: Kernel, number: int, place: Place, step: int, high: int, wide: int) -> None:
        for row in range(high):
            k.check(k.at(place, row * step), 4 * wide)
        self._registers.load(k, number, place, step)
