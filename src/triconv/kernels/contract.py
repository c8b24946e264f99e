"""The one contraction that every operation is made of.

    for (a0, b0, c0, t0, t1) in tiles:
        C[c0 + c_m + c_j + n] (+)= Σ_{t0≤t<t1} Σ_{k<depth}  A[a0 + a_t + a_m + k·ak] · B[b0 + b_t + b_j + k·bk + n]

m runs over rows, j over columns, n over the numbers of a vector. A is broadcast; or `wide`, and then it has n too, as
channels have that no sum joins. Where `summed`, n is part of the sum and not of C, and A has it too: the depth is
taken a vector at a time. A tile stays in registers for the whole sum. The order in which a number of C is summed
depends on the kernel alone, not on the thread, nor on the place of the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate, pairwise, product
from typing import ClassVar

from ..memory import LINE
from . import ir
from .finish import AS_IT_IS, Corner, Finish
from .matrices import Matrices, runs
from .target import Target
from .words import BYTES, I64, POINTER, Kernel, Place, Value, begin

TILE = 5
"""Integers of a tile: a0, b0, c0, t0, t1."""

UNROLLED = 160
"""Multiply-adds that are written out instead of being looped over: the end of a short loop costs as much as it does."""

CHAINS = 8
"""Sums that must be under way at once, as a multiply-add takes four cycles and two begin in each."""

TILES = 4
"""After so many others comes the tile whose numbers are asked for where products are written out."""

FEW = 4
"""Lines that are asked for one by one: a loop over them would take as long as what they are for."""

Ahead = tuple[Value | int, Value | int]

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
    """(a_m, c_m) of each row, from the tile's corner on; c_m in pitches if each call says how long one is."""
    columns: tuple[Column, ...]
    depth: int
    """Steps of each tap; 0 where they are alike, and each call says how many there are."""
    ak: int
    bk: int
    wide: bool = False
    summed: bool = False
    add: bool = False
    """Whether it may add to what C holds: it does where its argument `add` is not zero."""
    ahead: tuple[int, int] = (0, 0)
    """How far ahead to ask for A and B where they come from memory; 0 where they are in the cache already."""
    later: int = 0
    """How many tiles on is the one whose part of what comes from memory is asked for, if not what is so far ahead."""
    onward: tuple[int, int] = (0, 0)
    """How far the next tile's rows are in A, and how far each is from the one before: they are asked for in time."""
    outside: tuple[tuple[int, ...], ...] = ()
    """By row and step, the bits of a word of the tile's, in the place of t0, of which any that is set says that zeros
    are read instead of A. Only where steps are written out; empty where all that is read of A is there."""
    coming: tuple[int, ...] = ()
    """Where lines of B are, from that tap on which comes after `turns` others, that a tap asks for."""
    turns: int = 1
    steps: tuple[tuple[int, int], ...] = ()
    """(a, b) of every product of a sum, to be written out: those that read the same numbers side by side, so that they
    are loaded once. Empty where depth and taps say it."""
    together: int = 1
    """How many steps of a longer depth are written out so."""
    pairs: int = 0
    """How many pairs of the depth are multiplied at a time, as matrices; 0 where they are vectors."""
    low: tuple[int, int] = (0, 0)
    """How far the low halves of numbers are behind the high ones in A and B, if numbers are split."""
    past: bool = False
    """Whether C goes to memory past the caches, which it would only fill; its vectors are whole and in line then."""
    stored: str = ""
    """How C is stored, if not as it is summed; nothing can be added to it then."""

    fetched: bool = False
    """Whether a tile asks for its part of C before it sums, which it adds to or which is far from the caches. Where
    products are written out, for all that a later tile reads of A and writes."""
    soon: tuple[tuple[int, int], ...] = ()
    """Of arrays that are to be copied next: from which number on, and how many a step, to ask for. Taps ask alike."""

    pitched: bool = False
    """Whether each call says how far a row is behind the one before in C."""
    finish: Finish = AS_IT_IS
    """What is done to the sums. Where a bias is added, vectors run over channels of C."""

    name: ClassVar[str] = "contract"

    @property
    def arguments(self) -> dict[str, ir.Type]:
        """Taps are pairs (a_t, b_t)."""
        arrays = {"A": POINTER, "B": POINTER, "C": POINTER}
        work = {"tiles": POINTER, "count": I64, "taps": POINTER, "add": I64, "depth": I64, "pitch": I64}
        own = {**arrays, **work, **self.finish.arguments}
        return {**own, **{f"soon{number}": POINTER for number in range(len(self.soon))}}

    @property
    def told(self) -> tuple[int, int]:
        """What a call says besides: how many steps each tap has, and how far rows are apart in C if they are evenly."""
        places = [c_m for _, c_m in self.rows]
        pitch = places[1] if len(places) > 1 else 0
        return self.depth, pitch if places == [m * pitch for m in range(len(places))] else 0

    def shared(self) -> Contraction:
        """The same kernel for any depth and, if rows are evenly apart in C and sums are left as they are, any distance,
        as calls tell it; or itself, if its steps are not one loop or some of them are written out."""
        sums, special = len(self.rows) * len(self.columns), self.steps or self.pairs or self.summed or any(self.ahead)
        if special or self.together > 1 or sums < CHAINS or self.depth * sums <= UNROLLED:
            return self
        if not self.told[1] or self.finish != AS_IT_IS:
            return replace(self, depth=0)
        rows = tuple((a_m, m) for m, (a_m, _) in enumerate(self.rows))
        return replace(self, depth=0, rows=rows, pitched=True)

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments, {"C": self.stored})
        lanes = machine.lanes(BYTES[self.dtype])
        if self.steps:
            self._written_out(k, lanes)
            return
        if self.pairs:
            self._by_matrices(k, lanes, machine.imitated)
            return
        kind = k.vector(lanes)
        sums = [[[k.variable(kind) for _ in range(self._fold(lanes))] for _ in self.columns] for _ in self.rows]
        with self._each_tile(k) as (i, (a0, b0, t0, t1), corner, ends):
            ahead = self._ahead(k, i, a0, b0)
            if self.fetched:
                self._ask_for_c(k, corner)
            soon = [
                k.at(k[f"soon{n}"], k.add(k.mul(i, k.mul(k["depth"], each)), begin))
                for n, (begin, each) in enumerate(self.soon)
            ]
            for part in (part for line in sums for parts in line for part in parts):
                k.put(part, k.zeros(lanes))
            with self._each_tap(k, a0, b0, t0, t1) as (t, a, b):
                self._ask(k, a, b, lanes, ahead)
                if self.coming:
                    # The last taps ask for what is there already.
                    later = k.add(t, self.turns)
                    later = k.build.select(k.less(later, t1), later, t)
                    to_come = k.at(k["B"], k.add(b0, k.load(k["taps"], k.add(k.mul(later, 2), 1), I64)))
                    for place in self.coming:
                        k.prefetch(to_come, place)
                self._sum(k, a, b, sums, lanes, ahead, soon)
            values = [reduce(k.build.fadd, (k.get(part, kind) for part in parts)) for line in sums for parts in line]
            if self.summed:
                self._finish_summed(k, values, corner)
            else:
                self._finish(k, values, corner, ends)
        k.build.ret_void()

    @contextmanager
    def _each_tile(self, k: Kernel) -> Iterator[tuple[Value, tuple[Value, ...], Place, Corner]]:
        """Which one it is, where it begins in A and B, its first tap and its last, where C is, what finishes it."""
        with k.loop(k["count"]) as i:
            a0, b0, c0, *taps = k.row("tiles", i, TILE)
            yield i, (a0, b0, *taps), k.at(k["C"], c0), self.finish.corner(k, c0)

    @contextmanager
    def _each_tap(
        self, k: Kernel, a0: Value, b0: Value, first: Value, end: Value
    ) -> Iterator[tuple[Value, Place, Place]]:
        """Which one it is, and where it begins in A and B."""
        with k.loop(end, first) as t:
            a_t, b_t = k.row("taps", t, 2)
            yield t, k.at(k["A"], k.add(a0, a_t)), k.at(k["B"], k.add(b0, b_t))

    def _written_out(self, k: Kernel, lanes: int) -> None:
        """Tiles whose sums have no loops; each number of C is written as soon as its sum is whole."""
        nothing = k.scratch(lanes)
        k.store_vector(k.zeros(lanes), nothing)
        with self._each_tile(k) as (i, (a0, b0, word, _), corner, ends):
            if self.fetched:
                a, _, c, *_ = self._tile_after(k, i, TILES)
                for place in sorted({a_m + a_k for a_m, _ in self.rows for a_k, _ in self.steps}):
                    k.prefetch(k.at(k["A"], a), place)
                self._ask_for_c(k, k.at(k["C"], c))
            places = {
                (m, j): (k.at(corner, c_m + column.c), self.finish.at(k, ends, c_m + column.c))
                for m, (_, c_m) in enumerate(self.rows)
                for j, column in enumerate(self.columns)
            }

            def finish(m: int, j: int, value: Value) -> None:
                self._store(k, [(value, *places[m, j], self.columns[j].used)])

            def inside(place: Place, bits: int, count: int) -> Place:
                outside = k.build.icmp_signed("!=", k.build.and_(word, I64(bits)), I64(0))
                return k.unless(outside, place, nothing, count) if bits else place

            sums = dict.fromkeys(places, k.zeros(lanes))
            self._multiply(k, k.at(k["A"], a0), k.at(k["B"], b0), self.steps, sums, lanes, finish, inside)
        k.build.ret_void()

    def _by_matrices(self, k: Kernel, lanes: int, imitated: bool) -> None:
        """Tiles that the processor holds as matrices."""
        rows, used = runs([a_m for a_m, _ in self.rows]), [column.used for column in self.columns]
        held = Matrices(rows, used, self.pairs, self.low, imitated)
        room, columns = held.begin(k), [column.b for column in self.columns]
        whole = not (self.add or self.stored or self.past) and self.finish == AS_IT_IS
        apart = held.apart([c_m for _, c_m in self.rows]) if whole else None
        with self._each_tile(k) as (_, (a0, b0, t0, t1), corner, ends):
            held.zero(k)
            if self.fetched:
                self._ask_for_c(k, corner)
            step = self.pairs
            with self._each_tap(k, a0, b0, t0, t1) as (_, a, b), k.loop(self.depth, step=step, stepped=True) as at:
                held.multiply(k, k.at(a, at), k.at(b, k.mul(at, self.bk)), columns, self.bk)
            if apart is None:
                self._finish(k, held.sums(k, room, lanes), corner, ends)
            else:
                held.store(k, corner, apart, [column.c for column in self.columns])
        held.end(k)
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
        inside: Callable[[Place, int, int], Place] = lambda place, *_: place,
    ) -> None:
        """Add the products of some steps to sums by (row, column), those that read the same numbers in turn.

        `inside` is where to read what is at a place of A, if some bits tell that this is outside.
        """
        wide = self.wide or self.summed
        crowded = self.together > 1 and not wide  # sums and numbers of A leave few registers
        products = sorted(
            (j if wide else 0, a_m + a_k if wide else column.b + b_k, m, j, a_k, b_k, bits)
            for m, (a_m, _) in enumerate(self.rows)
            for j, column in enumerate(self.columns)
            for (a_k, b_k), bits in zip(steps, self.outside[m] if self.outside else [0] * len(steps), strict=True)
        )
        loaded: dict[tuple[str, int, int, int], Value] = {}
        left = dict.fromkeys(sums, len(steps))

        def vector(array: str, corner: Place, offset: int, used: int, bits: int = 0) -> Value:
            if (key := (array, offset, used, bits)) not in loaded:
                if crowded and array == "B" and len(loaded) > 1:
                    k.in_order()
                place = inside(k.at(corner, offset), bits, used or 1)
                loaded[key] = k.load_vector(place, lanes, used) if used else k.broadcast(k.load(place), lanes)
            return loaded[key]

        for _, _, m, j, a_k, b_k, bits in products:
            column = self.columns[j]
            used = lanes if self.summed else column.used
            factor = vector("A", a, self.rows[m][0] + column.a * wide + a_k, used * wide, bits)
            sums[m, j] = k.fma(factor, vector("B", b, column.b + b_k, used), sums[m, j])
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

    def _finish(self, k: Kernel, values: Sequence[Value], corner: Place, ends: Corner) -> None:
        ends_at = [self.finish.at(k, ends, c_m + column.c) for (_, c_m), column in product(self.rows, self.columns)]
        used = [column.used for _, column in product(self.rows, self.columns)]
        places = [k.at(place, offset) for place, offset in self._cells(k, corner)]
        self._store(k, list(zip(values, places, ends_at, used, strict=True)))

    def _cells(self, k: Kernel, corner: Place) -> list[tuple[Place, int]]:
        """Where the vectors of a tile are in C: so far from a place on."""
        if not self.pitched:
            return [(corner, c_m + column.c) for (_, c_m), column in product(self.rows, self.columns)]
        # One after the other, or LLVM would keep where all rows are from tile to tile.
        pitch = k.opaque(k["pitch"])
        lines = accumulate(self.rows[1:], lambda line, _: k.at(line, pitch), initial=corner)
        return [(line, column.c) for line, column in product(lines, self.columns)]

    def _store(self, k: Kernel, results: Sequence[tuple[Value, Place, Corner, int]]) -> None:
        """Write vectors, finished, of which so many lanes are used, to their places, or add them to what is there."""
        values = [value for value, *_ in results]
        if self.add:  # a sum of sums gathers less error than one that goes on
            sums = [k.variable(value.type) for value in values]
            for own, value in zip(sums, values, strict=True):
                k.put(own, value)
            with k.when(k.less(0, k["add"])):
                for own, (value, place, _, used) in zip(sums, results, strict=True):
                    k.put(own, k.build.fadd(k.load_vector(place, value.type.count, used), value))
            values = [k.get(own, value.type) for own, value in zip(sums, values, strict=True)]
        for value, (_, place, end, used) in zip(values, results, strict=True):
            finished = self.finish(k, value, end, used)
            if self.past:
                k.store_past(finished, place)
            else:
                k.store_vector(finished, place, used)

    def _finish_summed(self, k: Kernel, values: Sequence[Value], corner: Place) -> None:
        """Numbers that are neighbours in C are stored together."""
        lanes = values[0].type.count
        places = [c_m + column.c for (_, c_m), column in product(self.rows, self.columns)]
        cuts = [n for n in range(1, len(places)) if n % lanes == 0 or places[n] != places[n - 1] + 1]
        totals = k.totals(values)
        for first, last in pairwise([0, *cuts, len(places)]):
            whole, place = totals[first // lanes], k.at(corner, places[first])
            found = k.shuffle(whole, whole, [n % lanes for n in range(first, last)])
            self._store(k, [(found, place, (None, None), last - first)])

    def _ahead(self, k: Kernel, tile: Value, a0: Value, b0: Value) -> Ahead:
        """How far ahead to ask for A and B: where they are for a later tile, if there is one."""
        if not self.later:
            return self.ahead
        a, b, *_ = self._tile_after(k, tile, self.later)
        far_a, far_b = self.ahead
        return k.sub(a, a0) if far_a else 0, k.sub(b, b0) if far_b else 0

    def _tile_after(self, k: Kernel, tile: Value, others: int) -> Sequence[Value]:
        """The tile that is so many after one, if there is one; or this one."""
        number = k.add(tile, others)
        return k.row("tiles", k.build.select(k.less(number, k["count"]), number, tile), TILE)

    def _ask_for_c(self, k: Kernel, corner: Place) -> None:
        for place, offset in self._cells(k, corner):
            k.prefetch(place, offset)

    def _ask(self, k: Kernel, a: Place, b: Place, lanes: int, ahead: Ahead) -> None:
        """Ask for what is some way ahead of what a tap reads: a line after the other, which is faster than mixed up.

        B is asked for step by step instead where its vectors are results, as then it is read in this order anyway.
        """
        if self.ahead[0]:
            array, far, starts, step = a, ahead[0], [a_m for a_m, _ in self.rows], self.ak
        elif self.ahead[1] and self.summed:
            array, far, starts, step = b, ahead[1], [column.b for column in self.columns], 1
        else:
            return
        each = lanes // step if 0 < step < lanes else 1
        for line in sorted({start // lanes for start in starts}):
            if self.later and self.depth <= FEW * each:
                for number in range(0, self.depth, each):
                    k.prefetch(array, k.add(far, number * step + line * lanes))
                continue
            with k.loop(self.depth, step=each, stepped=True) as at:
                k.prefetch(array, k.add(k.mul(at, step), far, line * lanes))

    def _sum(self, k: Kernel, a: Place, b: Place, sums: Sums, lanes: int, ahead: Ahead, soon: Sequence[Place]) -> None:
        """Add the products of one tap, a step's to one partial sum and the next one's to the next."""
        fold, size = len(sums[0][0]), lanes if self.summed else 1
        ak, bk = (1, 1) if self.summed else (self.ak, self.bk)

        def step(at: Value | int, part: int, used: int | None = None) -> None:
            here = k.at(b, k.mul(at, bk))
            if self.ahead[1] and not self.summed:
                for column in self.columns:
                    k.prefetch(here, k.add(ahead[1], column.b))
            if any(self.onward):
                self._ask_onward(k, a, at)
            for place, (_, each) in zip(soon, self.soon, strict=True):
                for line in range(0, each, LINE // BYTES[self.dtype]):
                    k.prefetch(place, k.add(k.mul(at, each), line))
            self._step(k, k.at(a, k.mul(at, ak)), here, sums, part, lanes, used)

        if not self.depth:
            with k.loop(k["depth"], stepped=True) as at:
                step(at, 0)
            return
        full = lanes if self.summed else None
        if self.together > 1:
            whole = self._sum_together(k, a, b, sums, lanes)
        else:
            whole = self.depth // (size * fold) * (size * fold)
            if whole // size * len(self.rows) * len(self.columns) <= UNROLLED:
                whole = 0
            with k.loop(whole, step=size * fold, stepped=True) as at:
                for part in range(fold):
                    step(k.add(at, part * size), part, full)
        for number, at in enumerate(range(whole, self.depth, size)):
            step(at, number % fold, full and min(lanes, self.depth - at))

    def _ask_onward(self, k: Kernel, a: Place, at: Value | int) -> None:
        """Ask for a line of some of the next tile's rows: in a line's worth of steps each row has its turn."""
        line = LINE // BYTES[self.dtype]
        far, row = self.onward
        turn = k.remainder(at, line)
        for first in range(0, len(self.rows), line):
            k.prefetch(a, k.add(far + first * row, at, k.mul(turn, row - 1)))

    def _sum_together(self, k: Kernel, a: Place, b: Place, sums: Sums, lanes: int) -> int:
        """Add the products of one tap, those of several steps that read the same numbers in turn; up to which number?

        What is left of a vector is not among them.
        """
        kind = k.vector(lanes)
        size, ak, bk = (lanes, 1, 1) if self.summed else (1, self.ak, self.bk)

        def some(at: Value | int, many: int) -> None:
            values = {(m, j): k.get(held[0], kind) for m, line in enumerate(sums) for j, held in enumerate(line)}
            here = k.at(a, k.mul(at, ak)), k.at(b, k.mul(at, bk))
            steps = [(i * size * ak, i * size * bk) for i in range(many)]
            self._multiply(k, *here, steps, values, lanes, lambda m, j, value: k.put(sums[m][j][0], value))

        full, each = self.depth // size * size, self.together * size
        whole = full // each * each
        with k.loop(whole, step=each, stepped=True) as at:
            some(at, self.together)
        if whole < full:
            some(whole, (full - whole) // size)
        return full

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
