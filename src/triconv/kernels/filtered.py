"""Winograd's transforms of a correlation as scratch: how it lies, the jobs that fill it, and the contractions in it.

    S[p, tile, input] · K[chunk, p, input, output] = M[p, tile, output]        for every product p of the filtering

A chunk of kernels is of one panel of outputs and some inputs. Rows of S and M hold the channels of all groups.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..filtering import Matrix, filtering
from ..form import Problem, Role
from ..memory import LINE, address
from .compile import Call, Compiled, function
from .copy import Dim, Move, Stored
from .correlation import Correlation, Table
from .finish import AS_IT_IS, Finish
from .index import Index
from .nest import Nest
from .program import Program, contractions
from .shares import Share, in_shares
from .target import target
from .transform import JOB, Transform
from .words import BFLOAT16, EXACT

Array = NDArray[Any]

PANEL = 4
"""Vectors of outputs that are side by side, at most."""

DEPTH = 64
"""Inputs that are summed at once, and tiles of a weight's gradient: the transforms of such a chunk of a panel's kernels
fit the second-level cache, and sums of sums gather less error than one long sum."""


WORTH = 28
"""Tiles of which shares of products are worth loops of their own: two blocks of as many as registers hold rows of."""

SAVED = 0.155
"""The part of all products that shares must save, as they do of 7 or 14 positions and 3 taps: most take kernels of
their own, and each of these 10 ms to be compiled."""

LEFT_OVER = 1.1
"""How many times as long tiles are taken to take that leave a few over: these run in a kernel of their own too."""

BESIDES = 64
"""Of what a call may take, one part is for what is not scratch: the words of its calls, and marks."""

UNCHANGED: Matrix = ((1.0,),)

Corner = tuple[int, int, int]
"""Of A, B and C, in numbers."""

ORIGIN: Sequence[Corner] = ((0, 0, 0),)


@dataclass(frozen=True, eq=False)
class Step:
    """A transform, with jobs by unit of work, and the steps of its axes."""

    kernel: Transform
    jobs: Table
    steps: Table

    def call(self, source: Array, target: Array, first: int, last: int, *wrong: Array) -> Call:
        """Transform the jobs of some units; on the way back, `wrong` tells what is not finite, and finishes follow."""
        compiled, begin, size, each, steps = self._known
        values = address(source), address(target), begin + first * size, (last - first) * each, steps
        arrays = source, target, self.jobs, self.steps, *wrong
        return Call(compiled, (*values, *map(address, wrong)), arrays)

    @cached_property
    def _known(self) -> tuple[Compiled, int, int, int, int]:
        """The kernel, where the jobs begin, the bytes of a unit's and how many these are, and where the steps begin."""
        size = self.jobs.strides[0]
        return function(self.kernel), address(self.jobs), size, prod(self.jobs.shape[1:-1]), address(self.steps)


@dataclass(frozen=True, eq=False)
class Turning:
    """Copies of chunks of kernels whose outputs are not side by side, and the transform of such a copy."""

    moves: Sequence[Move]
    transform: Step
    """Of such a copy; its units are as many as moves: chunks of as many outputs are alike."""
    chunks: Sequence[tuple[int, int]]
    """Where each begins, and which of these it is like."""

    def copy(self, kernel: Array, copy: Array, chunk: int) -> list[Call]:
        """Copy one chunk."""
        begin, like = self.chunks[chunk]
        return self.moves[like].moved(begin, 0).calls(kernel, copy, 0, 1)

    def transformed(self, copy: Array, target: Array, chunk: int) -> Call:
        """Transform the copy of one chunk."""
        _, like = self.chunks[chunk]
        return self.transform.call(copy, target, like, like + 1)

    def calls(self, kernel: Array, copy: Array, target: Array, chunk: int) -> list[Call]:
        """Copy one chunk, and transform the copy."""
        return [*self.copy(kernel, copy, chunk), self.transformed(copy, target, chunk)]


