"""A way to run a problem made ready: its program, and the copies into and out of its buffers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..after import pitch
from ..form import Problem, Role
from ..kept import Kept
from ..memory import address, empty
from .adding import adding
from .bands import bands
from .chunks import Chunks, chunks
from .compile import Call
from .copy import ZERO, Dim, Move, Stored
from .finish import Finish
from .finite import all_finite, test
from .layout import Layout
from .loops import arrays
from .program import Program, tiled
from .scratch import Scratch, whole_lines
from .short import Short, stand_in
from .target import cache_bytes
from .team import SLICES, in_parts, parts_of, worth_sharing
from .threads import MOST, thread_count
from .ways import ROLES, Strides, Way, best_way, filling, folds, pieces, shape_of, way
from .words import BFLOAT16, CHECKED, GATHERED, PAIRS

Array = NDArray[Any]
WEIGHT = ROLES.index(Role.WEIGHT)


class Runs(Protocol):
    """What computes over each of some (A, B, C), and what C is finished with."""

    def run(self, *pieces: Sequence[Array], kept: Kept | None = None) -> bool | None:
        """Is the result finite? None if nobody looked."""


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
    program: Runs
    operands: tuple[int, ...]
    """Which of the arrays are the program's A, B and C."""
    fills: tuple[tuple[int, Move], ...]
    drains: tuple[tuple[Move, int, int], ...]
    strides: tuple[Strides, ...] = ()
    """Of the arrays, if the work may be written down where it is short."""
    finishes: bool = False
    """Whether the program finishes the result."""
    adder: Program | None = None
    """What adds up the results of pieces, if kernels do: pieces have nothing else in buffers then."""
    shorts: dict[int, Short | None] = field(default_factory=dict, repr=False)
    """The work written down, by the number of threads."""

    def tried(self, given: Sequence[Array], kept: Kept | None = None, more: Sequence[Array] = ()) -> bool:
        """Write the result over one of the arrays, if all is finite that has to be; is it?"""
        if (short := self._written_down(kept)) is not None:
            return short.run(*map(address, (*given, *more)))
        if self.supposes not in (None, self.produced) and not _finite(given[self.supposes], kept):
            return False
        self.run(given, kept, more)
        return self.supposes != self.produced or all_finite(given[self.produced])

    def run(self, given: Sequence[Array], kept: Kept | None = None, more: Sequence[Array] = ()) -> bool | None:
        """Write the result over one of the arrays, which come in the order of ROLES. Is it finite, if that is known?

        `more` are the arrays that it is finished with, if the program finishes it.
        """
        if self.supposes is None and (short := self._written_down(kept)) is not None:
            short.run(*map(address, (*given, *more)))
            return None
        visible, hidden, weight = given
        step = self.examples * self.pieces
        if step >= len(visible):
            return self._run(given, kept, more)
        for n in range(0, len(visible), step):
            some = slice(n, n + step)
            self._run((visible[some], hidden[some], weight), kept)
        return None

    def _run(self, given: Sequence[Array], kept: Kept | None, more: Sequence[Array] = ()) -> bool | None:
        known = self._weight(given[WEIGHT], kept) if kept is not None and self.keeps is not None else None
        with Scratch() as lent:
            pieces = [list(given)] if self.pieces == 1 else self._pieces(given)
            seen = [list(piece) for piece in pieces]
            # A thread that has whole pieces takes one after the other, copies and all, and each copy is near.
            threads = thread_count() if self.pieces > 1 and self.fills else MOST
            in_turn = threads <= self.pieces
            rooms = 1 << (threads - 1).bit_length() if in_turn else self.pieces
            for number, size in self.copies:
                if number == WEIGHT and known is not None:
                    for own in seen:
                        own[number] = known
                    continue
                many = self.pieces if number == self.produced else rooms
                room = lent.array(size * many, self.kind)
                for piece, own in enumerate(seen):
                    place = piece * many // self.pieces * size
                    own[number] = room[place : place + size] if many > 1 else room
            a, b, c = self.operands
            operands = [(own[a], own[b], own[c], *more) for own in seen]
            if in_turn and isinstance(self.program, Program):
                self.program.clear(operands)
                turn = partial(self._in_turn, self.program, pieces, seen)
                in_parts(turn, self.program.work * self.pieces, 1, self.pieces, threads)
                finite = None
            else:
                for number, move in self.fills:
                    if number == WEIGHT and known is not None:
                        continue
                    ends = [(piece[number], own[number]) for piece, own in zip(pieces, seen, strict=True)]
                    in_parts(partial(_filled, move, ends), ends[0][1].size * self.pieces)
                finite = self.program.run(*operands, kept=kept)
            result = seen[0][self.produced]
            if self.pieces > 1:
                with np.errstate(all="ignore"):
                    for own in seen[1:]:
                        result += own[self.produced]
            if result is not given[self.produced]:
                self._put(result, given[self.produced])
            return None if folds(self.way.asked) else finite

    def _weight(self, weight: Array, kept: Kept) -> Array:
        """The copy of a weight, made now or before."""
        size, move = dict(self.copies)[WEIGHT], dict(self.fills)[WEIGHT]

        def make() -> Array:
            copy = empty((size,), self.kind)
            in_parts(partial(move.calls, weight, copy), size)
            return copy

        found: Array = kept.of((self.keeps, weight.strides), make)
        return found

    def _pieces(self, given: Sequence[Array]) -> list[list[Array]]:
        """The arrays of each piece; the result has its own in a buffer."""
        cuts = [slice(n, n + self.examples) for n in range(0, self.pieces * self.examples, self.examples)]
        return [
            [array if number == self.produced else array[cut] for number, array in enumerate(given)] for cut in cuts
        ]

    def _in_turn(
        self, program: Program, pieces: Sequence[list[Array]], seen: Sequence[list[Array]], part: int, parts: int
    ) -> list[Call]:
        """What one part of the work calls: the copies of a piece and what multiplies them, then those of the next."""
        found: list[Call] = []
        a, b, c = self.operands
        for n in range(self.pieces * part // parts, self.pieces * (part + 1) // parts):
            for number, move in self.fills:
                found += move.calls(pieces[n][number], seen[n][number], 0, 1)
            found += program.calls([(seen[n][a], seen[n][b], seen[n][c])], 0, 1)
        return found

    def _put(self, result: Array, out: Array) -> None:
        """Write what was computed in a buffer to where it belongs."""
        for move, ends in self._ends(result, out):
            in_parts(partial(move.calls, *ends), result.size)
        buffer = self.way.buffers[self.produced]
        if buffer is not None and not self.drains:
            with np.errstate(all="ignore"):  # infinities may meet here as anywhere
                buffer.fold(result, out, (None, None, *self.way.asked.geometry.axes))

    def _ends(self, result: Array, out: Array) -> Iterator[tuple[Move, tuple[Array, Array]]]:
        """What empties the buffer of the result, from where to where."""
        for move, begin, first in self.drains:
            yield move, (result[begin:], out[..., first:]) if begin or first else (result, out)

    def _written_down(self, kept: Kept | None) -> Short | None:
        """The work written down, if it is run so: with nothing kept that would be made again."""
        if not self.strides or (kept is not None and not self.keeps is None is self.supposes):
            return None
        threads = 1 if self.alone else thread_count()
        if threads not in self.shorts:
            self.shorts[threads] = self._short(threads)
        return self.shorts[threads]

    @cached_property
    def alone(self) -> bool:
        """Whether the work is so little that one thread does it, however many there are."""
        problem = self.way.asked
        numbers = problem.bytes // problem.itemsize
        if not isinstance(self.program, Program):
            return False
        return not worth_sharing(max(self.program.work, numbers) * self.pieces // MORE)

    def _short(self, threads: int) -> Short | None:
        """The whole of the work written down for so many threads, if kernels do all of it."""
        if CHECKED or not isinstance(self.program, Program) or (self.pieces > 1 and self.adder is None):
            return None
        # Pairs are read and rounded in other steps than those of what stands in: only where they begin is the same.
        if self.way.asked.dtype == PAIRS and (self.supposes is not None or any(first for _, _, first in self.drains)):
            return None
        asked = replace(self.way.asked, batch=self.pieces * self.examples)
        lying = zip(ROLES, self.strides, strict=True)
        given = [stand_in(shape_of(asked, role), steps, self.kind) for role, steps in lying]
        more = [np.empty(1, self.kind) for _ in self.program.finish.arguments]
        each = [whole_lines(size, self.kind.itemsize) for _, size in self.copies]
        starts = list(accumulate([self.pieces * size for size in each], initial=0))
        room = stand_in((starts[-1] + 1,), (1,), self.kind)
        seen = self._pieces(given) if self.pieces > 1 else [list(given)]
        for (number, size), whole, start in zip(self.copies, each, starts, strict=False):
            for own, begin in zip(seen, range(start, start + self.pieces * whole, whole), strict=True):
                own[number] = room[begin : begin + size]
        tests = [] if self.supposes is None else test(given[self.supposes], room[-1:])
        if self.supposes is not None and not tests:
            return None
        stages = self._stages(self.program, threads, given, seen, more)
        stages[-1 if self.supposes == self.produced else 0] += [tests]
        return Short.of(stages, [*given, room, *more], starts[-1] if tests else None, threads)

    def _stages(
        self, program: Program, threads: int, given: Sequence[Array], seen: Sequence[list[Array]], more: Sequence[Array]
    ) -> list[list[list[Call]]]:
        """What fills, multiplies and empties, each in parts for so many threads; and what is done at the end."""

        parts = partial(parts_of, threads=threads)

        def moved(moves: Sequence[tuple[Move, Array, Array]]) -> list[list[Call]]:
            each = [(move, a, b, parts(b.size)) for move, a, b in moves]
            return [move.calls(a, b, part, many) for move, a, b, many in each for part in range(many)]

        first, (a, b, c), result = seen[0], self.operands, given[self.produced]
        fills = [(move, given[number], first[number]) for number, move in self.fills]
        zeros = [(_zeros(own[c]), own[c], own[c]) for own in seen if program.adds]
        many = parts(program.work * len(seen), program.slices, len(seen))
        operands = [(own[a], own[b], own[c], *more) for own in seen]
        multiplied = [program.calls(operands, part, many) for part in range(many)]
        if len(zeros) % many == 0:  # who adds up whole pieces puts zeros there
            each = len(zeros) // many
            for part, calls in enumerate(multiplied):
                calls[:0] = [call for move, at, _ in zeros[part * each :][:each] for call in move.calls(at, at, 0, 1)]
            zeros = []
        stages = [moved([*fills, *zeros]), multiplied]
        if self.adder is not None:
            return [*stages, [self.adder.calls([(np.ones(1, self.kind), first[c], result)], 0, 1)], []]
        return [*stages, moved([(move, *ends) for move, ends in self._ends(first[self.produced], result)]), []]

    @cached_property
    def keeps(self) -> Hashable:
        """What the copy of a weight is known by; None if there is none, or the weight is the result."""
        buffer = self.way.buffers[WEIGHT]
        return None if self.produced == WEIGHT or buffer is None else (buffer, self.way.asked.dtype)

    @cached_property
    def kind(self) -> np.dtype[Any]:
        """Of the numbers in buffers."""
        dtype = self.way.asked.dtype
        return np.dtype("float32" if dtype == PAIRS else dtype)

    @cached_property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """Which of the arrays have a buffer, and how many numbers it holds."""
        return tuple((number, buffer.size) for number, buffer in enumerate(self.way.buffers) if buffer is not None)


def _zeros(array: Array) -> Move:
    """What puts zeros into an array that lies so."""
    steps = [step // array.itemsize for step in array.strides]
    dims = [Dim(((ZERO, 0, size),), 0, step) for size, step in zip(array.shape, steps, strict=True) if size > 1]
    return Move.of(dims or [Dim(((ZERO, 0, 1),), 0, 1)], array.dtype.name)


def _finite(weight: Array, kept: Kept | None) -> bool:
    """Whether all of a weight is, which may be known."""
    return all_finite(weight) if kept is None else bool(kept.of("finite", lambda: all_finite(weight)))


def _filled(move: Move, ends: Sequence[tuple[Array, Array]], part: int, parts: int) -> list[Call]:
    """What fills one part of every piece's buffer."""
    return [call for source, target in ends for call in move.calls(source, target, part, parts)]


Steps = tuple[bool, bool, bool]
"""Whether a result is to be finished by a bias, the positive part, a mask."""


def prepared(
    problem: Problem,
    strides: tuple[Strides, ...],
    finite: bool,
    in_line: bool,
    others: tuple[int, ...] = (0, 0, 0),
    steps: Steps | None = None,
) -> Prepared:
    """The best way to run a problem on arrays of these strides, made ready; is the result `in_line` with the cache?

    It takes the `steps` that finish the result, if it can. Of a problem of pairs the result is bfloat16. Where the
    numbers of a pair are not neighbours in an operand, `others` says how far apart they are, the strides are in numbers
    too, and the pairs are put together in a copy.
    """
    produces, produced = problem.produces, ROLES.index(problem.produces)
    copied = frozenset(role for role, other in zip(ROLES, others, strict=True) if other)
    best = best_way(problem, strides, finite, copied)
    supposed = None if best.supposes is None else ROLES.index(best.supposes)
    if found := bands(best, strides):
        plain = replace(best, buffers=(None, None, None))
        program = found.schedule(strides)
        return Prepared(plain, produced, supposed, problem.batch, 1, program, (0, 1, 2), (), ())
    if in_chunks := chunks(best):
        return _in_chunks(in_chunks, strides, produced, others)
    count = pieces(best)
    examples = _examples(best) // count
    copied |= frozenset({produces} if count > 1 else ())
    if examples < problem.batch:
        some = replace(problem, batch=examples)
        best = way(some, best.vector, strides, best.exact, filling(some) if best.parts > 1 else 1, copied, *best.how)
    rounds, part = problem.dtype == PAIRS, best.asked
    if rounds and any(cut.adds for cut in best.cuts()):  # nothing is rounded before it is whole
        parts = best.problem.batch // part.batch
        best = way(part, best.vector, strides, best.exact, parts, copied | {produces}, *best.how)
    in_line |= best.buffers[produced] is not None
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
        Program(tables, part.flops, 1 if problem.produces is Role.WEIGHT else SLICES),
        tuple(ROLES.index(role) for role in arrays(problem, best.vector)),
        fills,
        drains,
        strides if examples * count == problem.batch and _may_be_short(problem, strides) else (),
        finish is not None,
        _adder(best, count, strides[produced]) if count > 1 else None,
    )


def _adder(best: Way, pieces: int, strides: Strides) -> Program | None:
    """What adds up the results of pieces where they belong, if vectors can, and nothing else is in a buffer."""
    *others, own = best.buffers
    if own is None or any(others) or own.panel or own.gap or strides[own.order[-1]] != 1 or best.asked.dtype == PAIRS:
        return None
    kind = np.dtype(best.asked.dtype)
    return adding(own, pieces, whole_lines(own.size, kind.itemsize), Layout(strides), kind)


def _in_chunks(found: Chunks, strides: tuple[Strides, ...], produced: int, others: tuple[int, ...]) -> Prepared:
    """A gradient in chunks made ready: what is rounded, or lies otherwise, is summed in a buffer first."""
    best = found.bands.whole
    problem, plain = best.asked, (False,) * best.asked.geometry.rank
    rounds = frozenset({problem.produces} if problem.dtype == PAIRS else ())
    own = way(problem, best.vector, strides, plain, 1, rounds)
    own = replace(own, buffers=(None, None, own.buffers[WEIGHT]))
    program = found.schedule((*strides[:2], own.layouts[WEIGHT].steps), others)
    return Prepared(own, produced, None, problem.batch, 1, program, (0, 1, 2), (), moves(own, strides, produced)[1])


def scratch(best: Way, strides: tuple[Strides, ...]) -> int:
    """The bytes of all copies and of sums of their own, or of those that threads have at a time."""
    problem, result = best.asked, best.buffers[WEIGHT]
    if found := bands(best, strides):
        return found.schedule(strides).scratch * problem.itemsize
    if in_chunks := chunks(best):
        own = 0 if result is None else result.size
        return (own + in_chunks.schedule(strides).scratch) * problem.itemsize
    count = pieces(best)
    return best.copied + (count > 1) * count * problem.bytes_of(Role.WEIGHT)


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


def _may_be_short(problem: Problem, strides: tuple[Strides, ...]) -> bool:
    """Whether arrays are not large and lie as the problem says, and kernels do all that there is to do."""
    if folds(problem):
        return False
    lying = [zip(shape_of(problem, role), steps, strict=True) for role, steps in zip(ROLES, strides, strict=True)]
    small = all(sum((size - 1) * step for size, step in one) * problem.itemsize < WRITTEN for one in lying)
    return small and min(map(min, strides)) >= 0


def moves(
    way: Way, strides: tuple[Strides, ...], produced: int, others: tuple[int, ...] = (0, 0, 0)
) -> tuple[tuple[tuple[int, Move], ...], tuple[tuple[Move, int, int], ...]]:
    """What fills the buffers of the operands, and what empties that of the result unless it is folded.

    `others` as for `prepared`.
    """
    rounded = Stored("", BFLOAT16) if way.asked.dtype == PAIRS else None
    fills: list[tuple[int, Move]] = []
    drains: list[tuple[Move, int, int]] = []
    for number, (role, buffer, steps) in enumerate(zip(ROLES, way.buffers, strides, strict=True)):
        shape = way.asked.shape(role)
        axes = (None, None, *way.asked.geometry.axes) if role is Role.VISIBLE else (None,) * len(shape)
        if buffer is not None and number != produced:
            how = Stored(GATHERED, "", others[number]) if others[number] else None
            fills.append((number, buffer.fill(shape, steps, axes, way.asked.dtype, how)))
        elif buffer is not None and not folds(way.asked):
            drains += buffer.drain(shape, steps, way.asked.dtype, rounded)
    return tuple(fills), tuple(drains)


def _examples(best: Way) -> int:
    """How many examples to take at a time: half of them, or fewer, where operands and result have copies both."""
    problem = best.asked
    both = best.vector == "position" or (best.parts > 1 and best.copied > cache_bytes()[1])
    both = both and sum(buffer is not None for buffer in best.buffers) > 1
    if not both or problem.produces is Role.WEIGHT:
        return problem.batch
    return next((problem.batch // n for n in range(2, problem.batch + 1) if problem.batch % n == 0), problem.batch)


def aligned(array: Array) -> Array:
    """The array, or a copy where its numbers do not lie on multiples of their size."""
    if array.flags.aligned and (
        array.dtype.alignment == array.itemsize or not any(step % array.itemsize for step in array.strides)
    ):
        return array
    return array.copy()
