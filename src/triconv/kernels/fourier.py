"""Fourier transforms, and products of frequencies, as contractions of arrays of any strides, which are run later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..channels import Channels
from ..form import Problem, Role
from ..geometry import OUTSIDE, Axis, Geometry
from .copy import Dim, Move, in_stage
from .prepared import Prepared, prepared
from .short import Later
from .waves import Cut

Array = NDArray[Any]

KEPT_ORDERS = 8
"""How many memory orders of each step are kept ready."""


class Contraction:
    """A problem without a border, run by the generated contraction on arrays of any strides."""

    def __init__(self, problem: Problem) -> None:
        @lru_cache(maxsize=KEPT_ORDERS)
        def ready(strides: tuple[tuple[int, ...], ...]) -> Prepared:
            return prepared(problem, strides, True, False, whole=True)

        self._ready = ready

    def __call__(self, visible: Array, hidden: Array, weight: Array, later: Later) -> None:
        given = visible, hidden, weight
        ready = self._ready(tuple(tuple(step // array.itemsize for step in array.strides) for array in given))
        later.stages += ready.stages(given, later)


def _shared(*sizes: int) -> tuple[Axis, ...]:
    """Axes of positions that a kernel of one entry meets."""
    return tuple(Axis(size, size, 1) for size in sizes)


class Stage:
    """A matrix times one axis of an array: (examples, entries, *others) to (examples, rows, *others)."""

    def __init__(self, matrix: Array, like: Problem) -> None:
        self.matrix, self.like = np.ascontiguousarray(matrix.T).T, like
        self._for: dict[tuple[int, ...], Contraction] = {}

    def __call__(self, source: Array, target: Array, later: Later) -> None:
        kept = [axis for axis in range(2, source.ndim) if source.shape[axis] > 1] or [source.ndim - 1]
        source, target = (
            array[tuple(slice(None) if axis < 2 or axis in kept else 0 for axis in range(array.ndim))]
            for array in (source, target)
        )
        if (run := self._for.get(source.shape)) is None:
            rows, entries = self.matrix.shape
            run = self._for[source.shape] = Contraction(
                replace(
                    self.like,
                    produces=Role.HIDDEN,
                    geometry=Geometry(_shared(*source.shape[2:])),
                    channels=Channels(entries, rows),
                    batch=len(source),
                )
            )
        run(source, target, self.matrix[(..., *(None,) * (source.ndim - 2))], later)


class Transform:
    """The transforms of a role along all axes: the last axis first, of which half the frequencies are enough.

    They take (examples, *parts, *entries, channels) to (examples · parts, frequency, row, channel), contiguous, where
    the rows are the real part y and the imaginary part y'; or three that make up the kernels of `Products`, y, −y' and
    −y; or all four, y, −y', −y' and −y. Where axes are `apart`, each has its own frequencies, half of them, and rows:
    (…, frequency, row, frequency, row, …, channel), the last axis first.
    """

    def __init__(self, role: Role, cuts: Sequence[Cut], like: Problem, apart: bool, rows: int = 2) -> None:
        self.cuts, self.role, self.dtype = cuts, role, np.dtype(like.dtype)
        order = [len(cuts) - 1, *range(len(cuts) - 1)]
        self.sizes = [cuts[axis].size(role) for axis in order]
        matrices = [cuts[axis].matrix(role, apart or axis == order[0], like.dtype) for axis in order]
        frequencies = [len(matrix) for matrix in matrices] if apart else [prod(map(len, matrices))]
        self.made = [size for count in frequencies for size in (count, rows)]
        if rows > 2:
            matrices[-len(frequencies) :] = [_again(matrix, rows) for matrix in matrices[-len(frequencies) :]]
        self.matrices = [matrix.reshape(prod(matrix.shape[:2]), -1) for matrix in matrices]
        self.like = like

    @cached_property
    def stages(self) -> list[Stage]:
        """From entries to frequencies."""
        return [Stage(matrix, self.like) for matrix in self.matrices]

    @cached_property
    def inverse(self) -> list[Stage]:
        """Transposed, from frequencies to entries."""
        return [Stage(matrix.T, self.like) for matrix in self.matrices]

    def forward(self, entries: Array, later: Later, made: Array | None = None) -> Array:
        """The frequencies of what lies anyhow, which is left, as is what lies between the stages; in what is `made`."""
        rank, channels, last = len(self.cuts), entries.shape[-1], len(self.matrices) - 1
        parts, others = entries.shape[: -rank - 1], entries.shape[-rank - 1 : -2]

        def room(number: int, *shape: int) -> Array:
            return self._room(shape, later) if made is None or number < last else made.reshape(shape)

        found = room(0, *parts, len(self.matrices[0]), *others, channels)
        self.stages[0](np.moveaxis(entries, -2, 1), np.moveaxis(found, -rank - 1, 1), later)
        later.leave(entries)
        for number, stage in enumerate(self.stages[1:], 1):
            rows, columns, rest = self._sizes(number, channels)
            before = found.reshape(-1, columns, rest)
            found = room(number, len(before), rows, rest)
            stage(before, found, later)
            later.leave(before)
        return found.reshape(prod(parts), *self.made, channels)

    def back(self, frequencies: Array, entries: Array, later: Later) -> None:
        """Write the entries that the transpose makes of frequencies, which are left."""
        rank, channels = len(self.cuts), entries.shape[-1]
        parts, others = entries.shape[: -rank - 1], entries.shape[-rank - 1 : -2]
        found = frequencies
        for number, stage in reversed(list(enumerate(self.inverse[1:], 1))):
            rows, columns, rest = self._sizes(number, channels)
            before = found.reshape(-1, rows, rest)
            found = self._room((len(before), columns, rest), later)
            stage(before, found, later)
            later.leave(before)
        first = found.reshape(*parts, len(self.matrices[0]), *others, channels)
        self.inverse[0](np.moveaxis(first, -rank - 1, 1), np.moveaxis(entries, -2, 1), later)
        later.leave(first)

    def _room(self, shape: tuple[int, ...], later: Later) -> Array:
        return later.array(prod(shape), self.dtype).reshape(shape)

    def _sizes(self, number: int, channels: int) -> tuple[int, int, int]:
        """The rows and columns of a stage's matrix, and how many numbers each of its entries is of."""
        rows, columns = self.matrices[number].shape
        return rows, columns, prod(self.sizes[number + 1 :]) * channels


