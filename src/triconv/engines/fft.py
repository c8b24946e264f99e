"""Convolution as products of frequencies, for large kernels: discrete Fourier transforms over parts of every axis.

A part of an axis meets visible positions x, taps k and hidden positions c, and the form sums over x = s·c + e·k − p.
For n frequencies, of which no two positions of the part that must be told apart are a multiple of n apart,

    [x = s·c + e·k − p]  =  1/n · Σ_f  exp(−2πi f·x/n) · exp(2πi f·e·k/n) · exp(2πi f·(s·c − p)/n)

so T = Σ_f (B v)_f · (G w)_f · (A h)_f, with a matrix for each role that holds stride, dilation, padding and border. The
three operations are the derivatives of that, as of the form itself: transform both operands, multiply frequency by
frequency (and sum over channels or examples), apply the transpose of the result's matrix. The real part of the products
of half the frequencies of one axis is enough, as operands are real.

Parts are short (a few kernels long: overlap-save), so the transforms are products with small matrices, which
the generated contraction does near the machine's peak; at these lengths that is sooner than a fast transform, which
saves multiplications and spends the time in moving numbers. The products of frequencies are the contraction too: a
locally connected convolution, whose positions are the frequencies.

Rounding spreads over a part. With u the unit of rounding and L the lengths of all sums added up (of the transforms, and
over channels or examples), an error is at most about L·u·Σ ‖v‖₁‖w‖₁, norms over a part, summed over channels. Errors of
random sign come to a fraction of √n·u of the largest result, n being the frequencies of an axis: measured in float32,
at most 5e-7 up to n = 71, 7e-7 at 203, 1.5e-6 at 842, beside 4e-7 to 7e-6 of the sum as written. No axis has more than
2048, so 1e-5 is far.

Where it pays, measured on one core of a Zen 5 with 64 channels, is where the sum as written has many terms. Dense:
7 taps 1.2 times, 101 taps 5.6 times sooner; 7×7 3.3 times, 31×31 9 times; 7×7×7 5 times. Depthwise: 21×21 at 56×56 not,
31×31 1.25 times, 51×51 2.4 times; 7×7×7 as long, 11×11×11 1.4 times and more; on one axis not up to 101 taps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..channels import Channels
from ..engine import Array, Engine, Run, quiet
from ..form import Problem, Role
from ..geometry import OUTSIDE, Axis, Geometry, Parts

if TYPE_CHECKING:
    from ..kernels.copy import Move
    from ..kernels.prepared import Prepared
    from ..kernels.scratch import Scratch

PEAK = 0.95
"""The share of two vectors' multiplications and additions a cycle that transforms and products reach."""

MOVED = 3.5e10
"""Bytes in a second that they read and write besides."""

STARTED = 1.3e-5
"""Seconds to start one of them."""

KEPT_ORDERS = 8
"""How many memory orders of each step are kept ready."""

CHUNK = 12 << 20
"""Bytes of frequencies at a time, if there are several examples."""


