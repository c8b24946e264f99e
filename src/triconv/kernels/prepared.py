"""A way to run a problem made ready: its program, and the copies into and out of its buffers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..after import pitch
from ..form import Problem, Role
from ..kept import Kept
from ..memory import KEPT_STRIDES, address, empty
from . import filed
from .adding import adding
from .bands import bands
from .chunks import Chunks, chunks
from .compile import Call
from .copy import Copying, Move, Stored, in_stage
from .finish import Finish
from .finite import all_finite, test
from .gradients import of_pairs
from .layout import Buffer, Layout
from .loops import arrays
from .program import Copied, Program, tiled
from .schedule import Schedule
from .scratch import Scratch, whole_lines
from .short import Later, Short, stand_in
from .target import cache_bytes
from .team import SLICES, in_parts, parts_of, run_stages, worth_sharing
from .threads import thread_count
from .ways import ROLES, Paired, Strides, Way, best_way, filling, folds, pieces, shape_of, way
from .words import BFLOAT16, CHECKED, EXACT, GATHERED, HALVED, PAIRS

Array = NDArray[Any]
WEIGHT = ROLES.index(Role.WEIGHT)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A way, compiled for arrays of certain strides."""

    way: Way
    produced: int
    """Which of the arrays is the result, as ROLES counts them."""
    supposes: int | None
    """Which of them has to be finite, if any; the result when it is there."""
    examples: int
    """How many are taken at a time, so that copies of the operands and of the result are not all there at once."""
    pieces: int
    """In how many pieces of so many examples the result is summed, side by side."""
    program: Program | Schedule
    operands: tuple[int, ...]
    """Which of the arrays are the program's A, B and C."""
    fills: tuple[tuple[int, Move], ...]
    drains: tuple[tuple[Move, int, int], ...]
    short: bool = False
    """Whether the work may be written down: arrays are not large, and kernels do all that there is to do."""
    finishes: bool = False
    """Whether the program finishes the result."""
    adder: Program | None = None
    """What adds up the results of pieces, if kernels do: to where it belongs, or into a buffer behind theirs."""
    comes: int = 0
    """How many numbers a copy of the weight has, or what else is made of it, if such come instead of it."""
    shorts: dict[tuple[int, int, int], Short | None] = field(default_factory=dict, repr=False)
    """The work written down, by the number of threads, of copies of the weight that come, and of what else comes."""
    near: dict[int, int] = field(default_factory=dict, repr=False)
    """How many copies of the weight there are, by the number of threads."""
    known_by: str = ""
    """All that this depends on, if the work should be kept for other processes."""

    def tried(self, given: Sequence[Array], kept: Kept | None = None, more: Sequence[Array] = ()) -> bool:
        """Write the result over one of the arrays, if all is finite that has to be; is it?"""
        if kept is None and (short := self._written_down(given, len(more))) is not None:
            return short.run(*map(address, (*given, *more)))
        if self.supposes not in (None, self.produced) and not _finite(given[self.supposes], kept):
            return False
        self.run(given, kept, more)
        return self.supposes != self.produced or all_finite(given[self.produced])

    def run(self, given: Sequence[Array], kept: Kept | None = None, more: Sequence[Array] = ()) -> bool | None:
        """Write the result over one of the arrays, which come in the order of ROLES. Is it finite, if that is known?

        `more` are the arrays that it is finished with, if the program finishes it.
        """
        visible, hidden, weight = given
        if kept is not None and self.knowing is not None:
            copy = self._known(given, kept)
            return False if copy is None else self.knowing.run((visible, hidden, copy), None, more)
        if self.supposes is None and (short := self._written_down(given, len(more))) is not None:
            finite = short.run(*map(address, (*given, *more)))
            return None if short.marks is None else finite
        step = self.examples * self.pieces
        if step >= len(visible):
            return self._run(given, more)
        for n in range(0, len(visible), step):
            some = slice(n, n + step)
            self._run((visible[some], hidden[some], weight))
        return None

    def _run(self, given: Sequence[Array], more: Sequence[Array] = ()) -> bool | None:
        threads, finite = thread_count(), None
        with Scratch() as lent:
            rooms = [lent.array(size, self.kind) for size in self._rooms(threads)]
            fills, operands, (result, *others), near = self._laid_out(given, rooms, more, threads)
            if isinstance(self.program, Program):
                self.program.run(*operands, fills=fills, near=near, threads=threads)
            else:
                run_stages([in_stage(fills[0], threads)], threads)
                finite = self.program.run(operands[0], self.kind)
            with np.errstate(all="ignore"):  # infinities may meet here as anywhere
                if self.adder is None:
                    for other in others:
                        result += other
                run_stages(self._emptied(rooms, result, given[self.produced], threads), threads)
                buffer = self.way.buffers[self.produced]
                if buffer is not None and folds(self.way.asked):
                    buffer.fold(result, given[self.produced], (None, None, *self.way.asked.geometry.axes))
                    finite = None
            return finite

    def stages(self, given: Sequence[Array], later: Later) -> list[list[list[Call]]]:
        """What is done on these arrays, later: where kernels do all of it."""
        assert self.pieces == 1, f"{self.pieces} pieces: expected one, as NumPy may add them up"
        rooms = [later.array(size, self.kind) for size in self._rooms(later.threads)]
        found = self._in_turn(given, rooms, (), later.threads)
        for room in rooms:
            later.leave(room)
        return found

    def _in_turn(
        self, given: Sequence[Array], rooms: Sequence[Array], more: Sequence[Array], threads: int
    ) -> list[list[list[Call]]]:
        """The stages of a program's work on all examples, some at a time, which have the same rooms."""
        found, step = list[list[list[Call]]](), self.examples * self.pieces
        assert isinstance(self.program, Program), "a schedule: threads have memory of their own there"
        for n in range(0, len(given[0]), step):
            own = [array if number == WEIGHT else array[n : n + step] for number, array in enumerate(given)]
            fills, operands, (result, *_), near = self._laid_out(own, rooms, more, threads)
            found += self.program.stages(operands, threads, fills, near)
            found += self._emptied(rooms, result, own[self.produced], threads)
        return found

    def _laid_out(
        self, given: Sequence[Array], rooms: Sequence[Array], more: Sequence[Array], threads: int
    ) -> tuple[list[list[Copying]], list[list[Array]], list[Array], list[Copied]]:
        """Of each piece what fills its buffers, in these rooms, what is computed over, and which of that is made.

        And the copies of the weight, if threads have their own.
        """
        fills, operands, results = list[list[Copying]](), list[list[Array]](), list[Array]()
        near = self._near(given[WEIGHT], rooms, threads)
        moves = [(number, move) for number, move in self.fills if number != WEIGHT or not near]
        for n in range(self.pieces):
            some = slice(n * self.examples, (n + 1) * self.examples)
            whole = [array if number == WEIGHT else array[some] for number, array in enumerate(given)]
            own = list(whole)
            for (number, size), room in zip(self.copies, rooms, strict=True):
                places = self._places(room, size)
                own[number] = places[len(places) * n // self.pieces, :size]
            fills.append([(move, whole[number], own[number]) for number, move in moves])
            operands.append([*(own[number] for number in self.operands), *more])
            results.append(own[self.produced])
        return fills, operands, results, near

    def _near(self, weight: Array, rooms: Sequence[Array], threads: int) -> list[Copied]:
        """The copies of the weight with what fills them, if there are more than one."""
        if self.comes:
            return [(place, ()) for place in weight] if len(weight) > 1 else []
        if self._near_copies(threads) == 1:
            return []
        move, size = dict(self.fills)[WEIGHT], dict(self.copies)[WEIGHT]
        room = next(room for (number, _), room in zip(self.copies, rooms, strict=True) if number == WEIGHT)
        return [(place, [(move, weight, place)]) for place in self._places(room, size)[:, :size]]

    def _near_copies(self, threads: int) -> int:
        """How many copies of the weight to make for so many threads."""
        if threads not in self.near:
            parts = self.program.parts(1, threads) if isinstance(self.program, Program) else 1
            self.near[threads] = min(parts, self.way.near_copies(threads))
        return self.near[threads]

    def _places(self, room: Array, size: int) -> Array:
        """Where copies of so many numbers begin in a room, one in a row."""
        return room.reshape(-1, whole_lines(size, self.kind.itemsize))

    def _rooms(self, threads: int) -> list[int]:
        """The numbers that copies take: as many of an operand as are multiplied at once."""
        apart = min(self.pieces, self.program.parts(self.pieces, threads)) if isinstance(self.program, Program) else 1
        sums = self.pieces + (self.rounds and self.adder is not None)
        many = {WEIGHT: self._near_copies(threads)} | {self.produced: sums}
        return [whole_lines(size, self.kind.itemsize) * many.get(number, apart) for number, size in self.copies]

    def _emptied(self, rooms: Sequence[Array], result: Array, out: Array, threads: int) -> list[list[list[Call]]]:
        """The stages that write what was computed to where it belongs, if it is elsewhere."""
        sums, added = result, list[list[Call]]()
        if self.adder is not None:
            room = rooms[[number for number, _ in self.copies].index(self.produced)]
            if self.rounds:
                sums = self._places(room, dict(self.copies)[self.produced])[self.pieces]
            given, parts = (np.ones(1, self.kind), room, sums if self.rounds else out), parts_of(room.size, threads)
            added = [self.adder.calls([given], part, parts) for part in range(parts)]
            if not self.rounds:
                return [added]
        drains = [(move, sums[begin:], out[..., first:]) for move, begin, first in self.drains]
        return [added, in_stage(drains, threads)]

    @property
    def rounds(self) -> bool:
        """Whether a result in a buffer is rounded as it is written to where it belongs."""
        return self.way.asked.dtype == PAIRS

    @cached_property
    def knowing(self) -> Prepared | None:
        """The same for a weight that is known: finite, if it has to be; what is made of it comes, if anything is."""
        known = self.program.known if isinstance(self.program, Schedule) else None
        if self.produced == WEIGHT or (known is self.keeps is self.supposes is None):
            return None
        found = replace(self, supposes=None, shorts={}, near={}, known_by="")
        if known is not None:
            return replace(found, program=known.after(self.operands.index(WEIGHT)), comes=known.kernels)
        if self.keeps is None:
            return found
        fills = tuple((number, move) for number, move in self.fills if number != WEIGHT)
        plain = replace(self.way, buffers=(*self.way.buffers[:WEIGHT], None))
        return replace(found, way=plain, comes=dict(self.copies)[WEIGHT], fills=fills)

    def _known(self, given: Sequence[Array], kept: Kept) -> Array | None:
        """What comes instead of a weight that is known; None if it cannot be taken."""
        if isinstance(self.program, Schedule) and (known := self.program.known) is not None:
            made = known.made([given[number] for number in self.operands], self.kind, kept)
            return None if made is None else made[None]
        return given[WEIGHT] if self.keeps is None else self._copied(given[WEIGHT], kept)

    @cached_property
    def keeps(self) -> Hashable:
        """What the copy of a weight is known by; None if there is none, or the weight is the result."""
        buffer = self.way.buffers[WEIGHT]
        return None if self.produced == WEIGHT or buffer is None else (buffer, self.way.asked.dtype)

    def _copied(self, weight: Array, kept: Kept) -> Array:
        """The copies of a weight, one in a row, made now or before."""
        size, move, many = dict(self.copies)[WEIGHT], dict(self.fills)[WEIGHT], self._near_copies(self._threads)

        def make() -> Array:
            copies = empty((many, whole_lines(size, self.kind.itemsize)), self.kind)[:, :size]
            for copy in copies:
                in_parts(partial(move.calls, weight, copy), size)
            return copies

        found: Array = kept.of((self.keeps, weight.strides, many), make)
        return found

    def _written_down(self, given: Sequence[Array], more: int) -> Short | None:
        """The work written down, if it may be, on arrays of these shapes and strides, and so many that come besides."""
        if not self.short:
            return None
        key = self._threads, len(given[WEIGHT]) if self.comes else 1, more
        if key not in self.shorts:
            try:
                known_by = self.known_by and repr((self.known_by, key))
                self.shorts[key] = filed.kept(known_by, lambda: self._short(given, *key))
            except MemoryError:  # of addresses for what stands in
                self.shorts[key] = None
        return self.shorts[key]

    @property
    def _threads(self) -> int:
        return 1 if self.alone else thread_count()

    @cached_property
    def alone(self) -> bool:
        """Whether the work is so little that one thread does it, however many there are."""
        if not isinstance(self.program, Program):
            return False
        numbers = self.way.asked.bytes // self.way.asked.itemsize
        return not worth_sharing(max(self.program.work, numbers) * self.pieces // MORE)

    def _short(self, like: Sequence[Array], threads: int, _copies: int, more: int) -> Short | None:
        """The whole of the work written down for so many threads and arrays that come, if kernels do all of it."""
        if CHECKED or (self.pieces > 1 and self.adder is None) or any(step < 0 for one in like for step in one.strides):
            return None
        if isinstance(self.program, Schedule):  # copies too are shared only by those that have scratch
            threads = self.program.sharing(threads)
        given = [stand_in(array.shape, array.strides, array.dtype) for array in like]
        others = [np.empty(1, self.kind) for _ in range(more)]
        scheduled = self.program.rooms(threads) if isinstance(self.program, Schedule) else ()
        sizes = [*self._rooms(threads), *(whole_lines(size, self.kind.itemsize) for size in scheduled)]
        ends = [*accumulate(sizes, initial=0)]
        room, size = stand_in((ends[-1] + 1,), (self.kind.itemsize,), self.kind), ends[-1]
        tests = [] if self.supposes is None else test(given[self.supposes], room[size:])
        if self.supposes is not None and not tests:
            return None
        rooms = [room[begin:end] for begin, end in pairwise(ends)]
        marks, each = None, None
        if isinstance(self.program, Program):
            stages = [*self._in_turn(given, rooms, others, threads), []]
        else:
            fills, (own,), (result,), _ = self._laid_out(given, rooms[: len(self.copies)], others, threads)
            scratch = rooms[len(self.copies) :]
            arrays = *own[:3], *scratch, *own[3:]
            stages = [in_stage(fills[0], threads), *self.program.calls(arrays, threads)]
            stages += [*self._emptied(rooms, result, given[self.produced], threads), []]
            marks = slice(*ends[-3:-1]) if self.program.marks else None
            each = self.program.own_of(scratch[0])
        stages[-1 if self.supposes == self.produced else 0] += [tests]
        return Short.of(stages, [*given, room, *others], size if tests else None, threads, marks, each)

    @cached_property
    def kind(self) -> np.dtype[Any]:
        """Of the numbers in buffers."""
        dtype = self.way.asked.dtype
        return np.dtype("float32" if dtype in HALVED else dtype)

    @cached_property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """Which of the arrays have a buffer, and how many numbers it holds."""
        return tuple((number, buffer.size) for number, buffer in enumerate(self.way.buffers) if buffer is not None)


def _finite(weight: Array, kept: Kept | None) -> bool:
    """Whether all of a weight is, which may be known."""
    return all_finite(weight) if kept is None else bool(kept.of("finite", lambda: all_finite(weight)))


Steps = tuple[bool, bool, bool]
"""Whether a result is to be finished by a bias, the positive part, a mask."""


def prepared(
    problem: Problem,
    strides: tuple[Strides, ...],
    finite: bool,
    in_line: bool,
    others: tuple[int, ...] = (0, 0, 0),
    steps: Steps | None = None,
    whole: bool = False,
) -> Prepared:
    """The best way to run a problem on arrays of these strides, made ready; is the result `in_line` with the cache?

    It takes the `steps` that finish the result, if it can. Of a problem of pairs the result is bfloat16. Where the
    numbers of a pair are not neighbours in an operand, `others` says how far apart they are, the strides are in numbers
    too, and the pairs are put together in a copy. A sum that is to stay `whole` is in no pieces and no schedule.
    """
    produces, produced = problem.produces, ROLES.index(problem.produces)
    copied = frozenset(role for role, other in zip(ROLES, others, strict=True) if other)
    best = best_way(problem, strides, finite, copied)
    supposed = None if best.supposes is None else ROLES.index(best.supposes)
    if not whole and (scheduled := _scheduled(best, strides, finite, others, supposed)):
        return scheduled
    count = 1 if whole else pieces(best)
    examples = _examples(best) // count
    copied |= frozenset({produces} if count > 1 else ())
    if examples < problem.batch:
        some = replace(problem, batch=examples)
        best = way(some, best.vector, strides, best.exact, filling(some) if best.parts > 1 else 1, copied, *best.how)
    rounds, part = problem.dtype == PAIRS, best.asked
    if rounds and any(cut.adds for cut in best.cuts()):  # nothing is rounded before it is whole
        parts = best.problem.batch // part.batch
        best = way(part, best.vector, strides, best.exact, parts, copied | {produces}, *best.how)
    best = replace(best, pieces=count)
    if best.buffers[produced] is not None:
        in_line = produced == WEIGHT  # of all else a copy is read again soon
    stored = BFLOAT16 if rounds and best.buffers[produced] is None else ""
    finish = None if steps is None else finishing(best, strides[produced], *steps)
    tables = [one for cut in best.cuts() for one in tiled(cut, problem.dtype, in_line, stored, finish)]
    fills, drains = moves(best, strides, produced, others)
    return Prepared(
        best,
        produced,
        supposed,
        examples,
        count,
        # Every part of a weight's gradient reads all examples.
        Program(tables, max(part.flops, best.felt), 1 if problem.produces is Role.WEIGHT else SLICES),
        tuple(ROLES.index(role) for role in arrays(problem, best.vector)),
        fills,
        drains,
        problem.batch <= FEW_TURNS * examples * count and may_be_short(problem, strides),
        finish is not None,
        _adder(best, count, strides[produced]) if count > 1 else None,
    )


def _scheduled(
    best: Way, strides: tuple[Strides, ...], finite: bool, others: tuple[int, ...], supposed: int | None
) -> Prepared | None:
    """What goes in stages all the way, made ready, if that is better."""
    problem, produced = best.asked, ROLES.index(best.asked.produces)
    if found := bands(best, strides):
        plain = replace(best, buffers=(None, None, None))
        program, short = found.schedule(strides), may_be_short(problem, strides)
        return Prepared(plain, produced, supposed, problem.batch, 1, program, (0, 1, 2), (), (), short)
    if finite and (in_blocks := of_pairs(best, strides)):  # zeros that fill up blocks meet what may be infinite
        program = in_blocks.schedule(list(zip(strides, others, strict=True)), None)
        drains, short = moves(in_blocks.whole, strides, produced)[1], may_be_short(problem, strides)
        return Prepared(in_blocks.whole, produced, produced, problem.batch, 1, program, (0, 1, 2), (), drains, short)
    in_chunks = chunks(best)
    return None if in_chunks is None else _in_chunks(in_chunks, strides, produced, others)


def _adder(best: Way, pieces: int, strides: Strides) -> Program | None:
    """What adds up the results of pieces where they belong, or where they are rounded next, if vectors can."""
    own, rounds = best.buffers[WEIGHT], best.asked.dtype == PAIRS
    if own is None or own.panel or own.gap or not (rounds or strides[own.order[-1]] == 1):
        return None
    kind = np.dtype("float32" if rounds else best.asked.dtype)
    result = own.layout if rounds else Layout(strides)
    return adding(own, pieces, whole_lines(own.size, kind.itemsize), result, kind)


def _in_chunks(found: Chunks, strides: tuple[Strides, ...], produced: int, others: tuple[int, ...]) -> Prepared:
    """A gradient in chunks made ready: what is rounded, or lies otherwise, is summed in a buffer first."""
    best = found.bands.whole
    problem, plain = best.asked, (False,) * best.asked.geometry.rank
    rounds = frozenset({problem.produces} if problem.dtype == PAIRS else ())
    own = way(problem, best.vector, strides, plain, 1, rounds)
    own = replace(own, buffers=(None, None, own.buffers[WEIGHT]))
    program = found.schedule((*strides[:2], own.layouts[WEIGHT].steps), others)
    drains, short = moves(own, strides, produced)[1], may_be_short(problem, strides)
    return Prepared(own, produced, None, problem.batch, 1, program, (0, 1, 2), (), drains, short)


def scratch(best: Way, strides: tuple[Strides, ...]) -> int:
    """The bytes of all copies and of sums of their own, or of those that threads have at a time."""
    problem, weight = best.asked, best.buffers[WEIGHT]
    if found := bands(best, strides):
        return found.schedule(strides).scratch * problem.itemsize
    if in_blocks := of_pairs(best, strides):
        return in_blocks.whole.copied + in_blocks.scratch * problem.itemsize
    if in_chunks := chunks(best):
        own = 0 if weight is None else weight.size
        return (own + in_chunks.schedule(strides).scratch) * problem.itemsize + in_chunks.told
    more = 0 if weight is None else (best.near_copies(thread_count()) - 1) * weight.size * problem.itemsize
    count = pieces(best)
    sums = 0 if count == 1 else count + (problem.dtype == PAIRS)
    return best.copied + more + sums * problem.bytes_of(Role.WEIGHT)


def finishing(best: Way, strides: Strides, bias: bool, positive: bool, where: bool) -> Finish | None:
    """How a program finishes the result while it is in registers; None if it cannot.

    It can where vectors run over channels of a result that it writes where it belongs, each number once.
    """
    problem = best.asked
    channels = {Role.HIDDEN: "hidden", Role.VISIBLE: "visible"}.get(problem.produces)
    apart = pitch(problem.shape(problem.produces), strides, 1)
    elsewhere = best.buffers[ROLES.index(problem.produces)] is not None or best.parts > 1
    if elsewhere or best.vector not in (channels, "channel") or not apart or problem.dtype == PAIRS:
        return None
    # Positions that are one long vector with their channels would each need the bias from its beginning.
    most = problem.shape(problem.produces)[1]
    beyond = bias and any(loop.vector and loop.count > most for cut in best.cuts() for loop in cut.results)
    return None if beyond or any(cut.adds for cut in best.cuts()) else Finish(apart * bias, positive, where)


MORE = 8
"""How much more work than any other is worth a second thread that one thread would run by one call."""

WRITTEN = 1 << 24
"""Bytes of an array at most where the work is written down: larger ones take so long that nobody sees it."""


def may_be_short(problem: Problem, strides: tuple[Strides, ...]) -> bool:
    """Whether arrays are not large, and kernels do all that there is to do."""
    lying = [zip(shape_of(problem, role), steps, strict=True) for role, steps in zip(ROLES, strides, strict=True)]
    reach = max(sum((size - 1) * abs(step) for size, step in one) for one in lying)
    return not folds(problem) and reach * problem.itemsize < WRITTEN


def moves(
    way: Way,
    strides: tuple[Strides, ...],
    produced: int,
    others: tuple[int, ...] = (0, 0, 0),
    stored: Collection[Role] = (),
) -> tuple[tuple[tuple[int, Move], ...], tuple[tuple[Move, int, int], ...]]:
    """What fills the buffers of the operands, and what empties that of the result unless it is folded.

    `others` as for `prepared`. Arrays of `stored` roles are in bfloat16.
    """
    fills: list[tuple[int, Move]] = []
    drains: list[tuple[Move, int, int]] = []
    for number, (role, buffer, steps) in enumerate(zip(ROLES, way.buffers, strides, strict=True)):
        shape = way.asked.shape(role)
        axes = (None, None, *way.asked.geometry.axes) if role is Role.VISIBLE else (None,) * len(shape)
        if buffer is not None and number != produced:
            how = Stored(GATHERED, "", others[number]) if others[number] else Stored(BFLOAT16 * (role in stored))
            fills.append((number, buffer.fill(shape, steps, axes, way.asked.dtype, how)))
        elif buffer is not None and not folds(way.asked):
            rounded = BFLOAT16 if way.asked.dtype == PAIRS else EXACT * (role in stored)
            drains += buffer.drain(shape, steps, way.asked.dtype, Stored("", rounded))
    return tuple(fills), tuple(drains)


def _examples(best: Way) -> int:
    """How many examples to take at a time: all, or half of them or fewer where operands and result have copies both
    that are more than the second-level cache holds, or than a call should take."""
    problem = best.asked
    both = best.vector == "position" or best.parts > 1
    both = both and sum(buffer is not None for buffer in best.buffers) > 1
    little = best.copied <= min(problem.extra, cache_bytes()[1])
    if not both or little or problem.produces is Role.WEIGHT:
        return problem.batch
    return next((problem.batch // n for n in range(2, problem.batch + 1) if problem.batch % n == 0), problem.batch)


FEW_TURNS = 4
"""So many turns of examples are soon written down."""


def aligned(array: Array) -> Array:
    """The array, or a copy where its numbers do not lie on multiples of their size."""
    if array.flags.aligned and (
        array.dtype.alignment == array.itemsize or not any(step % array.itemsize for step in array.strides)
    ):
        return array
    return array.copy()


def in_order(array: Array, order: tuple[int, ...]) -> Array:
    """A copy with the axes in this order in memory."""
    buffer, dtype = Buffer(array.shape, (0,) * array.ndim, order), array.dtype
    steps = tuple(step // array.itemsize for step in array.strides)
    move, flat = buffer.fill(array.shape, steps, (None,) * array.ndim, dtype.name), empty((buffer.size,), dtype)
    in_parts(partial(move.calls, array, flat), buffer.size)
    return flat.reshape([array.shape[axis] for axis in order]).transpose(np.argsort(order))


def apart(array: Array, axis: int | None) -> Array:
    """Such an array, or a copy where it repeats one number along an axis: pairs are of two, wherever they are."""
    return array if axis is None or array.strides[axis] else array.copy()


@lru_cache(maxsize=KEPT_STRIDES)
def paired(strides: Strides, axis: int | None, size: int, place: int = 0) -> Paired:
    """How an array of pairs along an axis lies, its numbers of so many bytes, so many bytes behind where a pair can."""
    if axis is None:
        return tuple(step // size for step in strides), 0
    others = [place, *strides[:axis], *strides[axis + 1 :]]
    other = strides[axis] // size
    doubled = [2 * step if number == axis else step for number, step in enumerate(strides)]
    if other == 1 and not any(step % (2 * size) for step in others):
        return tuple(step // (2 * size) for step in doubled), 0
    return tuple(step // size for step in doubled), other