def _again(matrix: Array, rows: int) -> Array:
    """A transform of which the kernels of products are made: y, −y', once or twice, and −y."""
    real, imaginary = matrix[:, 0], matrix[:, 1]
    return np.stack([real, *[-imaginary] * (rows - 2), -real], axis=1)


class Copied:
    """The copy of an array of any strides into one of any strides, with zeros where there is nothing to copy."""

    def __init__(self, pieces: Sequence[tuple[tuple[int, int, int, int], ...]], dtype: str) -> None:
        @lru_cache(maxsize=KEPT_ORDERS)
        def ready(source: tuple[int, ...], target: tuple[int, ...]) -> Move:
            return Move.of([Dim(*each) for each in zip(pieces, source, target, strict=True)], dtype)

        self._ready = ready

    @classmethod
    def whole(cls, shape: Sequence[int], dtype: str) -> Copied:
        return cls([((0, 0, size, 1),) for size in shape], dtype)

    def __call__(self, source: Array, target: Array, later: Later) -> None:
        steps = (tuple(step // array.itemsize for step in array.strides) for array in (source, target))
        later.stages.append(in_stage([(self._ready(*steps), source, target)], later.threads))


class Data:
    """How the visible or the hidden of some examples is seen as (examples, *parts, *entries, channels)."""

    def __init__(self, role: Role, cuts: Sequence[Cut], problem: Problem) -> None:
        side = (Role.VISIBLE, Role.HIDDEN).index(role)
        self.examples, self.channels, *sizes = problem.shape(role)
        self.counts = [cut.parts.count for cut in cuts]
        self.entries = [cut.size(role) for cut in cuts]
        self.steps = [cut.parts.step[side] for cut in cuts]
        first = [cut.parts.first[side] for cut in cuts]
        self.room = [(n - 1) * step + e for n, step, e in zip(self.counts, self.steps, self.entries, strict=True)]
        self.as_it_is = self.room == list(sizes) and not any(first)
        lead = [((0, 0, size, 1),) for size in (self.examples, self.channels)]
        pieces = map(_inside, sizes, self.room, first)
        self.fill = Copied([*lead, *pieces], problem.dtype)
        self.drain = Copied([*lead, *(((0, 0, size, 1),) for size in sizes)], problem.dtype)
        self.dtype = np.dtype(problem.dtype)

    def read(self, array: Array, later: Later) -> Array:
        """The parts of an operand, copied where they overlap or channels are not neighbours."""
        if self._lies_well(array):
            return self._parts(np.moveaxis(array, 1, -1))
        room = self.empty(later)
        self.fill(array, np.moveaxis(room, -1, 1), later)
        return self._parts(room)

    def written(self, array: Array, later: Later) -> tuple[Array, Array | None]:
        """Where the parts of the result are written, and what of it is to be copied to the result, if anything."""
        if self._lies_well(array):
            return self._parts(np.moveaxis(array, 1, -1)), None
        room = self.empty(later)
        return self._parts(room), np.moveaxis(room, -1, 1)

    def empty(self, later: Later) -> Array:
        shape = (self.examples, *self.room, self.channels)
        return later.array(prod(shape), self.dtype).reshape(shape)

    def _lies_well(self, array: Array) -> bool:
        return self.as_it_is and array.flags.aligned and (self.channels == 1 or array.strides[1] == array.itemsize)

    def _parts(self, last: Array) -> Array:
        """The view of (examples, *positions, channels)."""
        lead, *along, channel = last.strides
        return np.lib.stride_tricks.as_strided(
            last,
            (self.examples, *self.counts, *self.entries, self.channels),
            (lead, *(step * own for step, own in zip(self.steps, along, strict=True)), *along, channel),
        )


def _inside(size: int, room: int, first: int) -> tuple[tuple[int, int, int, int], ...]:
    """What goes where along an axis of `room` positions, which begin at position `first` of the array."""
    before = min(max(-first, 0), room)
    many = max(0, min(size - max(first, 0), room - before))
    return (OUTSIDE, 0, before, 1), (max(first, 0), before, many, 1), (OUTSIDE, before + many, room - before - many, 1)


class Weights:
    """The weight as (entries, columns · rows of channels), as the products of frequencies want it, and back."""

    def __init__(self, problem: Problem) -> None:
        channels, self.rank = problem.channels, problem.geometry.rank
        self.groups, per_group, columns = channels.groups, channels.hidden // channels.groups, channels.weight[1]
        self.split = (self.groups, per_group, columns, *problem.geometry.kernel)
        # What a product sums over is a column, and channels of its result are neighbours.
        self.order = (*range(3, 3 + self.rank), *((1, 0, 2) if problem.produces is Role.VISIBLE else (2, 0, 1)))
        self.columns = per_group if problem.produces is Role.VISIBLE else columns
        self.copy, self.dtype = Copied.whole(self.split, problem.dtype), np.dtype(problem.dtype)
        self.lying = [self.split[axis] for axis in self.order]

    def _apart(self, weight: Array) -> Array:
        """A view of (groups, hidden channels of a group, columns, *entries)."""
        own = weight[(0,) * (weight.ndim - 2 - self.rank)]
        step, column, *taps = own.strides
        return np.lib.stride_tricks.as_strided(own, self.split, (self.split[1] * step, step, column, *taps))

    def _room(self, later: Later) -> Array:
        return later.array(prod(self.lying), self.dtype).reshape(self.lying)

    def read(self, weight: Array, later: Later) -> Array:
        lying = self._apart(weight).transpose(self.order)
        if not (lying.flags.c_contiguous and lying.flags.aligned):
            room = self._room(later)
            self.copy(self._apart(weight), room.transpose(np.argsort(self.order)), later)
            lying = room
        return lying.reshape(1, *(1,) * self.rank, *self.lying[: self.rank], -1)

    def put(self, write: Any, weight: Array, later: Later) -> None:
        """Let a result be written, and bring it to the weight."""
        lying = self._apart(weight).transpose(self.order)
        direct = lying.flags.c_contiguous and lying.flags.aligned
        room = lying if direct else self._room(later)
        write(room.reshape(1, *(1,) * self.rank, *self.lying[: self.rank], -1))
        if not direct:
            self.copy(room.transpose(np.argsort(self.order)), self._apart(weight), later)


class Products:
    """The products of frequencies: arrays of (examples, frequency, part, channel) and weights of them.

    With x, y and z of the roles, the form is the sum of Re(x·y·z) over frequencies: a locally connected convolution of
    the two parts of x with the kernels (y, −y') and (−y', −y), of which each is a kernel's two taps. Where axes have
    their own frequencies and parts, (…, frequency, part, frequency, part, …), it is that along each of them.
    """

    def __init__(self, made: Sequence[int], channels: Channels, like: Problem) -> None:
        self.channels, self.frequencies = channels, made[::2]
        many = len(self.frequencies)
        banks = (*self.frequencies, *[2] * many)
        axes = (*(Axis(size, size, 1, bank=size) for size in banks), *[Axis(2, 1, 2)] * many)
        self.like = replace(like, geometry=Geometry(axes, banked=True), channels=channels)
        self._for: dict[tuple[int, Role], Contraction] = {}

    def __call__(self, x: Array, z: Array, weight: Array, produces: Role, later: Later) -> None:
        if (run := self._for.get((len(x), produces))) is None:
            problem = replace(self.like, batch=len(x), produces=produces)
            run = self._for[len(x), produces] = Contraction(problem)
        many = len(self.frequencies)
        order = (0, -1, *range(1, 2 * many, 2), *range(2, 2 * many + 1, 2))
        v, h = x.transpose(order), z.transpose(order)
        shape = (*v.shape[: 2 + many], *[2] * 2 * many)
        v = np.broadcast_to(v.reshape(*v.shape[: 2 + many], *[1] * many, *[2] * many), shape)
        run(v, h[(..., *[None] * many)], weight, later)

    def kernels(self, y: Array) -> Array:
        """The kernels of (frequency, row, …, channels), of three or four rows."""
        rows, columns = self.channels.weight
        *steps, one = y.strides
        along, shared = steps[::2], [0] * len(self.frequencies)
        shape = (*self.frequencies, *[2] * len(along), *[1] * len(along))
        lying = (*along, *((y.shape[1] - 2) * row for row in steps[1::2]), *shared)
        taps = (*shared, *shared, *steps[1::2])
        sizes = (*[1] * 2 * len(along), *[2] * len(along))
        return np.lib.stride_tricks.as_strided(y, (*shape, rows, columns, *sizes), (*lying, one, rows * one, *taps))
