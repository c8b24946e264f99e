"""A problem in bands: some examples, and some positions of an axis, of which the copies stay in the second-level cache.

Each band is copied, computed and copied back before the next one's turn, in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from ..form import Role
from ..geometry import Parts
from .compile import Call
from .copy import Move, Stored
from .layout import Buffer
from .loops import arrays, over_data
from .program import Program, tiled
from .schedule import Arrays, Schedule, Stage
from .scratch import whole_lines
from .target import cache_bytes, target
from .ways import KEPT, ROLES, Strides, Way, filling, folds, way
from .words import PAIRS

MANY_BANDS = 64
"""Of an axis: more would be too thin, and their tables too long."""

MANY_UNITS = 512
"""In all: every one has tables of copies of its own."""

COPIED = frozenset((Role.VISIBLE, Role.HIDDEN))
"""What a band has copies of."""

NARROWER = 2.5
"""How many times as many bands as fit may be less work."""

CROWDED = 1.05
"""How much longer bands take whose copies fill more than half of the cache, as what they are copied from comes by."""

AGAIN = 1.5
"""How much more bands may copy than the whole, as what they read overlaps."""


@dataclass(frozen=True, eq=False)
class Bands:
    """The parts of an axis, for some examples at a time."""

    whole: Way
    way: Way
    """Of one band, its arrays being the whole ones of which it sees a part."""
    axis: int
    parts: Parts

    @property
    def examples(self) -> int:
        """How many examples a band has."""
        return self.way.asked.batch

    @property
    def units(self) -> int:
        """How many bands there are."""
        return self.whole.asked.batch // self.examples * self.parts.count

    def copied(self) -> int:
        """The bytes that all bands copy."""
        return self.units * self.way.copied

    def seconds(self) -> float:
        """What all bands take, as many as two threads would share evenly."""
        crowded = 2 * self.way.copied > cache_bytes()[1]
        return (self.units + self.units % 2) * self.way.seconds() * (CROWDED if crowded else 1.0)

    @property
    def places(self) -> tuple[int, int, int]:
        """Where the copies of a band begin, those of the visible and of the hidden, and where they end; in numbers."""
        if not self.copies:
            return 0, 0, 0
        visible, hidden = (whole_lines(buffer.size, self.whole.asked.itemsize) for buffer in map(self._buffer, (0, 1)))
        return 0, visible, visible + hidden

    @property
    def copies(self) -> bool:
        """Whether bands are copied, or read in place."""
        return None not in self.way.buffers[:2]

    def begins(self, number: int, steps: Strides) -> list[int]:
        """How far into an array all bands begin, in numbers."""
        first, step, at = self.parts.first[number], self.parts.step[number], 2 + self.axis
        examples = range(0, self.whole.asked.batch, self.examples)
        return [
            example * steps[0] + (first + n * step) * steps[at] for example in examples for n in range(self.parts.count)
        ]

    def _buffer(self, number: int) -> Buffer:
        """The copy of a band's part of an array."""
        found = self.way.buffers[number]
        assert found is not None
        return found

    def schedule(self, strides: tuple[Strides, ...]) -> Schedule:
        """The bands, which threads share, on arrays of these strides, in the order of ROLES."""
        asked, room = self.whole.asked, self.whole.asked.extra // self.whole.asked.itemsize
        return Schedule(asked.flops, 0, self.places[-1], 0, lambda: (self._stage(strides),), self.units, room=room)

    def _stage(self, strides: tuple[Strides, ...]) -> Stage:
        asked = self.way.asked
        tables = [one for cut in self.way.cuts() for one in tiled(cut, asked.dtype, False)]
        program = Program(tables, asked.flops)
        moves = list(zip(*(self.moves(number, strides[number]) for number in (0, 1)), strict=True))
        made = ROLES.index(asked.produces)
        seen, order = 1 - made, [ROLES.index(role) for role in arrays(asked, self.way.vector)]

        def calls(given: Arrays, place: int, first: int, last: int) -> list[Call]:
            copies = [given[3][place + begin :] for begin in self.places[:2]]
            a, b, c = ((*copies, given[2])[number] for number in order)
            found: list[Call] = []
            for unit in moves[first:last]:
                found += unit[seen].calls(given[seen], copies[seen], 0, 1)
                found += program.calls([(a, b, c)], 0, 1)
                found += unit[made].calls(copies[made], given[made], 0, 1)
            return found

        return Stage(self.units, calls)

    def moves(self, number: int, steps: Strides, how: Stored | None = None) -> Iterator[Move]:
        """The copies between an array and the bands' buffers, of all bands; and `how` the array is stored."""
        made = ROLES[number] is self.whole.asked.produces
        shape, room = self.whole.asked.shape(ROLES[number]), self._buffer(number).shape
        plan, at = partial(self._move, number, steps, how=how), 2 + self.axis
        found = alike(self.parts, number, shape[at], room[at], plan)
        for example in range(0, self.whole.asked.batch, self.examples):
            for move, further in found:
                far = example * steps[0] + further * steps[at]
                yield move.moved(0, far) if made else move.moved(far, 0)

    def _move(self, number: int, steps: Strides, begin: int, how: Stored | None) -> Move:
        """The copy of the first examples' band that begins here."""
        asked, role = self.whole.asked, ROLES[number]
        shape, before = (self.examples, *asked.shape(role)[1:]), list(self._buffer(number).before)
        before[2 + self.axis] = -begin
        buffer = replace(self._buffer(number), before=tuple(before))
        if role is not asked.produces:
            axes = (None, None, *asked.geometry.axes) if role is Role.VISIBLE else (None,) * len(shape)
            return buffer.fill(shape, steps, axes, asked.dtype, how)
        pieces = buffer.drain(shape, steps, asked.dtype)
        return Move.joined([move.moved(place, first * steps[-1]) for move, place, first in pieces], asked.dtype)


