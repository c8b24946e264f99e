"""The one contraction that every operation is made of.

    for (a0, b0, c0, t0, t1) in tiles:
        C[c0 + c_m + c_j + n] (+)= Σ_{t0≤t<t1} Σ_{k<depth}  A[a0 + a_t + a_m + k·ak] · B[b0 + b_t + b_j + k·bk + n]

m runs over rows, j over columns, n over the numbers of a vector. A is broadcast; or `wide`, and then it has n too, as
channels have that no sum joins. Where `summed`, n is part of the sum and not of C, and A has it too: the depth is
taken a vector at a time. A tile stays in registers for the whole sum. The order in which a number of C is summed
depends on the kernel alone, not on the thread, nor on the place of the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from llvmlite import ir

from .target import Target
from .words import BYTES, I64, POINTER, Kernel, Place, Value, begin

TILE = 5
"""Integers of a tile: a0, b0, c0, t0, t1."""

UNROLLED = 160
"""Multiply-adds that are written out instead of being looped over: the end of a short loop costs as much as it does."""

CHAINS = 8
"""Sums that must be under way at once, as a multiply-add takes four cycles and two begin in each."""

Sums = list[list[list[Value]]]
"""Variables by row, column and partial sum."""


@dataclass(frozen=True)
class Column:
    """A vector of a tile: where its numbers are in A (where A is wide), B and C, and how many of its lanes are used."""

    a: int
    b: int
    c: int
    used: int


@dataclass(frozen=True)
class Contraction:
    """What a contraction is specialised to: its numbers, its tile, and the steps of its operands."""

    dtype: str
    rows: tuple[tuple[int, int], ...]
    """(a_m, c_m) of each row, from the tile's corner on."""
    columns: tuple[Column, ...]
    depth: int
    ak: int
    bk: int
    wide: bool = False
    summed: bool = False
    add: bool = False
    """Whether to add to what C holds."""
    ahead: int = 0
    """How far ahead to ask for B where it comes from memory; 0 where it is in the cache already."""
    steps: tuple[tuple[int, int], ...] = ()
    """(a, b) of every product of a sum, to be written out: those that read the same numbers side by side, so that they
    are loaded once. Empty where depth and taps say it."""
    together: int = 1
    """How many steps of a longer depth are written out so."""
    past: bool = False
    """Whether C goes to memory past the caches, which it would only fill; its vectors are whole and in line then."""

    name: ClassVar[str] = "contract"
    arguments: ClassVar[dict[str, ir.Type]] = {
        "A": POINTER,
        "B": POINTER,
        "C": POINTER,
        "tiles": POINTER,
        "count": I64,
        "taps": POINTER,
    }
    """Taps are pairs (a_t, b_t)."""

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments)
        lanes = machine.lanes(BYTES[self.dtype])
        if self.steps:
            self._written_out(k, lanes)
            return
        kind = k.vector(lanes)
        sums = [[[k.variable(kind) for _ in range(self._fold(lanes))] for _ in self.columns] for _ in self.rows]
        with k.loop(k["count"]) as i:
            a0, b0, c0, t0, t1 = (k.load(k["tiles"], k.add(k.mul(i, TILE), field), I64) for field in range(TILE))
            corner = k.at(k["C"], c0)
            for (_, c_m), line in zip(self.rows, sums, strict=True):
                for column, (first, *others) in zip(self.columns, line, strict=True):
                    k.put(first, self._start(k, k.at(corner, c_m + column.c), lanes, column.used))
                    for other in others:
                        k.put(other, k.zeros(lanes))
            with k.loop(t1, t0) as t:
                a = k.at(k["A"], k.add(a0, k.load(k["taps"], k.mul(t, 2), I64)))
                b = k.at(k["B"], k.add(b0, k.load(k["taps"], k.add(k.mul(t, 2), 1), I64)))
                self._sum(k, a, b, sums, lanes)
            for (_, c_m), line in zip(self.rows, sums, strict=True):
                for column, parts in zip(self.columns, line, strict=True):
                    value = reduce(k.build.fadd, (k.get(part, kind) for part in parts))
                    self._finish(k, value, k.at(corner, c_m + column.c), column.used)
        k.build.ret_void()

    def _written_out(self, k: Kernel, lanes: int) -> None:
        """Tiles whose sums have no loops; each number of C is written as soon as its sum is whole."""
        with k.loop(k["count"]) as i:
            a0, b0, c0 = (k.load(k["tiles"], k.add(k.mul(i, TILE), field), I64) for field in range(3))
            corner = k.at(k["C"], c0)
            places = {
                (m, j): k.at(corner, c_m + column.c)
                for m, (_, c_m) in enumerate(self.rows)
                for j, column in enumerate(self.columns)
            }

            def finish(m: int, j: int, value: Value) -> None:
                self._finish(k, value, places[m, j], self.columns[j].used)

            sums = {(m, j): self._start(k, place, lanes, self.columns[j].used) for (m, j), place in places.items()}
            self._multiply(k, k.at(k["A"], a0), k.at(k["B"], b0), self.steps, sums, lanes, finish)
        k.build.ret_void()

    def _multiply(
        self,
        k: Kernel,
        a: Place,
        b: Place,
        steps: Sequence[tuple[int, int]],
        sums: dict[tuple[int, int], Value],
        lanes: int,
        finish: Callable[[int, int, Value], None],
    ) -> None:
        """Add the products of some steps to sums by (row, column), those that read the same numbers in turn."""
        products = sorted(
            (j if self.wide else 0, a_m + a_k if self.wide else column.b + b_k, m, j, a_k, b_k)
            for m, (a_m, _) in enumerate(self.rows)
            for j, column in enumerate(self.columns)
            for a_k, b_k in steps
        )
        loaded: dict[tuple[str, int, int], Value] = {}
        left = dict.fromkeys(sums, len(steps))

        def vector(array: str, corner: Place, offset: int, used: int) -> Value:
            if (array, offset, used) not in loaded:
                place = k.at(corner, offset)
                loaded[array, offset, used] = (
                    k.load_vector(place, lanes, used) if used else k.broadcast(k.load(place), lanes)
                )
            return loaded[array, offset, used]

        for _, _, m, j, a_k, b_k in products:
            column = self.columns[j]
            factor = vector("A", a, self.rows[m][0] + column.a * self.wide + a_k, column.used * self.wide)
            sums[m, j] = k.fma(factor, vector("B", b, column.b + b_k, column.used), sums[m, j])
            left[m, j] -= 1
            if not left[m, j]:
                finish(m, j, sums[m, j])

    def _fold(self, lanes: int) -> int:
        """How many partial sums a number of C has: a small tile alone would wait for each multiply-add to finish."""
        steps = -(-self.depth // lanes) if self.summed else self.depth
        fold = 1
        while fold * len(self.rows) * len(self.columns) < CHAINS:
            fold *= 2
        return 1 if self.together > 1 else max(1, min(fold, steps))

    def _start(self, k: Kernel, place: Place, lanes: int, used: int) -> Value:
        return k.load_vector(place, lanes, used) if self.add and not self.summed else k.zeros(lanes)

    def _finish(self, k: Kernel, value: Value, place: Place, used: int) -> None:
        if self.past:
            k.store_past(value, place)
            return
        if not self.summed:
            k.store_vector(value, place, used)
            return
        total = k.total(value)
        k.store(k.build.fadd(k.load(place), total) if self.add else total, place)

    def _sum(self, k: Kernel, a: Place, b: Place, sums: Sums, lanes: int) -> None:
        """Add the products of one tap, a step's to one partial sum and the next one's to the next."""
        fold, size = len(sums[0][0]), lanes if self.summed else 1
        ak, bk = (1, 1) if self.summed else (self.ak, self.bk)

        def step(at: Value | int, part: int, used: int | None = None) -> None:
            here = k.at(b, k.mul(at, bk))
            if self.ahead:
                for column in self.columns:
                    k.prefetch(k.at(here, self.ahead + column.b))
            self._step(k, k.at(a, k.mul(at, ak)), here, sums, part, lanes, used)

        full = lanes if self.summed else None
        if self.together > 1:
            self._sum_together(k, a, b, sums, lanes)
            return
        whole = self.depth // (size * fold) * (size * fold)
        if whole // size * len(self.rows) * len(self.columns) <= UNROLLED:
            whole = 0
        with k.loop(whole, step=size * fold) as at:
            for part in range(fold):
                step(k.add(at, part * size), part, full)
        for number, at in enumerate(range(whole, self.depth, size)):
            step(at, number % fold, full and min(lanes, self.depth - at))

    def _sum_together(self, k: Kernel, a: Place, b: Place, sums: Sums, lanes: int) -> None:
        """Add the products of one tap, those of several steps that read the same numbers in turn."""
        kind = k.vector(lanes)

        def some(at: Value | int, many: int) -> None:
            values = {(m, j): k.get(held[0], kind) for m, line in enumerate(sums) for j, held in enumerate(line)}
            here = k.at(a, k.mul(at, self.ak)), k.at(b, k.mul(at, self.bk))
            steps = [(i * self.ak, i * self.bk) for i in range(many)]
            self._multiply(k, *here, steps, values, lanes, lambda m, j, value: k.put(sums[m][j][0], value))

        whole = self.depth // self.together * self.together
        with k.loop(whole, step=self.together) as at:
            some(at, self.together)
        if whole < self.depth:
            some(whole, self.depth - whole)

    def _step(self, k: Kernel, a: Place, b: Place, sums: Sums, part: int, lanes: int, used: int | None) -> None:
        kind = k.vector(lanes)
        vectors = [k.load_vector(k.at(b, column.b), lanes, used or column.used) for column in self.columns]
        for (a_m, _), line in zip(self.rows, sums, strict=True):
            loaded: dict[tuple[int, int], Value] = {}
            for column, vector, parts in zip(self.columns, vectors, line, strict=True):
                key = (column.a, used or column.used) if self.wide or self.summed else (0, 0)
                if key not in loaded:
                    place = k.at(a, a_m + key[0])
                    loaded[key] = k.load_vector(place, lanes, key[1]) if key[1] else k.broadcast(k.load(place), lanes)
                k.put(parts[part], k.fma(loaded[key], vector, k.get(parts[part], kind)))
