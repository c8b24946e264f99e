"""A kernel's gradient in chunks: some positions, of which both operands are copied into the second-level cache.

There they lie channels by channels, as tiles read them: panel by panel, each with all positions. The operands are read
in order, which memory likes, where tiles would read a few channels of every position, again and again. Of few channels
that lie well, a chunk that stays in the first-level cache is read in place. Threads share blocks of the gradient's
channels, and pieces of the sum, which have results of their own that are added at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, product
from math import prod

import numpy as np

from ..channels import Channels
from ..coefficients import coefficients, moving
from ..form import Problem, Role
from ..memory import CLASH, LINE
from .adding import adding
from .bands import COPIED, Bands
from .compile import Call
from .copy import Move, Stored
from .index import divisors
from .layout import Buffer, Layout
from .loops import Lying, nests
from .program import Program, Tiled, Within, contractions
from .rows import WORD
from .schedule import THREADS, Arrays, Schedule, Stage
from .scratch import whole_lines
from .target import cache_bytes, target
from .ways import KEPT, MANY_PIECES, ROLES, Strides, Way, way
from .words import BYTES, GATHERED, PAIRS

VECTORS = 2
"""Of a panel of vectors, as tiles have them."""

LONG = 1024
"""Terms of a sum that are worth a result of one's own."""

SHORT, SHORTEST, MOST = 48, 24, 1024
"""Positions of a chunk, of those with the same kernel, that are too few to make up for adding their sums to what is
there, or too few in any case; and beyond which sums of sums are more exact."""

RETURNED, NEARBY = 0.5, 0.15
"""How much of a copied number's time one of the gradient takes, to which a chunk adds; or one that is read in place."""

IN_PLACE = 0.1
"""And how much one takes that is read in place, as it was asked for."""

WORTH = 2.5
"""Multiplications of vectors for each number that is copied, or added to, which make up for that."""

FAR = 2.5
"""How much longer a number takes that is copied ahead, away from the cache and back."""

ASKED = 0.5
"""How much of that time is left of a number that was asked for while others were multiplied."""

SHARED = 8
"""Units that make for an even share of any thread."""

WORDS = 13
"""Of a call, at most."""