@dataclass(frozen=True)
class Cut:
    """An axis in parts, and how many frequencies a part has."""

    parts: Parts
    length: int

    @classmethod
    def of(cls, axis: Axis, count: int, transposed: bool) -> Cut:
        parts = Parts(1, axis, (0, 0), (0, 0)) if count == 1 else axis.parts(count, transposed)
        one = parts.axis
        # What is read, and what there is to be read: from −before to reach − before, and from 0 to visible.
        read = one.reach - one.before
        apart = one.reach if one.border != "zero" else max(one.visible, one.visible + one.before, read)
        return cls(parts, max(1, apart))

    def size(self, role: Role) -> int:
        """How many entries a part has."""
        axis = self.parts.axis
        return {Role.VISIBLE: axis.visible, Role.HIDDEN: axis.hidden, Role.WEIGHT: axis.kernel}[role]

    def matrix(self, role: Role, half: bool, dtype: str) -> Array:
        """(frequency, real and imaginary part, entry) of the role's transform.

        Of half the frequencies on real entries, or of all of them on complex ones: (…, real and imaginary part, entry).
        """
        axis, n = self.parts.axis, self.length
        f = np.arange(n // 2 + 1 if half else n)
        match role:
            case Role.VISIBLE:
                extended = axis.border != "zero"
                waves = _waves(f, -(np.arange(axis.reach) - axis.before if extended else np.arange(axis.visible)), n)
                if extended:
                    waves = waves @ (axis.extension[:, None] == np.arange(axis.visible))
            case Role.WEIGHT:
                waves = _waves(f, axis.dilation * np.arange(axis.kernel), n)
            case Role.HIDDEN:
                twice = np.where(half & (f > 0) & (2 * f < n), 2, 1) / n
                waves = twice[:, None] * _waves(f, axis.stride * np.arange(axis.hidden) - axis.before, n)
        if half:
            return np.stack([waves.real, waves.imag], axis=1).astype(dtype)
        return np.stack(
            [np.stack([waves.real, -waves.imag], axis=1), np.stack([waves.imag, waves.real], axis=1)], axis=1
        ).astype(dtype)


def _waves(f: Array, position: Array, n: int) -> Array:
    """exp(2πi f·x/n), of angles that are exact."""
    waves: Array = np.exp(2j * np.pi / n * (np.outer(f, position) % n))
    return waves


class Contraction:
    """A problem without a border, run by the generated contraction on arrays of any strides."""

    def __init__(self, problem: Problem) -> None:
        @lru_cache(maxsize=KEPT_ORDERS)
        def ready(strides: tuple[tuple[int, ...], ...]) -> Prepared:
            from ..kernels.prepared import prepared

            return prepared(problem, strides, True, False)

        self._ready = ready

    def __call__(self, visible: Array, hidden: Array, weight: Array) -> None:
        given = visible, hidden, weight
        self._ready(tuple(tuple(step // array.itemsize for step in array.strides) for array in given)).run(given)


def _shared(*sizes: int) -> tuple[Axis, ...]:
    """Axes of positions that a kernel of one entry meets."""
    return tuple(Axis(size, size, 1) for size in sizes)


class Stage:
    """A matrix times one axis of an array: (examples, entries, *others) to (examples, rows, *others)."""

    def __init__(self, matrix: Array, like: Problem) -> None:
        self.matrix, self.like = np.ascontiguousarray(matrix.T).T, like
        self._for: dict[tuple[int, ...], Contraction] = {}

    def __call__(self, source: Array, target: Array) -> None:
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
        run(source, target, self.matrix[(..., *(None,) * (source.ndim - 2))])


class Transform:
    """The transforms of a role along all axes: the last axis first, of which half the frequencies are enough.

    They take (examples, *parts, *entries, channels) to (examples · parts, frequency, row, channel), contiguous, where
    the rows are the real part y and the imaginary part y'; or three that make up the kernels of `Products`, y, −y' and
    −y; or all four, y, −y', −y' and −y.
    """

    def __init__(self, role: Role, cuts: Sequence[Cut], like: Problem, rows: int = 2) -> None:
        self.cuts, self.role, self.dtype = cuts, role, np.dtype(like.dtype)
        order = [len(cuts) - 1, *range(len(cuts) - 1)]
        self.sizes = [cuts[axis].size(role) for axis in order]
        matrices = [cuts[axis].matrix(role, axis == order[0], like.dtype) for axis in order]
        if rows > 2:
            real, imaginary = matrices[-1][:, 0], matrices[-1][:, 1]
            matrices[-1] = np.stack([real, *[-imaginary] * (rows - 2), -real], axis=1)
        self.frequencies, self.rows = prod(len(matrix) for matrix in matrices), rows
        self.matrices = [matrix.reshape(prod(matrix.shape[:2]), -1) for matrix in matrices]
        self.stages = [Stage(matrix, like) for matrix in self.matrices]
        self.inverse = [Stage(matrix.T, like) for matrix in self.matrices]

    def forward(self, entries: Array, lent: Scratch) -> Array:
        """The frequencies of what lies anyhow."""
        rank, channels = len(self.cuts), entries.shape[-1]
        parts, others = entries.shape[: -rank - 1], entries.shape[-rank - 1 : -2]
        found = self._room((*parts, len(self.matrices[0]), *others, channels), lent)
        self.stages[0](np.moveaxis(entries, -2, 1), np.moveaxis(found, -rank - 1, 1))
        for number, stage in enumerate(self.stages[1:], 1):
            before, after = self._shapes(number, prod(parts), channels)
            made = self._room(after, lent)
            stage(found.reshape(before), made)
            found = made
        return found.reshape(prod(parts), self.frequencies, self.rows, channels)

    def back(self, frequencies: Array, entries: Array, lent: Scratch) -> None:
        """Write the entries that the transpose makes of frequencies."""
        rank, channels = len(self.cuts), entries.shape[-1]
        parts, others = entries.shape[: -rank - 1], entries.shape[-rank - 1 : -2]
        found = frequencies
        for number, stage in reversed(list(enumerate(self.inverse[1:], 1))):
            after, before = self._shapes(number, prod(parts), channels)
            made = self._room(after, lent)
            stage(found.reshape(before), made)
            found = made
        first = found.reshape(*parts, len(self.matrices[0]), *others, channels)
        self.inverse[0](np.moveaxis(first, -rank - 1, 1), np.moveaxis(entries, -2, 1))

    def _room(self, shape: tuple[int, ...], lent: Scratch) -> Array:
        return lent.array(prod(shape), self.dtype).reshape(shape)

    def _shapes(self, number: int, examples: int, channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes before and after a stage: (examples and earlier frequencies, entries or rows, the rest)."""
        done = examples * prod(len(matrix) // 2 for matrix in self.matrices[:number])
        rest = prod(self.sizes[number + 1 :]) * channels
        rows, entries = self.matrices[number].shape
        return (done, entries, rest), (done, rows, rest)


class Copied:
    """The copy of an array of any strides into one of any strides, with zeros where there is nothing to copy."""

    def __init__(self, pieces: Sequence[tuple[tuple[int, int, int, int], ...]], dtype: str) -> None:
        @lru_cache(maxsize=KEPT_ORDERS)
        def ready(source: tuple[int, ...], target: tuple[int, ...]) -> Move:
            from ..kernels.copy import Dim, Move

            return Move.of([Dim(*each) for each in zip(pieces, source, target, strict=True)], dtype)

        self._ready = ready

    @classmethod
    def whole(cls, shape: Sequence[int], dtype: str) -> Copied:
        return cls([((0, 0, size, 1),) for size in shape], dtype)

    def __call__(self, source: Array, target: Array) -> None:
        from ..kernels.team import in_parts

        steps = (tuple(step // array.itemsize for step in array.strides) for array in (source, target))
        in_parts(partial(self._ready(*steps).calls, source, target), target.size)


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

    def read(self, array: Array, lent: Scratch) -> Array:
        """The parts of an operand, copied where they overlap or channels are not neighbours."""
        if self._lies_well(array):
            return self._parts(np.moveaxis(array, 1, -1))
        room = self.empty(lent)
        self.fill(array, np.moveaxis(room, -1, 1))
        return self._parts(room)

    def written(self, array: Array, lent: Scratch) -> tuple[Array, Array | None]:
        """Where the parts of the result are written, and what of it is to be copied to the result, if anything."""
        if self._lies_well(array):
            return self._parts(np.moveaxis(array, 1, -1)), None
        room = self.empty(lent)
        return self._parts(room), np.moveaxis(room, -1, 1)

    def empty(self, lent: Scratch) -> Array:
        shape = (self.examples, *self.room, self.channels)
        return lent.array(prod(shape), self.dtype).reshape(shape)

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

    def _room(self, lent: Scratch) -> Array:
        return lent.array(prod(self.lying), self.dtype).reshape(self.lying)

    def read(self, weight: Array, lent: Scratch) -> Array:
        lying = self._apart(weight).transpose(self.order)
        if not (lying.flags.c_contiguous and lying.flags.aligned):
            room = self._room(lent)
            self.copy(self._apart(weight), room.transpose(np.argsort(self.order)))
            lying = room
        return lying.reshape(1, *(1,) * self.rank, *self.lying[: self.rank], -1)

    def put(self, write: Any, weight: Array, lent: Scratch) -> None:
        """Let a result be written, and bring it to the weight."""
        lying = self._apart(weight).transpose(self.order)
        direct = lying.flags.c_contiguous and lying.flags.aligned
        room = lying if direct else self._room(lent)
        write(room.reshape(1, *(1,) * self.rank, *self.lying[: self.rank], -1))
        if not direct:
            self.copy(room.transpose(np.argsort(self.order)), self._apart(weight))


class Products:
    """The products of frequencies: (examples, frequency, part, channel) arrays and weights of them.

    With x, y and z of the roles, the form is the sum of Re(x·y·z) over frequencies: a locally connected convolution of
    the two parts of x with the kernels (y, −y') and (−y', −y), of which each is a kernel's two taps.
    """

    def __init__(self, frequencies: int, channels: Channels, like: Problem) -> None:
        axes = (Axis(frequencies, frequencies, 1, bank=frequencies), Axis(2, 2, 1, bank=2), Axis(2, 1, 2))
        self.channels, self.frequencies = channels, frequencies
        self.like = replace(like, geometry=Geometry(axes, banked=True), channels=channels)
        self._for: dict[tuple[int, Role], Contraction] = {}

    def __call__(self, x: Array, z: Array, weight: Array, produces: Role) -> None:
        if (run := self._for.get((len(x), produces))) is None:
            problem = replace(self.like, batch=len(x), produces=produces)
            run = self._for[len(x), produces] = Contraction(problem)
        v = x.transpose(0, 3, 1, 2)[:, :, :, None]
        run(np.broadcast_to(v, (*v.shape[:3], 2, 2)), z.transpose(0, 3, 1, 2)[..., None], weight)

    def kernels(self, y: Array) -> Array:
        """The kernels of (frequency, row, channels), of three or four rows."""
        rows, columns = self.channels.weight
        f, row, one = y.strides
        shape = (self.frequencies, 2, 1, rows, columns, 1, 1, 2)
        steps = (f, (y.shape[1] - 2) * row, 0, one, rows * one, 0, 0, row)
        return np.lib.stride_tricks.as_strided(y, shape, steps)


def build(problem: Problem) -> Run:
    if problem.batch == 0:
        return _nothing
    return quiet(_of_complex(problem) if problem.complex else _of_real(problem))


def _nothing(_a: Array, _b: Array, out: Array) -> None:
    """A sum over no examples."""
    out[...] = 0


def _of_complex(problem: Problem) -> Run:
    """Complex numbers by four real runs."""
    real = _real(problem)
    run = _of_real(real)

    def of_complex(a: Array, b: Array, out: Array) -> None:
        made = np.empty(out.shape, real.dtype)
        run(a.real, b.real, made)
        out.real = made
        run(a.imag, b.imag, made)
        out.real -= made
        run(a.real, b.imag, made)
        out.imag = made
        run(a.imag, b.real, made)
        out.imag += made

    return of_complex


def _real(problem: Problem) -> Problem:
    """The problem on the real or the imaginary parts."""
    real = np.empty(0, problem.dtype).real.dtype
    return replace(problem, dtype=real.name, itemsize=real.itemsize)


def _of_real(problem: Problem) -> Run:
    from ..kernels.scratch import Scratch

    plan = planned(problem)
    some = replace(problem, batch=plan.examples)
    read, made = (Role.HIDDEN, Role.VISIBLE) if problem.produces is Role.VISIBLE else (Role.VISIBLE, Role.HIDDEN)
    gradient = problem.produces is Role.WEIGHT
    own, other = Data(read, plan.cuts, some), Data(made, plan.cuts, some)
    of_own, of_other = Transform(read, plan.cuts, some), Transform(made, plan.cuts, some)
    of_weight = Transform(Role.WEIGHT, plan.cuts, some, 4 if gradient else 3)
    weights, products = Weights(problem), Products(of_own.frequencies, plan.channels, some)
    parts = [slice(n, n + plan.examples) for n in range(0, problem.batch, plan.examples)]

    def conv(data: Array, weight: Array, out: Array) -> None:
        with Scratch() as lent:
            kernels = products.kernels(of_weight.forward(weights.read(weight, lent), lent)[0])
            for part in parts:
                with Scratch() as own_lent:
                    x = of_own.forward(own.read(data[part], own_lent), own_lent)
                    shape = (*x.shape[:3], other.channels)
                    z = own_lent.array(prod(shape), x.dtype).reshape(shape)
                    products(x, z, kernels, Role.HIDDEN)
                    entries, rest = other.written(out[part], own_lent)
                    of_other.back(z, entries, own_lent)
                    if rest is not None:
                        other.drain(rest, out[part])

    def conv_weight(visible: Array, hidden: Array, out: Array) -> None:
        with Scratch() as lent:
            shape = (1, of_own.frequencies, 4, prod(plan.channels.weight))
            total, more = (lent.array(prod(shape), np.dtype(some.dtype)).reshape(shape) for _ in range(2))
            for part in parts:
                with Scratch() as own_lent:
                    x = of_own.forward(own.read(visible[part], own_lent), own_lent)
                    z = of_other.forward(other.read(hidden[part], own_lent), own_lent)
                    products(x, z, products.kernels((more if part.start else total)[0]), Role.WEIGHT)
                if part.start:
                    total += more
            weights.put(lambda entries: of_weight.back(total, entries, lent), out, lent)

    def run(a: Array, b: Array, out: Array) -> None:
        (conv_weight if gradient else conv)(_aligned(a), _aligned(b), out)

    return run


def _aligned(array: Array) -> Array:
    """The array, or a copy where its numbers do not lie on multiples of their size."""
    return array if array.flags.aligned and not any(step % array.itemsize for step in array.strides) else array.copy()


@dataclass(frozen=True)
class Planned:
    """How the axes are cut, and how many examples are taken at a time."""

    problem: Problem
    cuts: tuple[Cut, ...]

    @property
    def channels(self) -> Channels:
        """Those of the products: what is summed over first."""
        channels = self.problem.channels
        swapped = Channels(channels.hidden, channels.visible, channels.groups)
        return swapped if self.problem.produces is Role.VISIBLE else channels

    @property
    def parts(self) -> int:
        return prod(cut.parts.count for cut in self.cuts)

    @cached_property
    def frequencies(self) -> int:
        *others, last = (cut.length for cut in self.cuts)
        return prod(others) * (last // 2 + 1)

    @cached_property
    def examples(self) -> int:
        """A divisor of their number, of which the frequencies stay near the caches, or are as many as the weight's."""
        channels, itemsize = self.problem.channels, self.problem.itemsize
        each = 2 * self.parts * (channels.visible + channels.hidden)
        beside = (16 if self.problem.produces is Role.WEIGHT else 3) * prod(channels.weight)
        most = max(CHUNK // (self.frequencies * itemsize), beside) // each
        batch = max(1, self.problem.batch)
        return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, most))

    def _stages(self, role: Role) -> Iterator[tuple[int, int]]:
        """The multiplications, and the numbers written, of each stage of a role's transforms, for one channel."""
        sizes = [cut.size(role) for cut in self.cuts]
        order = [len(sizes) - 1, *range(len(sizes) - 1)]
        done, rest = 1, prod(sizes)
        for number, axis in enumerate(order):
            length, size = self.cuts[axis].length, sizes[axis]
            rest //= size
            rows, entries = (2 * (length // 2 + 1), size) if number == 0 else (2 * length, 2 * size)
            yield done * rows * entries * rest, done * rows * rest
            done *= rows // 2

    def _count(self, role: Role, examples: int) -> int:
        """How many times a role's transforms are made."""
        channels = self.problem.channels
        if role is Role.WEIGHT:
            return prod(channels.weight)
        return examples * self.parts * (channels.visible if role is Role.VISIBLE else channels.hidden)

    @cached_property
    def seconds(self) -> float:
        from ..kernels.target import target
        from ..kernels.ways import CYCLES

        multiplied, moved, started = self.work
        a_second = PEAK * CYCLES * 2 * target().lanes(self.problem.itemsize)
        return multiplied / a_second + moved / MOVED + started * STARTED

    @property
    def work(self) -> tuple[int, int, int]:
        """Multiplications, bytes that are read and written between them, and how many kernels are started."""
        problem, batch = self.problem, max(1, self.problem.batch)
        chunks = batch // self.examples
        multiplied = 4 * batch * self.parts * self.frequencies * problem.channels.edges
        # A gradient's four sums are written and read, and added to those of the chunk before.
        passes = 12 * chunks if problem.produces is Role.WEIGHT else 3 * chunks
        moved = passes * prod(problem.channels.weight) * self.frequencies * problem.itemsize
        for role in Role:
            count = self._count(role, batch)
            for number, written in self._stages(role):
                multiplied += count * number
                moved += 2 * count * written * problem.itemsize
            moved += 2 * problem.bytes_of(role)
        return multiplied, moved, 4 + len(self.cuts) * (1 + 2 * chunks) + 3 * chunks

    @property
    def workspace(self) -> int:
        """Operands and the result as they lie in parts, and what every stage writes."""
        problem, examples = self.problem, self.examples
        numbers = sum(
            self._count(role, examples) * (sum(written for _, written in self._stages(role)) + room)
            for role in Role
            for room in (prod(cut.size(role) for cut in self.cuts),)
        )
        numbers += prod(problem.channels.weight) * self.frequencies * 8
        return numbers * problem.itemsize

    @property
    def tables(self) -> int:
        matrices = sum(8 * cut.length * cut.size(role) for cut in self.cuts for role in Role)
        return 2 * matrices * self.problem.itemsize + 64 * self.frequencies * 8


LONGEST = 2048
"""Frequencies of an axis, beyond which matrices are too large, and sums too long for the error that is promised."""

COUNTS = (*range(1, 17), *(2**n * m // 4 for n in range(4, 20) for m in (4, 5, 6, 7)))
"""Into how many parts an axis may be cut."""


@lru_cache(maxsize=256)
def planned(problem: Problem) -> Planned:
    """The parts that should take the least time: one axis after the other, twice."""
    axes, transposed = problem.geometry.axes, problem.produces is Role.VISIBLE
    choices = []
    for axis in axes:
        most = -(-axis.visible // axis.stride) if transposed else axis.hidden
        counts = [n for n in COUNTS if n <= most and axis.border == "zero"] or [1]
        cuts = [Cut.of(axis, n, transposed) for n in counts]
        choices.append([cut for cut in cuts if cut.length <= LONGEST] or cuts[-1:])
    best = Planned(problem, tuple(cuts[0] for cuts in choices))
    for _ in range(2):
        for number, cuts in enumerate(choices):
            found = [Planned(problem, (*best.cuts[:number], cut, *best.cuts[number + 1 :])) for cut in cuts]
            best = min(found, key=lambda one: one.seconds)
    return best


def why_not(problem: Problem) -> tuple[str, ...]:
    geometry = problem.geometry
    reasons = {
        "there is no axis to transform": geometry.rank == 0,
        "a kernel that is not the same everywhere has no frequencies": any(bank > 1 for bank in geometry.bank),
        "frequencies of a channel graph are not implemented": problem.channels.graph is not None,
        'precision="highest" forbids transforms': problem.precision == "highest",
    }
    found = tuple(reason for reason, holds in reasons.items() if holds)
    if not found and (longest := max(cut.length for cut in planned(_real(problem)).cuts)) > LONGEST:
        return (f"a part of an axis has {longest} frequencies, more than {LONGEST}",)
    return found


def cost(problem: Problem) -> float:
    return planned(_real(problem)).seconds * (4 if problem.complex else 1)


def workspace(problem: Problem) -> int:
    plan = planned(_real(problem))
    return plan.workspace + plan.tables + (2 * problem.bytes if problem.complex else 0)


def tables(problem: Problem) -> int:
    return planned(_real(problem)).tables


ENGINE = Engine("fft", why_not, cost, workspace, tables, build, spreads=True)