def alike(parts: Parts, number: int, size: int, room: int, plan: Callable[[int], Move]) -> list[tuple[Move, int]]:
    """The plan of each part's copy, made for where that or another one begins, and how many positions further on it is.

    Those whose `room` lies inside of an array of this size are alike.
    """
    begins = [parts.first[number] + n * parts.step[number] for n in range(parts.count)]
    inside = [begin for begin in begins if 0 <= begin <= size - room]
    plans = {begin: plan(begin) for begin in {*begins} - {*inside[1:]}}
    return [(plans[begin], 0) if begin in plans else (plans[inside[0]], begin - inside[0]) for begin in begins]


@lru_cache(maxsize=KEPT)
def bands(best: Way, strides: tuple[Strides, ...]) -> Bands | None:
    """The bands to run a problem in that take the least, if its copies do not fit in the cache; or none.

    They are of the last axis, whose neighbours lie together; or of the first one where vectors run over the last.
    """
    problem, at = best.asked, -1 if best.vector == "example" else 0
    axes, room = problem.geometry.axes, cache_bytes()[1] * 3 // 4
    able = over_data(best.vector) and problem.produces is not Role.WEIGHT and problem.dtype != PAIRS
    able = able and not any(best.exact) and not folds(problem) and None not in best.buffers[:2]
    taken = len(axes) < 1 + (best.vector == "position" or best.parts > 1)
    if not able or taken or best.copied <= room or axes[at].bank > 1 or axes[at].border != "zero":
        return None
    if any(abs(own[2:][at]) == 1 for own in strides[:2]):  # lines would be read and written in small pieces
        return None
    some = [batch for batch in range(1, problem.batch + 1) if problem.batch % batch == 0]
    found = [one for batch in some for one in _of_examples(best, strides, batch, at, room)]
    few = (one for one in found if one.units <= MANY_UNITS and one.copied() <= AGAIN * best.copied)
    return min(few, key=Bands.seconds, default=None)


def _of_examples(best: Way, strides: tuple[Strides, ...], batch: int, at: int, room: int) -> Iterator[Bands]:
    """The widest bands that fit the room, of so many examples, if these fill vectors as well as all do; and narrower
    ones, whose tiles may leave less over."""
    problem = replace(best.asked, batch=batch)
    count = filling(problem) if best.parts > 1 else 1
    lanes = target().lanes(problem.itemsize)
    full = best.vector == "position" or batch * count % lanes == 0 or batch == best.asked.batch
    if not full:
        return
    axis, transposed = problem.geometry.axes[at], problem.produces is Role.VISIBLE
    size, widest = axis.visible if transposed else axis.hidden, MANY_BANDS
    for many in range(2, min(size, MANY_BANDS) + 1):
        if many > NARROWER * widest:
            return
        parts = axis.parts(many, transposed)
        if parts.step[ROLES.index(problem.produces)] * (many - 1) >= size:
            continue  # as wide as with fewer, and the last is empty
        own = list(problem.geometry.axes)
        own[at] = parts.axis
        inner = replace(problem, geometry=replace(problem.geometry, axes=tuple(own)))
        if sum(map(inner.bytes_of, COPIED if transposed else (Role.HIDDEN,))) > room:
            continue  # without what is added around them
        one = way(inner, best.vector, strides, best.exact, count, COPIED)
        if one.copied <= room:
            widest = min(widest, many)
            yield Bands(best, one, at % len(own), parts)
