"""Winograd's transforms along the first axis alone, of a convolution: the taps of all others are summed as they are.

    S[p, q, x, i] = Σ_j V[p, j] · visible[i, j-th position of piece q, x]
    M[p, c, o] = Σ_{q, k, i}  S[p, q, s∘c + e∘k, i] · K[p, q, k, i, o]

For few channels: what transforms take side by side are lines, all positions along the last axis with their channels,
where these alone would fill no vector; and taps of the other axes are terms of a sum that channels would leave short.
The taps along the first axis are cut into pieces of as many: of every s-th for a stride s, and of neighbours.

A unit of work is a tile along the first axis, of all positions along the others, or of a block along the last one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from ..filtering import filtering
from ..form import Problem
from ..geometry import Axis, Residue
from .compile import Call
from .copy import Dim, Move
from .filtered import ORIGIN, Step, multiplying, numbers_within, whole
from .finish import AS_IT_IS, Finish
from .index import Index, Table
from .schedule import THREADS, Arrays, Schedule, Stage
from .target import target
from .transform import JOB, Transform

BLOCK = 1 << 19
"""Bytes of a unit, between transforms."""

RUN = 512
"""Numbers that are transformed back at a time, while the next ones' places are on their way."""

Strides = tuple[int, ...]


@dataclass(frozen=True)
class OneAxis:
    """A convolution in tiles of so many results along the first axis, of pieces of so many taps; and how arrays step.

    Channels lie side by side, and positions along the last axis one behind the other, except in the weight.
    """

    problem: Problem
    size: int
    taps: int
    visible: Strides
    hidden: Strides
    weight: Strides
    room: int
    """How many bytes scratch should take at most."""
    finish: Finish = AS_IT_IS
    past: bool = False
    """Whether the result, which begins on a line of the cache, goes past the caches if its lines are whole ones."""

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        return self.problem.geometry.axes

    @cached_property
    def pieces(self) -> list[Residue]:
        return self.axes[0].pieces(self.taps)

    @property
    def points(self) -> int:
        return self.size + self.taps - 1

    @property
    def channels(self) -> tuple[int, int]:
        """Those that are seen, and those that are made."""
        return self.problem.channels.visible, self.problem.channels.hidden

    @cached_property
    def last(self) -> Axis:
        """The last axis, as a unit of work has it."""
        last = self.axes[-1]
        sizes = (-(-last.hidden // blocks) for blocks in range(1, last.hidden + 1))
        each = next((size for size in sizes if self._fits(replace(last, hidden=size))), 1)
        return replace(last, hidden=each)

    def has_room(self, positions: int) -> bool:
        """Whether there is room for units of so many positions along the last axis, if that has as many."""
        last = self.axes[-1]
        return self._unit(replace(last, hidden=min(positions, last.hidden))) <= self._most

    def _fits(self, last: Axis) -> bool:
        """Whether a unit with such a last axis has room, and stays near."""
        return self._unit(last) <= min(BLOCK // self.problem.itemsize, self._most)

    @property
    def _most(self) -> int:
        """The numbers that a unit may take."""
        return (self._within - self.kernels) // THREADS

    def _unit(self, last: Axis) -> int:
        """The numbers of a unit with such a last axis, between transforms."""
        return self.points * sum(map(self._apart, self._sizes(last)))

    def _sizes(self, last: Axis) -> tuple[int, int]:
        """The numbers of a product of what is seen, with all pieces, and of what is made, for such a last axis."""
        (seen, made), between = self.channels, self.axes[1:-1]
        lines = len(self.pieces) * prod(axis.reach for axis in between)
        return lines * last.reach * seen, prod(axis.hidden for axis in between) * last.hidden * made

    def _apart(self, numbers: int) -> int:
        """How far a product of so many numbers is from the next: whole vectors are written, wherever the last begin."""
        return self._whole(numbers + target().lanes(self.problem.itemsize))

    def _whole(self, numbers: int) -> int:
        return whole(numbers, self.problem.itemsize)

    @cached_property
    def apart(self) -> tuple[int, int]:
        """How far products are apart, of what is seen and of what is made."""
        seen, made = map(self._apart, self._sizes(self.last))
        return seen, made

    @cached_property
    def run(self) -> int:
        """The numbers of a piece's kernels for one of its taps."""
        return prod(axis.kernel for axis in self.axes[1:]) * prod(self.channels)

    @property
    def piece(self) -> int:
        """How far the kernels of a piece are from those of the next, which another thread may have written before."""
        return self._whole(self.run)

    @property
    def kernel(self) -> int:
        """How far the kernels of a product are from the next one's."""
        return self._apart(len(self.pieces) * self.piece)

    @property
    def kernels(self) -> int:
        """The numbers of all transformed kernels."""
        return self.points * self.kernel

    @property
    def known_by(self) -> Hashable:
        """All that the transforms of one array's kernels depend on."""
        kind, taps = self.problem.dtype, tuple(axis.kernel for axis in self.axes)
        pieces = tuple(piece.kernel for piece in self.pieces)  # without residues that have no positions
        return "one axis", kind, self.size, self.taps, taps, self.channels, self.weight, self.axes[0].stride, pieces

    @property
    def told(self) -> int:
        """About how many bytes the jobs of all transforms take, if a bias begins with each position."""
        first, *between, last = self.axes
        width, channels = self.last.hidden, self.channels[1]
        each = channels if channels % target().lanes(self.problem.itemsize) else RUN
        seen = 3 * len(self.pieces) * prod(axis.reach for axis in between)
        made = prod(axis.hidden for axis in between) * -(-width * channels // each)
        units = self.problem.batch * -(-first.hidden // self.size) * -(-last.hidden // width)
        return 8 * (JOB + 2) * units * (seen + made)

    def schedule(self) -> Schedule:
        """The kernels' transforms, and then all units of work."""
        seen, made = (self.points * apart for apart in self.apart)
        tiles = self.problem.batch * -(-self.axes[0].hidden // self.size)
        units = tiles * len(_begins(self.axes[-1].hidden, self.last.hidden))
        flops = 2 * units * self.points * len(self.pieces) * self.run * self._sizes(self.last)[1] // self.channels[1]
        lanes = target().lanes(self.problem.itemsize)
        own = max(seen + made, self.taps * self.run)
        return Schedule(
            flops, 0, own, units * lanes, self._stages, kernels=self.kernels, keeps=self.known_by, room=self._within
        )

    @property
    def _within(self) -> int:
        return numbers_within(self.room, self.problem.itemsize)

    def _stages(self) -> tuple[Stage, ...]:
        moves, kernels = self._copies(), self._of_kernels()
        forth, back = self._forth(), self._back()
        (program,) = multiplying(self._loops(), self._sums(), self.problem.dtype, [ORIGIN])
        made, lanes = self.points * self.apart[0], target().lanes(self.problem.itemsize)

        def before(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
            _, weight, _, room, _, transformed, *_ = arrays
            found = []
            for n in range(first, last):
                found += moves[n].calls(weight, room[place:], 0, 1)
                found.append(kernels.call(room[place:], transformed, n, n + 1))
            return found

        def calls(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
            seen, _, result, room, marks, transformed, *more = arrays
            a, c = room[place:], room[place + made :]
            found = []
            for n in range(first, last):
                found.append(forth.call(seen, a, n, n + 1))
                found += program.whole(a, transformed, c)
                found.append(back.call(c, result, n, n + 1, marks[n * lanes :], *more))
            return found

        return Stage(len(moves), before), Stage(len(forth.jobs), calls)

    def _copies(self) -> list[Move]:
        """Of each piece, its kernels with outputs side by side, then inputs, then the taps of the other axes."""
        (inputs, outputs), others = self.channels, [axis.kernel for axis in self.axes[1:]]
        sizes, first = [*others, inputs, outputs], self.weight[2]
        steps = [*self.weight[3:], self.weight[1], self.weight[0]]
        inner = [Dim(((0, 0, size),), steps[n], prod(sizes[n + 1 :])) for n, size in enumerate(sizes)]
        found = []
        for piece in self.pieces:
            along = Dim(((0, 0, self._taps_of(piece)),), first * self.axes[0].stride, self.run)
            found.append(Move.of([along, *inner], self.problem.dtype).moved(piece.kernel * first, 0))
        return found

    def _taps_of(self, piece: Residue) -> int:
        """How many of a piece's taps the kernel has."""
        return min(self.taps, -((piece.kernel - self.axes[0].kernel) // self.axes[0].stride))

    def _of_kernels(self) -> Step:
        jobs = np.zeros((len(self.pieces), JOB + 2), np.int64)
        for n, piece in enumerate(self.pieces):
            taps = self._taps_of(piece)
            # Taps that are none of the kernel are beyond the edge of the copy: zeros.
            jobs[n] = 0, n * self.piece, self.run, taps == self.taps, 0, taps
        transform = Transform(self.problem.dtype, (filtering(self.size, self.taps).weight,))
        return Step(transform, jobs, np.array([self.run, self.kernel], np.int64))

    def _forth(self) -> Step:
        """Of each unit the lines of all pieces: what is there of each, once zeros are before and behind it."""
        stride, along, channels = self.axes[0].stride, self.visible[2], self.channels[0]
        rows = [
            [(along * (piece.visible + stride * tile.visible), *tile.seen) for tile in piece.axis.tiles(self.size)]
            for piece in self.pieces
        ]
        tiles = np.array(rows).swapaxes(0, 1)[:, None, :, None]  # by tile, block, piece, line
        blocks, (lines, there) = self._blocks()[:, None, None], self._lines()
        batch, pieces, line = self.problem.batch, len(self.pieces), self.last.reach * channels
        found = np.zeros((batch, len(tiles), len(blocks), pieces, len(lines), 3, JOB + 2), np.int64)
        before, behind, inside = (found[..., kind, :] for kind in range(3))
        place = line * np.arange(pieces * len(lines)).reshape(pieces, -1)
        before[..., 1] = place
        before[..., 2] = np.where(there, blocks[..., 0], line)
        behind[..., 1] = place + np.where(there, blocks[..., :2].sum(axis=-1), 0)
        behind[..., 2] = np.where(there, line - blocks[..., :2].sum(axis=-1), 0)
        inside[..., 0] = (np.arange(batch) * self.visible[0])[:, None, None, None, None]
        inside[..., 0] += tiles[..., 0] + lines + blocks[..., 2]
        inside[..., 1] = place + blocks[..., 0]
        inside[..., 2] = np.where(there, blocks[..., 1], 0)
        inside[..., 3] = (tiles[..., 1] == 0) & (tiles[..., 2] == self.points)
        inside[..., JOB:] = tiles[..., 1:]
        kinds = found[..., 2].any(axis=(0, 1, 2, 3, 4))
        jobs = found[..., kinds, :].reshape(-1, pieces * len(lines) * int(kinds.sum()), JOB + 2)
        transform = Transform(self.problem.dtype, (filtering(self.size, self.taps).visible,))
        return Step(transform, np.ascontiguousarray(jobs), np.array([stride * along, self.apart[0]], np.int64))

    def _lines(self) -> tuple[Table, Table]:
        """Where the lines begin that a position of the first axis has, edges included, and whether they are there."""
        starts, there = np.zeros(1, np.int64), np.ones(1, bool)
        for axis, step in zip(self.axes[1:-1], self.visible[3:], strict=False):
            at = np.arange(axis.reach) - axis.before
            starts = np.add.outer(starts, step * at).reshape(-1)
            there = np.logical_and.outer(there, (at >= 0) & (at < axis.visible)).reshape(-1)
        return starts, there

    def _blocks(self) -> Table:
        """Of each block: how many numbers of a line come before those that are there; these; and where they begin."""
        axis, found = self.axes[-1], []
        for c in _begins(axis.hidden, self.last.hidden):
            first = int(axis.position(c, 0))
            end = first + self.last.reach
            begin = min(max(first, 0), end)
            found.append((begin - first, max(min(end, axis.visible) - begin, 0), begin))
        return self.channels[0] * np.array(found)

    def _back(self) -> Step:
        """Of each unit what is made, in runs."""
        (example, _, along, *steps), channels, width = self.hidden, self.channels[1], self.last.hidden
        tiles = np.array([(along * tile.hidden, *tile.made) for tile in self.pieces[0].axis.tiles(self.size)])
        between = [range(axis.hidden) for axis in self.axes[1:-1]]
        lines = np.array([sum(c * step for c, step in zip(at, steps, strict=False)) for at in product(*between)])
        # A bias begins with every position, where vectors may not go on from one to the next.
        size = channels if self.finish.pitch and channels % target().lanes(self.problem.itemsize) else RUN
        runs = np.arange(0, width * channels, size)
        blocks = np.array(_begins(self.axes[-1].hidden, width)) * channels
        found = np.zeros((self.problem.batch, len(tiles), len(blocks), len(lines), len(runs), JOB + 2), np.int64)
        found[..., 0] = np.arange(len(lines))[:, None] * (width * channels) + runs
        found[..., 1] = lines[:, None] + runs
        found[..., 1] += (np.arange(self.problem.batch) * example)[:, None, None, None, None]
        found[..., 1] += tiles[:, 0, None, None, None] + blocks[:, None, None]
        found[..., 2] = np.minimum(width * channels - runs, size)
        found[..., 4:] = tiles[:, None, None, None, 1:]
        found[..., 3] = (found[..., 4] == 0) & (found[..., 5] == self.size)
        jobs = found.reshape(-1, len(lines) * len(runs), JOB + 2)
        matrix = tuple(zip(*filtering(self.size, self.taps).hidden, strict=True))
        transform = Transform(
            self.problem.dtype, (matrix,), back=True, finish=self.finish, past=self.past and self._whole_lines
        )
        return Step(transform, jobs, np.array([self.apart[1], along], np.int64))

    @property
    def _whole_lines(self) -> bool:
        """Whether all that is written are whole vectors, and lines of the cache."""
        return all(self._whole(step) == step for step in (self.hidden[0], *self.hidden[2:], self.channels[1]))

    def _loops(self) -> list[Index]:
        """Over products, positions and outputs."""
        (inputs, outputs), between = self.channels, [*self.axes[1:-1], self.last]
        loops = [Index(self.points, self.apart[0], self.kernel, self.apart[1])]
        for n, axis in enumerate(between):
            seen = prod(other.reach for other in between[n + 1 :]) * inputs
            made = prod(other.hidden for other in between[n + 1 :]) * outputs
            loops.append(Index(axis.hidden, axis.stride * seen, 0, made))
        return [*loops, Index(outputs, 0, 1, 1, True)]

    def _sums(self) -> list[Index]:
        """Over pieces, the taps of the other axes, and inputs."""
        (inputs, outputs), between = self.channels, [*self.axes[1:-1], self.last]
        found = [Index(len(self.pieces), prod(axis.reach for axis in between) * inputs, self.piece, 0)]
        for n, axis in enumerate(between):
            seen = prod(other.reach for other in between[n + 1 :]) * inputs
            taps = prod(other.kernel for other in between[n + 1 :]) * inputs * outputs
            found.append(Index(axis.kernel, axis.dilation * seen, taps, 0))
        return [*found, Index(inputs, 1, outputs, 0)]


def _begins(count: int, size: int) -> Sequence[int]:
    """Where blocks of a size begin that are all of so many: the last one reaches back over what is done already."""
    return [min(begin, count - size) for begin in range(0, count, size)]
