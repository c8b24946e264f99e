"""Products of small matrices of pairs by the processor's own instruction (AMX), for contractions and their blocks.

It has eight registers of 16 rows of 64 bytes, and adds to one the product of two: up to 16 rows of A by 16 pairs, and
as many pairs by 16 columns of B, whose rows lie as vectors of B do. Each register has one shape for all of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import ceil, prod
from operator import itemgetter

from ..memory import LINE
from .block import Block, covering, extents, sizes_of
from .index import Index, offsets
from .ir import I8, I64, VOID
from .words import Kernel, Place, Value

SIDE, REGISTERS = 16, 8
"""Rows, and numbers of four bytes in each; and how many such matrices the processor holds."""

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


def fits(rows: Sequence[Run], columns: int) -> bool:
    """Whether the registers hold the sums of runs by columns, a matrix of B for each column, and of A for each height.

    For two heights at least, as what is left over may have.
    """
    return len(rows) * columns + columns + max(2, len({run.count for run in rows})) <= REGISTERS


def best_matrices(results: Sequence[Index], depth: Index, steps: float, lanes: int) -> Block | None:
    """The tile of the fewest cycles whose sums are such matrices, if there is one."""
    pairs = at_a_time(depth.count)
    vector = next((loop for loop in results if loop.vector), None)
    if pairs < LEAST or depth.a != 1 or depth.vector or vector is None or vector.a:
        return None
    if any(loop.column and loop.count > 1 and loop.b % lanes for loop in results):
        return None
    rows = [loop.count if loop.row else 1 for loop in results]
    around = prod(loop.count for loop in results if not loop.row and not loop.vector)
    every, found = ceil(vector.count / lanes), []
    for tall in extents(tuple(rows), (REGISTERS - 3) * SIDE):
        high, tiles = prod(tall), around * covering(rows, tall)
        most = (REGISTERS - 2) // (ceil(high / SIDE) + 1)  # columns that fit if rows are as few runs as can be
        for vectors in range(1, min(every, most) + 1):
            loaded = high + pairs * vectors
            each = max(high * vectors, LOADED * loaded) + FED * loaded
            cycles = steps / pairs * each + high * vectors * ENDED + BEGUN
            found.append((cycles * (tiles * ceil(every / vectors)), vectors, tall))
    for cycles, vectors, tall in sorted(found, key=itemgetter(0)):
        tile = [replace(loop, count=n) for loop, n in zip(results, tall, strict=True) if loop.row]
        if fits(runs(offsets(tile, "a")), vectors):
            return Block(sizes_of(results, tall, (1,) * len(rows), vectors * lanes), cycles)
    return None


@dataclass(frozen=True)
class Matrices:
    """What a tile is made of: runs of rows, the used lanes of each column of B, and pairs at a time."""

    rows: Sequence[Run]
    used: Sequence[int]
    pairs: int

    def begin(self, k: Kernel) -> Place:
        """Tell the processor the shapes; and room for the sums."""
        shapes = dict.fromkeys(range(REGISTERS), (0, 0))
        for r, run in enumerate(self.rows):
            shapes[self._a(r)] = run.count, self.pairs
            for c, used in enumerate(self.used):
                shapes[self._sum(r, c)] = run.count, used
                shapes[self._b(c)] = self.pairs, used
        content = bytearray(LINE)
        content[0] = 1
        for number, (high, wide) in shapes.items():
            content[16 + 2 * number], content[48 + number] = 4 * wide, high
        told = k.scratch(LINE // 4)
        for n in range(LINE // 8):
            k.store(I64(int.from_bytes(content[8 * n : 8 * n + 8], "little", signed=True)), told, n)
        self._call(k, "ldtilecfg", told.pointer)
        return k.scratch(len(self.rows) * len(self.used) * SIDE * SIDE)

    def zero(self, k: Kernel) -> None:
        """Begin new sums."""
        for r, c in self._cells:
            self._call(k, "tilezero", I8(self._sum(r, c)))

    def multiply(self, k: Kernel, a: Place, b: Place, columns: Sequence[int], step: int) -> None:
        """Add the products of some pairs: rows of A from a place on, and rows of B, a step apart, from another."""
        for c, (place, used) in enumerate(zip(columns, self.used, strict=True)):
            self._load(k, self._b(c), k.at(b, place), step, self.pairs, used)
        for r, run in enumerate(self.rows):
            self._load(k, self._a(r), k.at(a, run.first), run.step, run.count, self.pairs)
            for c in range(len(self.used)):
                self._call(k, "tdpbf16ps", *map(I8, (self._sum(r, c), self._a(r), self._b(c))))

    def sums(self, k: Kernel, room: Place, lanes: int) -> list[Value]:
        """The sums as vectors, row by row."""
        for r, c in self._cells:
            at = k.at(room, self._sum(r, c) * SIDE * SIDE)
            self._call(k, "tilestored64", I8(self._sum(r, c)), at.pointer, I64(LINE))
        return [
            k.load_vector(k.at(room, (self._sum(r, c) * SIDE + m) * SIDE), lanes)
            for r, run in enumerate(self.rows)
            for m in range(run.count)
            for c in range(len(self.used))
        ]

    def end(self, k: Kernel) -> None:
        """Leave the registers as they were: to keep them takes time and power."""
        self._call(k, "tilerelease")

    @property
    def _cells(self) -> list[tuple[int, int]]:
        return list(product(range(len(self.rows)), range(len(self.used))))

    def _sum(self, r: int, c: int) -> int:
        return r * len(self.used) + c

    def _b(self, c: int) -> int:
        return len(self._cells) + c

    def _a(self, r: int) -> int:
        """Each run has its own register, if there are so many; or else those of one height share one."""
        heights = [run.count for run in self.rows]
        own = len(self._cells) + len(self.used) + len(heights) <= REGISTERS
        return REGISTERS - 1 - (r if own else sorted(set(heights)).index(heights[r]))

    def _load(self, k: Kernel, number: int, place: Place, step: int, high: int, wide: int) -> None:
        for row in range(high):
            k.check(k.at(place, row * step), 4 * wide)
        self._call(k, "tileloadd64", I8(number), place.pointer, I64(4 * step))

    def _call(self, k: Kernel, name: str, *values: Value) -> None:
        k.intrinsic(f"x86.{name}", VOID, values, [])
