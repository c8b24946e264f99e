"""A weight's gradient as matrices of pairs, of bfloat16 or of halves: chunks of positions, copied and added up.

    dW[k, i, o] = Σ_{pairs of examples, positions x}  v[n, i, s·c + e·k − p] · h[n, o, c]

A pair is one position of two examples. Rows are visible channels, of which positions lie innermost, in blocks; columns
are hidden channels, whose rows are positions. So a tap is a place in the hidden and a residue of the visible, and all
taps read the same copies. A chunk is some examples, and some positions of the first axis; its copies stay in the
second-level cache. Either threads share a chunk's tiles, or they have chunks of their own, whose sums go to pieces of
scratch and are added at the end. What a chunk adds to is a sum of others, so sums of sums gather less error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coefficients import coefficients, depending
from ..form import Problem, Role
from ..geometry import Axis, Parts
from .adding import adding
from .bands import alike
from .blocks import Blocks
from .compile import Call
from .copy import Move, Stored, in_halves
from .finish import Finish
from .index import Index, divisors
from .layout import Buffer, Layout
from .matrices import fill_columns, of_tile
from .nest import Cut, Nest, cut
from .program import Program, tiled
from .registers import SIDE
from .schedule import THREADS, TOLD, Arrays, Schedule, Stage
from .scratch import whole_lines
from .target import cache_bytes, target
from .ways import KEPT, ROLES, Paired, Strides, Way, way
from .words import GATHERED, LEAST_DATA, LEAST_WEIGHT, PAIRS, SPLIT

Array = NDArray[Any]
WEIGHT = ROLES.index(Role.WEIGHT)
VISIBLE, HIDDEN = (ROLES.index(role) for role in (Role.VISIBLE, Role.HIDDEN))

ROOM, BLOCK = 0.75, 0.35
"""What copies of a chunk may take of the second-level cache to be there still when they are read; and what those of
the hidden channels that tiles take in turn."""

FAR = 1.1
"""How much longer all takes where they are not."""

UNITS = 16
"""Parts of what threads share."""

LONG = 2048
"""Pairs of a sum, of which more are better summed apart."""

PIECES = 8
"""Of a sum, at most."""

SHARE = 4
"""How much more is copied than pieces of the result take."""

LONGER = 1.5
"""How much longer other ways in bfloat16 take than they say, as they read rows of matrices from many places."""

TURNED = 2.6
"""How much longer a copy takes where rows become columns."""

PUT_TOGETHER = 0.5
"""How long it takes to put pairs of bfloat16 together, as long as to copy as many numbers."""

ADDED = 0.5
"""How long it takes to add to a number of the result, as long as it takes to copy one."""


@dataclass(frozen=True, eq=False)
class Gradient:
    """The chunks of a problem on pairs of examples."""

    asked: Problem
    whole: Way
    """Where the result is computed, if not where it belongs."""
    examples: int
    """Pairs of a chunk."""
    parts: Parts
    """Of the first axis."""
    least: tuple[float, float]
    """Of numbers of either operand that can be split."""

    @property
    def split(self) -> bool:
        """Whether numbers are, or are halves as they come."""
        return self.asked.dtype == SPLIT

    @property
    def units(self) -> int:
        """How many chunks there are."""
        return self.asked.batch // self.examples * self.parts.count

    @property
    def copied(self) -> int:
        """The numbers of a chunk's copies."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Of either, in whole lines of the cache."""
        visible, hidden = (whole_lines(size, self.asked.itemsize) for size in (self.rows.size, self.columns.size))
        return visible, hidden

    @cached_property
    def pairs(self) -> int:
        """How many pairs a sum of a chunk has, those that fill up blocks among them."""
        return prod(self.axes[n].hidden for n in range(len(self.axes) - 1)) * self.rows.turns * self.examples

    @cached_property
    def pieces(self) -> int:
        """In how many pieces to sum, each of some chunks; their results are added up. One is shared by all threads."""
        least = SHARE * prod(self.asked.shape(Role.WEIGHT))
        return next((n for n in (PIECES, 4, 2) if n <= self.units and n * least <= self.units * self.copied), 1)

    @property
    def each(self) -> tuple[int, int]:
        """How many visible and hidden channels a group has."""
        channels = self.asked.channels
        return channels.visible // channels.groups, channels.hidden // channels.groups

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those of a chunk."""
        return (self.parts.axis, *self.asked.geometry.axes[1:])

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The residue of the last axis's visible that each tap meets, and by how many of its turns it is further on."""
        axis = self.axes[-1]
        turns = [divmod(int(axis.position(0, k)), axis.stride) for k in range(axis.kernel)]
        return [(residue, turn) for turn, residue in turns]

    @cached_property
    def rows(self) -> Blocks:
        """The copy of the visible."""
        axis, each = self.axes[-1], SIDE // self.examples
        size = max(1, min(axis.visible, axis.reach - axis.before))
        turns = -(-size // (axis.stride * each)) * each
        residues = tuple(sorted({residue for residue, _ in self._places}))
        lines = tuple(axis.padded[1] for axis in self.axes[:-1])
        many, low = self.asked.channels.visible, SIDE * self.split
        panel = next((wide for wide in (2 * SIDE, SIDE) if self.each[0] % wide == 0), self.each[0])
        return Blocks(self.examples, many, panel, lines, residues, axis.stride, turns, low)

    @cached_property
    def columns(self) -> Buffer:
        """The copy of the hidden, with zeros around lines that tell where taps meet them."""
        rank, channels = len(self.axes), self.asked.channels.hidden
        first, last = (end(turn for _, turn in self._places) for end in (min, max))
        shape = (self.examples, channels, *(axis.hidden for axis in self.axes[:-1]), self.rows.turns + last - first)
        order = (*range(2, 2 + rank), 0, 1)
        panel = min(SIDE, self.each[1])
        return Buffer(shape, (*(0,) * (1 + rank), last), order, 1, panel, halves=self.split)

    @cached_property
    def cut(self) -> Cut:
        """The tiles of a chunk."""
        return cut(self._nest, self.asked.itemsize, target(), cache_bytes()[1])

    @property
    def _nest(self) -> Nest:
        """The loops of a chunk: groups around blocks of hidden channels around panels of rows around taps."""
        rows, columns, (visible, hidden) = self.rows, self.columns.layout, self.each
        by_hidden, by_visible, *taps = (self._own.layout if self.pieces > 1 else self.whole.layouts[WEIGHT]).steps
        block, _, panel, lines = rows.steps
        wide, panels = columns.panel, visible // rows.panel
        count, size = hidden // wide, self.asked.itemsize * columns.panel_step
        inner = max((n for n in divisors(count) if n * size <= BLOCK * cache_bytes()[1]), default=1)
        around = Index(count // inner, 0, inner * columns.panel_step, inner * wide * by_hidden)
        results = (
            Index(inner, 0, columns.panel_step, wide * by_hidden),
            Index(rows.panel, rows.row, 0, by_visible),
            Index(wide, 0, 1, by_hidden, True),
        )
        others = zip(self.axes, lines, columns.steps[2:], strict=False)
        sums = [Index(axis.hidden, axis.stride * a, b, 0) for axis, a, b in others]
        sums += [Index(rows.count, block, SIDE * columns.steps[0], 0), Index(SIDE, 1, columns.steps[0], 0)]
        groups = self.asked.channels.groups
        return Nest(
            (
                Index(groups, panels * panel, count * columns.panel_step, hidden * by_hidden),
                around,
                Index(panels, panel, 0, rows.panel * by_visible),
            ),
            results,
            tuple(sums),
            np.array(self._corners(taps), np.int64),
            np.zeros((1, 2), np.int64),
            pairs=True,
            low=(rows.low, columns.low),
            ordered=True,
            adds=self.units > self.pieces,
        )

    def _corners(self, steps: Sequence[int]) -> list[tuple[int, int, int, int, int]]:
        """Where each tap begins in the copies and, steps being those of the weight, in the result."""
        _, residue, _, lines = self.rows.steps
        last, along = max(turn for _, turn in self._places), self.columns.layout.steps[-1]
        taps = [
            [(axis.dilation * k * line, 0) for k in range(axis.kernel)]
            for axis, line in zip(self.axes[:-1], lines, strict=True)
        ]
        taps.append([(self.rows.residues.index(own) * residue, (last - turn) * along) for own, turn in self._places])
        found = []
        for tap in product(*map(enumerate, taps)):
            c = sum(k * step for (k, _), step in zip(tap, steps, strict=True))
            found.append((sum(a for _, (a, _) in tap), sum(b for _, (_, b) in tap), c, 0, 1))
        return found

    @property
    def cycles(self) -> float:
        """What the tiles of a chunk take, of the rows of a panel, or of as many as two matrices have."""
        (visible, hidden), taps, high = self.each, prod(self.asked.geometry.kernel), min(self.rows.panel, 2 * SIDE)
        tiles = -(-visible // high) * (hidden // self.columns.panel) * taps * self.asked.channels.groups
        return tiles * of_tile(high, -(-high // SIDE), 1, SIDE, self.pairs, self.split, taps > 1)

    def seconds(self) -> float:
        """What it takes."""
        found, size = coefficients(), self.asked.itemsize
        visible, hidden = self.sizes
        weight = prod(self.asked.shape(Role.WEIGHT))
        copied = self.units * size * (TURNED * visible + hidden)
        added = ADDED * (self.units - 1 + self.pieces) * weight
        multiplied = self.units * (self.cycles / found.cycles + found.started)
        if self.copied * size > ROOM * cache_bytes()[1]:
            copied, multiplied = FAR * copied, FAR * multiplied
        rate = found.split_copied if self.split else found.copied / PUT_TOGETHER
        return multiplied + 2 * copied / rate + 2 * (size * added + self.whole.copied) / found.copied

    @property
    def described(self) -> str:
        """The chunks, and their tiles, in words."""
        rows = prod(size for loop, size in zip(self.cut.results, self.cut.block.sizes, strict=True) if loop.row)
        columns = next(size for loop, size in zip(self.cut.results, self.cut.block.sizes, strict=True) if loop.vector)
        text = f"{self.units} chunks of {self.pairs} pairs" + (f" in {self.pieces} pieces" if self.pieces > 1 else "")
        return f"{text}; tiles of {rows} × {columns} sums as matrices of {SIDE} pairs; copies visible, hidden"

    @property
    def tables(self) -> int:
        """The bytes of all tiles."""
        return 40 * self.cut.tiles + 16 * self.cut.taps

    @property
    def scratch(self) -> int:
        """The numbers of scratch in all."""
        return self.schedule((((0,), 0),) * 3, None).scratch

    @cached_property
    def extra(self) -> int:
        """The bytes that a call may take besides: a copy of the operands, which may be of twice as many whole numbers,
        and of the weight."""
        visible, hidden, weight = map(self.asked.bytes_of, ROLES)
        return (1 + self.split) * (visible + hidden) + weight

    @cached_property
    def _own(self) -> Buffer:
        """A piece's result."""
        shape = self.asked.shape(Role.WEIGHT)
        return Buffer(shape, (0,) * len(shape), self.asked.order(Role.WEIGHT))

    @property
    def _apart(self) -> int:
        """The numbers from one piece's result to the next."""
        return whole_lines(self._own.size, self.asked.itemsize) if self.pieces > 1 else 0

    def schedule(self, lying: Sequence[Paired], _: Finish | None) -> Schedule:
        """What runs it on arrays that lie so, in the order of ROLES; nothing finishes a gradient."""
        several, copies = self.pieces > 1, self.copied
        shared, own = (self.pieces * self._apart, copies) if several else (copies, 0)
        most, room = self.pieces if several else UNITS, self.extra // self.asked.itemsize
        make = partial(self._stages, lying)
        return Schedule(self.asked.flops, shared, own, int(self.split), make, most, room=room)

    def _stages(self, lying: Sequence[Paired]) -> tuple[Stage, ...]:
        several, result, begin = self.pieces > 1, self.whole.layouts[WEIGHT].steps, self.sizes[0]
        tables = tiled(self.cut, self.asked.dtype, False)
        flops = self.asked.flops // self.units
        programs = Program(tables, flops, first=True), Program(tables, flops)
        moves = list(zip(self._moves(VISIBLE, *lying[VISIBLE]), self._moves(HIDDEN, *lying[HIDDEN]), strict=True))

        def copied(given: Arrays, copy: Array, chunk: int, part: int, parts: int) -> list[Call]:
            places = zip(moves[chunk], (VISIBLE, HIDDEN), (copy, copy[begin:]), strict=True)
            marks = (given[4],) if self.split else ()
            return [call for move, n, to in places for call in move.calls(given[n], to, part, parts, *marks)]

        def multiplied(copy: Array, out: Array, new: bool, part: int, parts: int) -> list[Call]:
            return programs[not new].calls([(copy, copy[begin:], out)], part, parts)

        def piece(given: Arrays, place: int, first: int, last: int) -> list[Call]:
            found, copy = list[Call](), given[3][place:]
            for n in range(first, last):
                ends = [self.units * m // self.pieces for m in (n, n + 1)]
                for chunk in range(*ends):
                    found += copied(given, copy, chunk, 0, 1)
                    found += multiplied(copy, given[3][n * self._apart :], chunk == ends[0], 0, 1)
            return found

        if several:
            return Stage(self.pieces, piece), self._sum(result)

        def shared(make: Callable[[Arrays, int], list[Call]]) -> Stage:
            return Stage(
                UNITS, lambda given, _, first, last: [call for n in range(first, last) for call in make(given, n)]
            )

        def each(chunk: int) -> Iterator[Stage]:
            yield shared(lambda given, part: copied(given, given[3], chunk, part, UNITS))
            yield shared(lambda given, part: multiplied(given[3], given[WEIGHT], chunk == 0, part, UNITS))

        return tuple(stage for chunk in range(self.units) for stage in each(chunk))

    def _sum(self, result: Strides) -> Stage:
        """The sum of the pieces' results."""
        kind = np.dtype("float32")
        program, one = adding(self._own, self.pieces, self._apart, Layout(result), kind), np.ones(1, kind)

        def calls(given: Arrays, _: int, first: int, last: int) -> list[Call]:
            operands = [(one, given[3], given[WEIGHT])]
            return [call for unit in range(first, last) for call in program.calls(operands, unit, UNITS)]

        return Stage(UNITS, calls)

    def _moves(self, number: int, steps: Strides, other: int) -> Iterator[Move]:
        """The copies of all chunks."""
        first, plan = self.asked.geometry.axes[0], partial(self._move, number, steps, other)
        size, room = first.hidden, self.parts.axis.hidden
        if number == VISIBLE:
            size, room = first.visible, (*self.rows.lines, self.rows.stride * self.rows.turns)[0]
        found = alike(self.parts, number, size, room, plan)
        for example in range(0, self.asked.batch, self.examples):
            for move, further in found:
                yield move.moved(example * steps[0] + further * steps[2], 0)

    def _move(self, number: int, steps: Strides, other: int, begin: int) -> Move:
        """The copy of the first examples' part that begins here."""
        rank = len(self.axes)
        if number == HIDDEN:
            shape = (self.examples, self.asked.channels.hidden, *(axis.hidden for axis in self.axes))
            return self.columns.fill(shape, steps, (None,) * (2 + rank), self.asked.dtype, self._stored(number, other))
        own = self.asked.geometry.axes
        begins = [*(-axis.padded[0] for axis in own[:-1]), 0]
        if self.parts.count > 1:
            begins[0] = begin
        shape = (self.examples, self.asked.channels.visible, *(axis.visible for axis in own))
        return self.rows.fill(shape, steps, own[:-1], tuple(begins), self.asked.dtype, self._stored(number, other))

    def _stored(self, number: int, other: int) -> Stored | None:
        """How an operand is stored whose pairs' numbers are so far apart, or side by side."""
        if self.split:
            return in_halves(other, self.least[number])
        return Stored(GATHERED, "", other) if other else None


@depending(KEPT)
def gradient(problem: Problem, strides: Strides, in_lines: bool, turned: bool) -> Gradient:
    """The chunks of a problem on pairs of examples, whose result has these strides.

    Are positions of the visible innermost, `in_lines`? If operands are in each other's place, `turned`, the hidden is
    what may be as large as a weight's numbers are.
    """
    plain, rounds = (False,) * problem.geometry.rank, problem.dtype == PAIRS
    copied = frozenset({Role.WEIGHT} if rounds else ())
    whole = way(problem, "hidden", (strides,) * len(ROLES), plain, 1, copied)  # of which the result alone stays
    whole = replace(whole, buffers=(None, None, whole.buffers[WEIGHT]))
    least = (LEAST_DATA, LEAST_WEIGHT) if turned else (LEAST_WEIGHT, LEAST_DATA)
    in_lines = in_lines and problem.channels.visible > 1
    found = list[Gradient]()
    cuts = list(_parts(problem.geometry.axes[0]))
    for examples in (n for n in divisors(problem.batch) if SIDE % n == 0 and (n == 1 or not in_lines)):
        every = [Gradient(problem, whole, examples, parts, least) for parts in cuts]
        for near in (False, True):
            fitting = (one for one in every if not any(_too_much(near, one)))
            found.append(next(fitting, None) or min(every, key=partial(_too_much, near)))
    return min(found, key=lambda one: (*_too_much(False, one), one.seconds()))


def hindrances(problem: Problem) -> dict[str, bool]:
    """What chunks of a gradient cannot do, and whether the problem wants it.

    Each number of the hidden has to meet one of the visible: else nothing tells that it is infinite.
    """
    last = problem.geometry.axes[-1:]
    return {
        "needs a spatial axis, whose positions are summed": not last,
        "what meets only zeros is not read, but may be infinite": any(not axis.every_window_sees for axis in last),
        "fills lines up with zeros, so the last axis needs a zero border": any(axis.border != "zero" for axis in last),
    }


@depending(KEPT)
def of_pairs(best: Way, strides: tuple[Strides, ...]) -> Gradient | None:
    """The chunks of a gradient in bfloat16, where they are faster than another way; or none."""
    problem, channels = best.asked, best.asked.channels
    able = problem.produces is Role.WEIGHT and problem.dtype == PAIRS and target().matrices and channels.mask is None
    if not able or problem.geometry.banked or any(hindrances(problem).values()):
        return None
    if not fill_columns(channels.hidden // channels.groups):
        return None
    found = gradient(problem, strides[WEIGHT], strides[VISIBLE][-1] == 1, turned=False)
    return found if found.seconds() < LONGER * best.seconds() else None


def _parts(axis: Axis) -> Iterator[Parts]:
    """Into what parts to cut the first axis, the largest first."""
    yield Parts(1, axis, (0, 0), (0, 0))
    if axis.border == "zero":
        for count in divisors(axis.hidden)[1:]:
            yield axis.parts(count, False)


def _too_much(near: bool, found: Gradient) -> tuple[int, int, int]:
    """By how much sums are too long; what is taken, the words of calls too, outgrows what a call may take; and the
    copies of a chunk the cache, if they are to be `near`."""
    size, several = found.asked.itemsize, found.pieces > 1
    taken = size * (found.copied * (THREADS if several else 1) + found.pieces * found._apart) + found.whole.copied
    allowed = max(found.extra - size * TOLD, found.extra // 2)
    more = max(0, size * found.copied - int(ROOM * cache_bytes()[1])) if near else 0
    return max(0, found.pairs - LONG), max(0, taken - allowed), more
