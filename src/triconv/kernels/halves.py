"""float32 numbers as sums of two of bfloat16, multiplied as matrices: first the weight is split, then data in bands.

A band is some examples, or some positions of the first axis of one. Its halves stay in the second-level cache until
they are multiplied; so what comes from memory is what is given, and what goes there is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from typing import Any

from numpy.typing import NDArray

from ..coefficients import coefficients, depending
from ..form import Problem, Role
from ..geometry import Parts
from .bands import Bands
from .compile import Call
from .copy import Move, in_halves
from .finish import Finish
from .gradients import Gradient, gradient
from .index import divisors
from .layout import Buffer
from .prepared import Prepared, Steps, finishing, may_be_short, moves
from .program import Program, tiled
from .schedule import THREADS, TOLD, Arrays, Schedule, Stage
from .scratch import whole_lines
from .target import cache_bytes
from .ways import KEPT, ROLES, Paired, Strides, Way, way
from .words import LEAST_DATA, LEAST_WEIGHT, SPLIT

Array = NDArray[Any]
WEIGHT, VISIBLE = (ROLES.index(role) for role in (Role.WEIGHT, Role.VISIBLE))

ROOM = 0.5
"""What a copy may take of the second-level cache."""

UNITS = 16
"""Parts of what threads share, where these are not bands."""

SOME = 8
"""Bands that make for an even share of two threads."""

KERNELS, READ = 2.5, 1.0
"""How much longer it takes to split a weight than data, as its pairs lie further apart; and how long to read one from
far away, as long as it takes to split data."""


@dataclass(frozen=True, eq=False)
class Halves:
    """The bands of a problem on pairs, for a result of certain strides."""

    asked: Problem
    whole: Way
    """Where the result is computed, if not where it belongs."""
    band: Way
    parts: Parts | None
    """Of the first axis, if bands are not of whole examples."""

    @property
    def units(self) -> int:
        """How many bands there are."""
        return self.asked.batch // self.band.asked.batch * (1 if self.parts is None else self.parts.count)

    @property
    def in_turn(self) -> bool:
        """Whether bands come one after the other, and threads share the tiles of each: of a weight too large for the
        cache each then reads a part only."""
        return self.asked.itemsize * self.buffer(WEIGHT).size > ROOM * cache_bytes()[1]

    @property
    def seen(self) -> int:
        """Which of ROLES the data is."""
        return ROLES.index(next(role for role in self.asked.operands if role is not Role.WEIGHT))

    @property
    def extra(self) -> int:
        """The bytes that a call may take besides: of whole numbers, which operands on pairs have twice as many of."""
        return 2 * self.asked.extra

    @property
    def produced(self) -> int:
        """Which of them the result is."""
        return ROLES.index(self.asked.produces)

    def buffer(self, number: int) -> Buffer:
        """The copy of an operand."""
        found = self.band.buffers[number]
        assert found is not None
        return found

    def seconds(self) -> float:
        """What it takes."""
        found, cuts = coefficients(), self.band.cuts()
        size = self.asked.itemsize
        copied = size * (self.units * self.buffer(self.seen).size + KERNELS * self.buffer(WEIGHT).size)
        cycles = sum(one.block.cycles for one in cuts)
        if self.in_turn:  # each band meets all of the weight, which no cache near is large enough for
            copied += READ * size * self.units * self.buffer(WEIGHT).size
        multiplied = self.units * (cycles / found.cycles + len(cuts) * found.started)
        return multiplied + 2 * copied / found.split_copied + 2 * self.whole.copied / found.copied

    @property
    def described(self) -> str:
        """The bands and their tiles, in words."""
        return f"{self.units} bands; {self.band.described}"

    @property
    def tables(self) -> int:
        """The bytes of all tiles and taps."""
        return self.units * sum(40 * cut.tiles + 16 * cut.taps for cut in self.band.cuts())

    @property
    def scratch(self) -> int:
        """The numbers of scratch in all."""
        return self.schedule((((0,), 0),) * 3, None).scratch

    def schedule(self, lying: Sequence[Paired], finish: Finish | None) -> Schedule:
        """What runs it on arrays that lie so, in the order of ROLES."""
        asked, weight = self.asked, self.buffer(WEIGHT)
        own, kernels = (whole_lines(self.buffer(number).size, asked.itemsize) for number in (self.seen, WEIGHT))
        shared, own = (own, 0) if self.in_turn else (0, own)
        most, room = max(UNITS, self.units), self.extra // asked.itemsize
        make, key = partial(self._stages, lying, finish), ("halves", weight, lying[WEIGHT])
        return Schedule(asked.flops, shared, own, 1, make, most, kernels, key, room=room)

    def _stages(self, lying: Sequence[Paired], finish: Finish | None) -> tuple[Stage, ...]:
        steps, other = lying[WEIGHT]
        shape = self.asked.shape(Role.WEIGHT)
        split = self.buffer(WEIGHT).fill(shape, steps, (None,) * len(shape), SPLIT, in_halves(other, LEAST_WEIGHT))
        tables = [one for cut in self.band.cuts() for one in tiled(cut, SPLIT, False, "", finish)]
        bands = list(self._bands(lying))
        flops = self.asked.flops // self.units
        programs = [Program([one.at([(0, 0, place)]) for one in tables], flops) for _, place in bands]

        def kernels(given: Arrays, _: int, first: int, last: int) -> list[Call]:
            parts = range(first, last)
            return [call for part in parts for call in split.calls(given[WEIGHT], given[5], part, UNITS, given[4])]

        def copied(given: Arrays, copy: Array, band: int, part: int, parts: int) -> list[Call]:
            return bands[band][0].calls(given[self.seen], copy, part, parts, given[4])

        def multiplied(given: Arrays, copy: Array, band: int, part: int, parts: int) -> list[Call]:
            return programs[band].calls([(copy, given[5], given[self.produced], *given[6:])], part, parts)

        def both(given: Arrays, place: int, first: int, last: int) -> list[Call]:
            copy = given[3][place:]
            each = ((copied(given, copy, n, 0, 1), multiplied(given, copy, n, 0, 1)) for n in range(first, last))
            return [call for one in each for call in chain(*one)]

        def shared(make: Callable[[Arrays, Array, int, int, int], list[Call]], band: int) -> Stage:
            def calls(given: Arrays, _: int, first: int, last: int) -> list[Call]:
                return [call for part in range(first, last) for call in make(given, given[3], band, part, UNITS)]

            return Stage(UNITS, calls)

        split_up = Stage(UNITS, kernels)
        if not self.in_turn:
            return split_up, Stage(self.units, both)
        return split_up, *(shared(make, band) for band in range(self.units) for make in (copied, multiplied))

    def _bands(self, lying: Sequence[Paired]) -> Iterator[tuple[Move, int]]:
        """How the data of each is copied, and where its part of the result begins."""
        steps, other = lying[self.seen]
        made, examples = self.whole.layouts[self.produced].steps, self.band.asked.batch
        shape = (examples, *self.asked.shape(ROLES[self.seen])[1:])
        extended = self.asked.geometry.axes if ROLES[self.seen] is Role.VISIBLE else (None,) * self.asked.geometry.rank
        axes, buffer, how = (None, None, *extended), self.buffer(self.seen), in_halves(other, LEAST_DATA)
        parts = self.parts
        if parts is None:
            move = buffer.fill(shape, steps, axes, SPLIT, how)
            for example in range(0, self.asked.batch, examples):
                yield move.moved(example * steps[0], 0), example * made[0]
            return
        copies = Bands(self.whole, self.band, 0, parts).moves(self.seen, steps, how)
        for (example, n), move in zip(product(range(self.asked.batch), range(parts.count)), copies, strict=True):
            yield move, example * made[0] + n * parts.step[self.produced] * made[2]


def prepared(problem: Problem, turned: bool, lying: Sequence[Paired], steps: Steps | None = None) -> Prepared:
    """A problem on pairs made ready for arrays that lie so, with the `steps` that finish the result, if it can."""
    strides, produced = tuple(own for own, _ in lying), ROLES.index(problem.produces)
    found = chosen(problem, strides, turned)
    finish = None if steps is None else finishing(found.whole, strides[produced], *steps)
    program, drains = found.schedule(lying, finish), moves(found.whole, strides, produced)[1]
    finishes, examples = finish is not None, 2 * problem.batch  # as many as arrays can have of that many pairs
    short = may_be_short(problem, strides)
    return Prepared(found.whole, produced, None, examples, 1, program, (0, 1, 2), (), drains, short, finishes)


def chosen(problem: Problem, strides: tuple[Strides, ...], turned: bool = False) -> Halves | Gradient:
    """The bands of a problem on pairs; or the chunks of a weight's gradient, its operands in each other's place?"""
    if problem.produces is Role.WEIGHT:
        return gradient(problem, strides[WEIGHT], strides[VISIBLE][-1] == 1, turned)
    return halves(problem, strides[ROLES.index(problem.produces)])


@depending(KEPT)
def halves(problem: Problem, strides: Strides) -> Halves:
    """The bands of a problem on pairs, whose result has these strides."""
    vector = "visible" if problem.produces is Role.VISIBLE else "hidden"
    plain, produced = (False,) * problem.geometry.rank, ROLES.index(problem.produces)
    whole = way(problem, vector, (strides,) * len(ROLES), plain)  # of which the result alone stays
    buffers = tuple(buffer if number == produced else None for number, buffer in enumerate(whole.buffers))
    operands = frozenset(problem.operands)
    result = tuple(layout.steps for layout in whole.layouts)

    def made(inner: Problem, parts: Parts | None) -> Halves:
        return Halves(problem, replace(whole, buffers=buffers), way(inner, vector, result, plain, 1, operands), parts)

    return min((made(*one) for one in _choices(problem)), key=_moved)


def _choices(problem: Problem) -> Iterator[tuple[Problem, Parts | None]]:
    """The problem of a band, and of what parts it is."""
    for batch in divisors(problem.batch):
        yield replace(problem, batch=batch), None
    axes, made = problem.geometry.axes, ROLES.index(problem.produces)
    if not axes or axes[0].border != "zero" or (made == VISIBLE and not any(phase.taps for phase in axes[0].phases)):
        return
    size = (axes[0].visible, axes[0].hidden)[made]
    for count in divisors(size)[1:]:
        parts = axes[0].parts(count, problem.produces is Role.VISIBLE)
        if parts.step[made] * count == size == count * (parts.axis.visible, parts.axis.hidden)[made]:
            geometry = replace(problem.geometry, axes=(parts.axis, *axes[1:]))
            yield replace(problem, batch=1, geometry=geometry), parts


def _moved(found: Halves) -> tuple[bool, bool, float]:
    """Whether a band's copy outgrows its place in the cache; whether all copies of two threads, and the words of calls,
    outgrow what a call may take; and how many bytes move, with those of bands too few."""
    room, size = ROOM * cache_bytes()[1], found.asked.itemsize
    copy, weight = (found.buffer(number).size * size for number in (found.seen, WEIGHT))
    few = 1.0 if found.in_turn else max(1.0, SOME / found.units)
    taken = copy * (1 if found.in_turn else THREADS) + weight + size * TOLD
    return copy > room, taken > found.extra, found.units * (copy + weight) * few