class Sizes:
    """How scratch lies for a correlation, by filterings of certain sizes; its result may be added to what is there."""

    def __init__(
        self,
        problem: Problem,
        correlation: Correlation,
        sizes: Sequence[int],
        room: int,
        adds: bool = False,
        finish: Finish | None = None,
        stored: Collection[Role] = (),
        panel: int = PANEL,
        even_rounds: int = 0,
    ) -> None:
        """`room` is how many bytes scratch should take at most; what has one of the `stored` roles is in bfloat16.

        Tiles are even if they come in `even_rounds` of as many examples: of each those with the same products are
        neighbours.
        """
        self._given, self.panel, self.stored = (problem, correlation, sizes, room, adds, finish, stored), panel, stored
        self.even_rounds = even_rounds
        self.room = numbers_within(room, problem.itemsize)
        self.adds, self.finish = adds, finish or AS_IT_IS
        self.once = (Role.WEIGHT if problem.produces is Role.WEIGHT else Role.HIDDEN) in stored
        """Whether the result is rounded as it is written, so that nothing can be added to it."""
        self.dtype, self.itemsize, self.own, self.sizes = problem.dtype, problem.itemsize, correlation, tuple(sizes)
        self.filterings = [filtering(m, axis.kernel) for m, axis in zip(sizes, correlation.axes, strict=True)]
        self.lanes, self.line = target().lanes(problem.itemsize), LINE // problem.itemsize
        self.counts = [len(one.weight) for one in self.filterings]
        self.points = prod(self.counts)
        own, vectors = correlation, -(-correlation.outputs // self.lanes)
        self.wide = self.lanes * next(n for n in range(panel, 0, -1) if vectors % n == 0)
        self.panels = -(-own.outputs // self.wide)
        self.tiles = own.batch * prod(len(axis.tiles(m)) for axis, m in zip(own.axes, sizes, strict=True))
        self.inputs, self.outputs = own.groups * own.inputs, own.groups * own.outputs
        self.seen_row = self.whole(self.inputs)
        self.hidden_row = self.hidden_row_of(own.groups)
        self.depth = _evenly(own.inputs, DEPTH)
        self.chunks = own.inputs // self.depth
        self.kernel = self.depth * self.wide + self.line
        self.chunk = self.points * self.kernel
        self.turned = prod(axis.kernel for axis in own.axes) * self.depth * self.wide
        self.kernels = own.groups * self.panels * self.chunks * self.chunk
        rounds = max(1, even_rounds)
        shorter = own.shorter(sizes) if even_rounds else np.zeros((self.tiles, len(sizes)), bool)
        order, self.shares = in_shares(self.counts, shorter[: self.tiles // rounds])
        self.order = np.add.outer(np.arange(0, self.tiles, len(order)), order).reshape(-1)
        self.flops = 2 * rounds * sum(share.products for share in self.shares) * self.inputs * own.outputs

    def narrower(self) -> Sizes:
        """The same with panels half as wide."""
        return Sizes(*self._given, self.panel // 2, self.even_rounds)

    def evened(self, rounds: int = 1) -> Sizes:
        """The same with even tiles, if their shares are worth loops of their own."""
        if self.own.batch % rounds:
            return self
        even = Sizes(*self._given, self.panel, rounds)
        return even if worth_sharing(self.tiles, rounds, even.flops / self.flops) else self

    @property
    def known_by(self) -> Hashable:
        """All that the transforms of one array's kernels depend on."""
        return self.sizes, self.copied_by

    @property
    def copied_by(self) -> Hashable:
        """All that copies of their chunks depend on."""
        own = self.own
        taps = tuple(axis.kernel for axis in own.axes)
        lying = own.kernel, own.first_tap, own.across, own.groups, own.inputs, own.outputs
        return "copies", self.dtype, Role.WEIGHT in self.stored, taps, lying, self.wide, self.depth

    def whole(self, count: int) -> int:
        """As many numbers as whole vectors, and lines, have."""
        return whole(count, self.itemsize)

    def hidden_row_of(self, groups: int) -> int:
        """The numbers of so many groups in a row of what is made as it is seen: panels may reach beyond the last."""
        return self.whole((groups - 1) * self.own.outputs + self.panels * self.wide)

    def apart(self, tiles: int, row: int) -> int:
        """How far the tiles of a product are from those of the next; not so that they meet in few places of a cache."""
        return self.whole(tiles * row) + self.line

    def fitting(self, room: int, *rows: int) -> int:
        """How many tiles, transformed into such rows, there is room for in so many numbers."""
        return (room // self.points - len(rows) * self.line) // sum(map(self.whole, rows))

    def scratch(self, tiles: int, row: int) -> int:
        """The numbers of some tiles, transformed."""
        return self.points * self.apart(tiles, row)

    def transform(
        self,
        role: Role,
        jobs: Table,
        apart: int,
        back: bool = False,
        pieces: int = 1,
        array: Sequence[int] | None = None,
        ends: tuple[bool, bool] = (True, True),
    ) -> Step:
        """The transform of what has a role in a convolution, whose products are so far apart in scratch.

        On the way back, several pieces are added that are one behind the other. `array` says how the positions of a
        tile are apart where it is a copy of what the correlation has. `ends` are whether it is the first and the last
        of several that make one result: all others add to what is there, and the last finishes it.
        """
        (first, last), own, each = ends, self.own, [getattr(one, role.value) for one in self.filterings]
        copied = array is not None
        strides = {Role.VISIBLE: own.seen, Role.HIDDEN: own.made}.get(role)
        array = array or (own.steps(strides) if strides else own.kernel[2:])
        products = [prod(self.counts[axis + 1 :]) * apart for axis in range(len(self.counts))]
        axes, jobs = _along(each, jobs)
        matrices: list[Matrix] = [tuple(zip(*each[axis], strict=True)) if back else each[axis] for axis in axes]
        products, array = ([steps[axis] for axis in axes] for steps in (products, array))
        if pieces > 1:
            matrices, products, array = [((1.0,) * pieces,), *matrices], [self.kernels, *products], [0, *array]
            jobs = np.insert(jobs, [JOB], (0, 1), axis=-1)
        steps = [*products, *array] if back else [*array, *products]
        finish = self.finish if back and last else AS_IT_IS
        # What changes nothing is the same kernel for tiles and for kernels, which have no edges.
        edges = all(own == UNCHANGED for own in matrices) or bool((jobs[..., 2] % self.lanes | 1 - jobs[..., 3]).any())
        adds, stored = back and (self.adds or not first), EXACT if role in self.stored and not copied else ""
        assert not (adds and stored), "what is rounded to bfloat16 cannot be added to"
        kernel = Transform(self.dtype, tuple(matrices), back, adds, finish, edges, stored)
        return Step(kernel, np.ascontiguousarray(jobs), np.array(steps, np.int64))

    def tile_jobs(self, role: Role, back: bool, channels: int) -> Table:
        """The jobs of all tiles, and the rows of scratch left out."""
        strides = self.own.seen if role is Role.VISIBLE else self.own.made
        jobs: Table = self.own.jobs(strides, self.sizes, bool(self.even_rounds), channels, back)[self.order]
        return jobs

    def kernel_jobs(self, back: bool) -> Table:
        """The jobs of all kernels by chunk of a panel, each in scratch that begins with it."""
        jobs = self.own.kernel_jobs(self.wide, back)
        jobs = jobs.reshape(-1, self.depth, jobs.shape[-1])
        jobs[..., 0 if back else 1] = np.arange(self.depth) * self.wide
        return jobs

    def turning(self) -> Turning:
        """How chunks of kernels get their outputs side by side."""
        jobs, own = self.kernel_jobs(False), self.own
        taps = [axis.kernel for axis in own.axes]
        row = prod(taps) * self.wide
        steps = [prod(taps[axis + 1 :]) * self.wide for axis in range(len(taps))]

        def move(outputs: int) -> Move:
            dims = [
                Dim(((0, 0, size),), source, to) for size, source, to in zip(taps, own.kernel[2:], steps, strict=True)
            ]
            inner = Dim(((0, 0, self.depth),), own.kernel[1], row), Dim(((0, 0, outputs),), own.kernel[0], 1)
            return Move.of([*dims, *inner], self.dtype, Stored(BFLOAT16 * (Role.WEIGHT in self.stored)))

        begins, outputs = jobs[:, 0, 0].tolist(), jobs[:, 0, 2].tolist()
        kinds = sorted(set(outputs))
        local = jobs[[outputs.index(count) for count in kinds]]
        local[..., 0] = np.arange(self.depth) * row
        transform = self.transform(Role.WEIGHT, local, self.kernel, array=steps)
        chunks = [(begin, kinds.index(count)) for begin, count in zip(begins, outputs, strict=True)]
        return Turning([move(count) for count in kinds], transform, chunks)

    def beginning(self, chunk: int) -> tuple[int, int]:
        """Where the channels of a chunk of kernels begin, in a row of what is seen and of what is made."""
        panel, chunk = divmod(chunk, self.chunks)
        group, panel = divmod(panel, self.panels)
        return group * self.own.inputs + chunk * self.depth, group * self.own.outputs + panel * self.wide

    def multiplied(
        self, rows: Sequence[range], tiles: int, groups: int, panels: int, seen_row: int, terms: int
    ) -> list[tuple[Program, ...]]:
        """M = S · K for one chunk, and added to M, of so many: by share, each for some rows of so many tiles."""
        row = groups * panels * self.wide
        seen, made = self.apart(tiles, seen_row), self.apart(tiles, row)
        found = []
        for share, some in zip(self.shares, rows, strict=True):
            results = [
                *share.loops(seen, self.kernel, made),
                Index(groups, self.own.inputs, panels * self.chunks * self.chunk, panels * self.wide),
                Index(panels, 0, self.chunks * self.chunk, self.wide),
                Index(len(some), seen_row, 0, row),
                Index(self.wide, 0, 1, 1, True),
            ]
            begin = (
                share.first * seen + some.start * seen_row,
                share.first * self.kernel,
                share.first * made + some.start * row,
            )
            sums = [Index(self.depth, 1, self.wide, 0)]
            found.append(multiplying(results, sums, self.dtype, [[begin]] * min(terms, 2), LEFT_OVER))
        return list(zip(*found, strict=True))

    def summed_by_shares(self, around: int, seen_row: int, hidden_row: int) -> list[Program]:
        """Chunks of K = S · M, of each product over the tiles that have it, of so many in scratch; by DEPTH at most."""
        found = list[Program]()
        for share in self.shares:
            parts = -(-len(share.tiles) // DEPTH)
            size, longer = divmod(len(share.tiles), parts)
            lengths = [size + 1] * longer + [size] * (parts - longer)
            starts = list(zip(accumulate(lengths, initial=share.tiles.start), lengths, strict=False))
            for length in dict.fromkeys(lengths):
                corners = [(tile * seen_row, tile * hidden_row, 0) for tile, own in starts if own == length]
                if length == lengths[0]:
                    begins = [corners[:1], corners[1:]] if corners[1:] else [corners]
                    found += self.summed(share, length, around, seen_row, hidden_row, *begins)
                else:  # all of these add
                    _, adding = self.summed(share, length, around, seen_row, hidden_row, corners, corners)
                    found.append(adding)
        return found

    def summed(
        self, share: Share, tiles: int, around: int, seen_row: int, hidden_row: int, *begins: Sequence[Corner]
    ) -> list[Program]:
        """Chunks of K = S · M, and added to K, of the products of a share, summed over some tiles of so many."""
        apart = self.apart(around, seen_row), self.apart(around, hidden_row), self.kernel
        results = [
            *share.loops(*apart),
            Index(self.depth, 1, 0, self.wide),
            Index(self.wide, 0, 1, 1, True),
        ]
        sums, (a, b, c) = [Index(tiles, seen_row, hidden_row, 0)], (share.first * one for one in apart)
        placed = [[(a + x, b + y, c + z) for x, y, z in corners] for corners in begins]
        return multiplying(results, sums, self.dtype, placed)


def multiplying(
    results: Sequence[Index],
    sums: Sequence[Index],
    dtype: str,
    begins: Sequence[Sequence[Corner]],
    left_over: float = 1.0,
) -> list[Program]:
    """The contractions of every product, from each of some places on: the first of two writes, the other adds."""
    corners, taps = np.array([[0, 0, 0, 0, 1]]), np.zeros((1, 2), np.int64)
    nest = Nest((), tuple(results), tuple(sums), corners, taps, spread=len(begins) > 1, left_over=left_over)
    made = contractions(nest, dtype)
    return [Program([one.at(own) for one in made], 0, first=not number) for number, own in enumerate(begins)]


def numbers_within(room: int, itemsize: int) -> int:
    """The numbers of scratch in so many bytes, of which some are for what is not."""
    return (room - room // BESIDES) // itemsize


def whole(count: int, itemsize: int) -> int:
    """As many numbers as whole vectors, and lines, have."""
    unit = max(target().lanes(itemsize), LINE // itemsize)
    return -(-count // unit) * unit


def worth_sharing(tiles: int, rounds: int, part: float) -> bool:
    """Whether even tiles in so many rounds are, that have this part of all products."""
    return part <= 1 - SAVED and tiles >= WORTH * rounds


def even_rounds(batch: int, least: int) -> int:
    """So few rounds of as many examples, at least so many and not twice that; 0 where there are none."""
    return next((rounds for rounds in range(least, 2 * least) if batch % rounds == 0), 0)


def _along(matrices: Sequence[Matrix], jobs: Table) -> tuple[list[int], Table]:
    """The axes that a transform does something along, at least one, and its jobs without what they say of the others.

    So transforms along one of several axes are the same. A tile that is not there along an axis left out is not there.
    """
    along = [axis for axis, matrix in enumerate(matrices) if matrix != UNCHANGED] or [0]
    if len(along) == len(matrices):
        return along, jobs
    ends = jobs[..., JOB:].reshape(*jobs.shape[:-1], len(matrices), 2)
    there = np.all(ends[..., :1] < ends[..., 1:], axis=-2, keepdims=True)
    left = np.where(there, ends[..., along, :], 0).reshape(*jobs.shape[:-1], -1)
    return along, np.concatenate([jobs[..., :JOB], left], axis=-1)


def _evenly(count: int, most: int) -> int:
    """The size of equal parts, of which none is left over: at most so much, if that is not much less."""
    return next((count // n for n in range(-(-count // most), count) if count % n == 0 and n * most < 2 * count), count)