MANY_CHUNKS = 2048
"""Each has tables of copies of its own."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """Blocks of channels of a kernel's gradient, each the sum over chunks: some examples, and parts of an axis."""

    bands: Bands
    """The chunks of one block."""
    blocks: tuple[int, int]
    """How many there are along the visible and the hidden channels."""
    ahead: bool
    """Whether all chunks are copied once, before any is multiplied, and not again for each block that they are of."""
    pieces: int
    asks: bool
    """Whether what the next chunk is copied from comes while one is multiplied."""

    @property
    def units(self) -> int:
        """What threads share."""
        return prod(self.blocks) * self.pieces

    @property
    def size(self) -> int:
        """The numbers of a piece's result, if it has one of its own."""
        return whole_lines(self._own.size, self._asked.itemsize) if self.pieces > 1 else 0

    @property
    def told(self) -> int:
        """The bytes of the words of calls, as they are written down."""
        copies = 0 if self.ahead or self.in_place else 2
        return WORD * WORDS * prod(self.blocks) * self.bands.units * (1 + copies)

    @property
    def described(self) -> str:
        """The blocks, the pieces and the chunks, in words."""
        rows, columns = self.blocks
        hidden = self.bands.way.asked
        positions = hidden.batch * prod(hidden.geometry.hidden)
        text = f"{rows} × {columns} blocks of channels" + (f" in {self.pieces} pieces" if self.pieces > 1 else "")
        copied = "in place" if self.in_place else "which are copied"
        return f"{text}, summed over {self.bands.units} chunks of {positions} positions, {copied}"

    @property
    def in_place(self) -> bool:
        """Whether chunks are read where they lie; those are asked for too."""
        return not self.bands.copies

    @property
    def _asked(self) -> Problem:
        return self.bands.whole.asked

    @property
    def _own(self) -> Buffer:
        """A piece's own result."""
        shape, wide = self._asked.shape(Role.WEIGHT), self._lead + self._wide
        others = (axis for axis in self._asked.order(Role.WEIGHT) if axis != wide)
        return Buffer(shape, (0,) * len(shape), (*others, wide))

    @property
    def _wide(self) -> int:
        """The weight's axis along which vectors run, behind those of a bank."""
        return int(self.bands.whole.vector == "visible")

    @property
    def _lead(self) -> int:
        """How many of the weight's axes are those of a bank."""
        return self._asked.geometry.rank if self._asked.geometry.banked else 0

    @property
    def _each(self) -> int:
        """The numbers of a chunk's copies, those of all blocks."""
        _, hidden, end = self.bands.places
        return self.blocks[0] * hidden + self.blocks[1] * (end - hidden)

    def _copy(self, number: int, at: int, chunk: int, own: int) -> int:
        """Where the copy of a block's channels is in the scratch, of which one's own begins there."""
        _, hidden, end = self.bands.places
        if not self.ahead:
            return own + number * hidden
        begin = self.pieces * self.size + chunk * self._each
        return begin + (self.blocks[0] * hidden + at * (end - hidden) if number else at * hidden)

    def schedule(self, strides: tuple[Strides, ...], others: Strides = (0, 0, 0)) -> Schedule:
        """The chunks on arrays of these strides, in the order of ROLES; `others` as for `prepared`."""
        shared, own = self.pieces * self.size, self.bands.places[-1]
        if self.ahead:
            shared, own = shared + self.bands.units * self._each, 0
        make = partial(self._stages, strides, others)
        room = self._asked.extra // self._asked.itemsize
        return Schedule(self._asked.flops, shared, own, 0, make, self.units, room=room)

    def _stages(self, strides: tuple[Strides, ...], others: Strides) -> tuple[Stage, ...]:
        several, ahead, result = self.pieces > 1, self.ahead, Layout(strides[2])
        where = self._own.layout if several else result
        programs, behind = self._programs(where), self._behind(where)
        moves = [] if self.in_place else [self._moves(number, strides[number], others[number]) for number in (0, 1)]
        begins = [self.bands.begins(number, strides[number]) for number in (0, 1)] if self.asks else []
        columns, blocks, chunks = self.blocks[1], prod(self.blocks), self.bands.units

        def copied(given: Arrays, place: int, number: int, at: int, chunk: int) -> list[Call]:
            target = given[3][self._copy(number, at, chunk, place) :]
            return moves[number][at][chunk].calls(given[number], target, 0, 1)

        def lying(given: Arrays, number: int, chunk: int) -> Within:
            return given[number], self._asked.itemsize * begins[number][chunk]

        def copies(given: Arrays, place: int, first: int, last: int) -> list[Call]:
            every = [(number, at) for number in (0, 1) for at in range(self.blocks[number])]
            units = (divmod(unit, len(every)) for unit in range(first, last))
            return [call for chunk, n in units for call in copied(given, place, *every[n], chunk)]

        def calls(given: Arrays, place: int, first: int, last: int) -> list[Call]:
            found: list[Call] = []
            for unit in range(first, last):
                piece, block = divmod(unit, blocks)
                c = given[3][piece * self.size :] if several else given[2]
                begin, end = (chunks * n // self.pieces for n in (piece, piece + 1))
                for chunk in range(begin, end):
                    every = list(enumerate(divmod(block, columns)))
                    if moves and not ahead:
                        found += [call for number, at in every for call in copied(given, place, number, at, chunk)]
                    data = [
                        (given[3][self._copy(number, at, chunk, place) :], 0) if moves else lying(given, number, chunk)
                        for number, at in every
                    ]
                    (a, to_a), (b, to_b) = data[:: -1 if self._wide else 1]
                    following = min(chunk + 1, chunks - 1)
                    soon = [lying(given, number, following) for number in (0, 1)] if self.asks else []
                    found += programs[chunk > begin].calls([(a, b, c)], 0, 1, (to_a, to_b, behind[block]), soon)
            return found

        first = [Stage(chunks * sum(self.blocks), copies)] if ahead else []
        return *first, Stage(self.units, calls), *([self._sum(result)] if several else [])

    def _moves(self, number: int, steps: Strides, other: int) -> list[list[Move]]:
        """The copies of all chunks, by block of the channels."""
        wide = self.bands.way.asked.shape(ROLES[number])[1] * steps[1]
        first = list(self.bands.moves(number, steps, Stored(GATHERED, "", other) if other else None))
        return [first, *([one.moved(n * wide, 0) for one in first] for n in range(1, self.blocks[number]))]

    def _programs(self, result: Layout) -> tuple[Program, Program]:
        """What multiplies a chunk of the first block, and puts that into the result or adds it."""
        one, asked = self.bands.way, self.bands.way.asked
        layouts = Lying(one.layouts[0], one.layouts[1], result)
        tables = [
            table
            for nest in nests(one.problem, one.vector, layouts, one.overhang, one.exact)
            for table in contractions(replace(nest, reread=0, adds=True), asked.dtype)
        ]
        if self.asks:
            tables = _asking(tables, [prod(asked.shape(role)) for role in ROLES[:2]])
        return Program(tables, asked.flops, first=True), Program(tables, asked.flops)

    def _behind(self, result: Layout) -> list[int]:
        """How many bytes each block is behind the first in the result."""
        asked = self.bands.way.asked
        by_hidden, by_visible = result.steps[self._lead : self._lead + 2]
        along, across = asked.channels.hidden * by_hidden, asked.channels.visible * by_visible
        return [
            BYTES[asked.dtype] * (row * across + column * along) for row, column in product(*map(range, self.blocks))
        ]

    def _sum(self, result: Layout) -> Stage:
        """The sum of the pieces' results."""
        kind, units = np.dtype(_plain(self._asked).dtype), 2 * MANY_PIECES
        program, one = adding(self._own, self.pieces, self.size, result, kind), np.ones(1, kind)

        def calls(given: Arrays, _: int, first: int, last: int) -> list[Call]:
            operands = [(one, given[3], given[2])]
            return [call for unit in range(first, last) for call in program.calls(operands, unit, units)]

        return Stage(units, calls)


def _asking(tables: Sequence[Tiled], sizes: Sequence[int]) -> list[Tiled]:
    """Contractions that ask for so many numbers of arrays, each for its share, one after the other."""
    steps = [len(table.tiles) * table.contraction.depth for table in tables]
    each = [-(-size // sum(steps)) for size in sizes]
    before = accumulate(steps, initial=0)
    found = [tuple((begin * one, one) for one in each) for begin in before]
    return [
        replace(table, contraction=replace(table.contraction, soon=soon))
        for table, soon in zip(tables, found, strict=False)
    ]


def _plain(problem: Problem) -> Problem:
    """The problem on what is summed."""
    return replace(problem, dtype="float32") if problem.dtype == PAIRS else problem


@lru_cache(maxsize=KEPT)
def chunks(best: Way) -> Chunks | None:
    """The chunks to sum a gradient in, if it is."""
    found = plan(best)
    return None if found is None else found.made(best)


def plan(best: Way) -> Plan | None:
    """The plan of chunks to sum a gradient in that copy the least, if its operands do not fit in the cache; or none."""
    problem, geometry = best.asked, best.asked.geometry
    able = problem.produces is Role.WEIGHT and best.vector in ("hidden", "visible")
    able = able and problem.channels.groups == 1 and problem.channels.mask is None
    if not able or not geometry.axes or geometry.axes[0].border != "zero":
        return None
    if not _far(problem) or any(one.pairs for one in best.cuts()):
        return None
    room, lies_well = cache_bytes()[1] * 3 // 4, _lies_well(best)
    found = [one for shape in _shapes(problem) for one in _plans(best, shape, room, lies_well)]
    least = min(found, key=lambda one: one.moved, default=None)
    return least if least is not None and _pays(problem, least) else None


def seconds(best: Way) -> float:
    """What a way takes with its copies, and those that come and go where they are not near; or with its chunks'."""
    found = plan(best)
    if found is None:
        return best.seconds() + moving(best.copied)
    return best.multiplied() + 2 * best.asked.itemsize * found.moved / coefficients().copied


def described(best: Way) -> str:
    """A way in words, or its chunks."""
    found = chunks(best)
    return best.described if found is None else f"vectors over {best.vector}, {found.described}"


def _far(problem: Problem) -> bool:
    """Whether the operands do not fit in the cache."""
    return problem.bytes_of(Role.VISIBLE) + problem.bytes_of(Role.HIDDEN) > cache_bytes()[1]


def _pays(problem: Problem, plan: Plan) -> bool:
    """Whether chunks take less time than operands as they come, or copied whole."""
    return WORTH * target().lanes(problem.itemsize) * plan.moved <= problem.terms


@dataclass(frozen=True)
class Shape:
    """What a chunk is of: so many examples, one of so many parts of the first axis; and its positions, with padding."""

    examples: int
    parts: int
    visible: int
    hidden: int


@dataclass(frozen=True)
class Plan:
    """So many chunks of a shape for each of some blocks, and what they move: numbers that they copy and add to, each
    with what it takes."""

    shape: Shape
    blocks: tuple[int, int]
    ahead: bool
    asks: bool
    """There is room for what the next chunk is copied from, beside the copies."""
    in_place: bool
    count: int
    moved: float

    def _has_room(self, problem: Problem, pieces: int) -> bool:
        """Whether so many results of one's own, large ones of a bank, take no more than a call may beside copies."""
        if not problem.geometry.banked:
            return True
        visible, hidden = (many // n for many, n in zip(_channels(problem), self.blocks, strict=True))
        copies = 0 if self.in_place else self.shape.visible * visible + self.shape.hidden * hidden
        copies *= self.count * prod(self.blocks) if self.ahead else THREADS
        return (pieces * prod(problem.shape(Role.WEIGHT)) + copies) * problem.itemsize <= problem.extra

    def made(self, best: Way) -> Chunks:
        """The chunks to run instead of a way."""
        problem, shape = best.asked, self.shape
        terms = shape.hidden * self.count
        able = [
            n
            for n in range(1, MANY_PIECES + 1)
            if self.count % n == 0 and (n == 1 or (terms >= n * LONG and self._has_room(problem, n)))
        ]
        pieces = next((n for n in able if n * prod(self.blocks) >= SHARED), able[-1])
        parts = problem.geometry.axes[0].parts(shape.parts, False)
        geometry = replace(problem.geometry, axes=(parts.axis, *problem.geometry.axes[1:]))
        channels = [many // n for many, n in zip(_channels(problem), self.blocks, strict=True)]
        some = Channels(channels[0], channels[1], 1)
        inner = replace(problem, batch=shape.examples, geometry=geometry, channels=some)
        steps = tuple(range(inner.geometry.rank + 2, 0, -1))  # of any array, as all are copied or lie otherwise
        one = way(inner, best.vector, (steps,) * 3, (False,) * inner.geometry.rank, 1, COPIED)
        if self.in_place:
            one = replace(one, buffers=(None,) * 3, layouts=(*best.layouts[:2], one.layouts[2]))
            return Chunks(Bands(best, one, 0, parts), self.blocks, False, pieces, self.asks)
        own = [
            _in_panels(buffer, panel, inner.itemsize) if 0 < panel < many else buffer
            for buffer, many, panel in zip(filter(None, one.buffers[:2]), channels, _panels(best), strict=True)
        ]
        layouts = (own[0].layout, own[1].layout, one.layouts[2])
        one = replace(one, buffers=(own[0], own[1], None), layouts=layouts)
        return Chunks(Bands(best, one, 0, parts), self.blocks, self.ahead, pieces, self.asks)


def _channels(problem: Problem) -> tuple[int, int]:
    return problem.channels.visible, problem.channels.hidden


def _panels(best: Way) -> tuple[int, int]:
    """How many channels to put side by side; 0 where they do not divide so.

    A line of those that are rows, so that no part of it is read for nothing.
    """
    itemsize, channels = best.asked.itemsize, _channels(best.asked)
    line, wide = LINE // itemsize, VECTORS * target().lanes(itemsize)
    panels = (wide, line) if best.vector == "visible" else (line, wide)
    visible, hidden = (0 if many % panel else panel for many, panel in zip(channels, panels, strict=True))
    return visible, hidden


def _in_panels(buffer: Buffer, panel: int, itemsize: int) -> Buffer:
    """The buffer in panels, of which no two begin at the same place of the caches."""
    found = replace(buffer, panel=panel, gap=0)
    clash = found.layout.panel_step * itemsize % CLASH == 0
    return replace(found, gap=LINE // itemsize) if clash else found


def _shapes(problem: Problem) -> Iterator[Shape]:
    """Examples with all of their positions, or parts of one."""
    first, *others = problem.geometry.axes
    around = prod(axis.padded[1] for axis in others), prod(axis.hidden for axis in others)
    # Products with zeros that are put in could be NaN; and every part would have to begin at the same kernel of a bank.
    for parts in [1] if problem.geometry.banked else divisors(first.hidden):
        axis = first.parts(parts, False).axis
        for examples in divisors(problem.batch) if parts == 1 else (1,):
            yield Shape(examples, parts, examples * axis.visible * around[0], examples * axis.hidden * around[1])


def _plans(best: Way, shape: Shape, room: int, lies_well: bool) -> Iterator[Plan]:
    """The blocks with which a chunk of a shape fits the room, beside what it adds to; or the chunk as it lies."""
    problem, (visible, hidden) = best.asked, _channels(best.asked)
    count = problem.batch // shape.examples * shape.parts
    taps = prod(problem.shape(Role.WEIGHT)) // (visible * hidden)  # those of all kernels of a bank
    seen, made = shape.visible * visible, shape.hidden * hidden
    summed = shape.hidden // prod(problem.geometry.bank)
    if not SHORTEST <= summed <= MOST:
        return
    near = (seen + made) * problem.itemsize <= cache_bytes()[0]
    if lies_well and near and 1 < count <= MANY_CHUNKS:
        moved = count * (IN_PLACE * (seen + made) + NEARBY * taps * visible * hidden)
        yield Plan(shape, (1, 1), False, True, True, count, moved)
    blocks = (
        divisors(many // panel) if panel else [1] for many, panel in zip((visible, hidden), _panels(best), strict=True)
    )
    for rows, columns in product(*blocks):
        across, along = visible // rows, hidden // columns
        copies, sums = shape.visible * across + shape.hidden * along, taps * across * along
        if summed < SHORT or (copies + sums) * problem.itemsize > room or count * (rows + columns) > MANY_CHUNKS:
            continue
        asks = rows * columns == 1 < count and _in_one_run(problem) and (2 * copies + sums) * problem.itemsize <= room
        for ahead in (False, True)[: 1 + (rows * columns > 1)]:
            copied = FAR * (seen + made) if ahead else columns * seen + rows * made
            moved = count * (copied * (ASKED if asks else 1) + RETURNED * taps * visible * hidden)
            yield Plan(shape, (rows, columns), ahead, asks, False, count, moved)


def _lies_well(best: Way) -> bool:
    """Whether several tiles may read the operands as they lie, one position right behind the other."""
    problem, axes = best.asked, len(best.asked.geometry.axes)
    if best.buffers[:2] != (None, None) or not _in_one_run(problem):
        return False
    for role, layout in zip(ROLES[:2], best.layouts, strict=False):
        shape = problem.shape(role)
        if layout != Buffer(shape, (0,) * len(shape), (0, *range(2, 2 + axes), 1)).layout:
            return False
    return any(prod(loop.count for loop in cut.results) > prod(cut.block.sizes) for cut in best.cuts())


def _in_one_run(problem: Problem) -> bool:
    """Whether chunks are one run each where channels lie innermost, which a single tap multiplies."""
    return problem.dtype != PAIRS and all(axis.kernel == axis.stride == 1 for axis in problem.geometry.axes)
