"""Direct convolution: the form as loop nests, run by the generated contraction.

What is chosen, by the cycles it should take, is the index that vectors run over. Channels-last arrays want a channel;
few channels, and channel graphs, want positions, or examples. Where the vector's index is summed, the lanes of a
vector are added at the end:

    vectors over    step by one in        conv       conv_transpose    conv_weight
    hidden          hidden, weight                   summed
    visible         visible, weight       summed
    channel         all three             (depthwise: one hidden and one visible channel a group)
    position        visible, hidden                                    summed
    example         visible, hidden                                    summed

Operands are read where they lie if they step by one along the vector and need no padding; else they are copied once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..channels import Channels
from ..engine import Array, Engine, Run, takes_all
from ..form import Problem, Role, weight_order
from ..geometry import Axis
from ..kernels.layout import Buffer, Layout
from ..memory import LINE

if TYPE_CHECKING:
    from ..kernels.copy import Move
    from ..kernels.program import Program

CYCLES, COPIED = 4e9, 25e9
"""A second's cycles, and bytes copied."""

KEPT_ORDERS = 8
"""How many memory orders of a problem are kept ready."""

Strides = tuple[int, ...]
"""Of an array, in numbers."""


@dataclass(frozen=True)
class Way:
    """A way to run a problem: what vectors run over, what is copied first (None: nothing), and how all then lies."""

    problem: Problem
    vector: str
    exact: tuple[bool, ...]
    """Axes whose edges have loops of their own, instead of zeros beyond them."""
    buffers: tuple[Buffer | None, ...]
    layouts: tuple[Layout, ...]
    overhang: tuple[int, ...]

    @property
    def copied(self) -> int:
        """The bytes of the copies."""
        return sum(buffer.size for buffer in self.buffers if buffer is not None) * self.problem.itemsize

    def cuts(self) -> list[Any]:
        """The loop nests, cut into tiles."""
        from ..kernels.loops import Lying, nests
        from ..kernels.nest import cut
        from ..kernels.target import cache_bytes, target

        room = cache_bytes()[1] // 2
        found = nests(self.problem, self.vector, Lying(*self.layouts), self.overhang, self.exact)
        return [cut(nest, self.problem.itemsize, target(), room) for nest in found]

    @property
    def supposes(self) -> Role | None:
        """The operand that has to be finite, as products with zeros beyond an edge are left out or put in; or none."""
        problem, axes = self.problem, self.problem.geometry.axes
        match problem.produces:
            case Role.VISIBLE if any(sum(axis.overhang) for axis, own in zip(axes, self.exact, strict=True) if not own):
                return Role.WEIGHT
            case Role.HIDDEN if any(self.exact):
                return Role.WEIGHT
            case Role.WEIGHT if any(self.exact):
                return Role.HIDDEN
        return None

    def seconds(self) -> float:
        cycles: float = sum(one.block.cycles for one in self.cuts())
        read = self.problem.bytes_of(self.supposes) if self.supposes else 0
        return cycles / CYCLES + (2 * self.copied + read) / COPIED


ROLES = (Role.VISIBLE, Role.HIDDEN, Role.WEIGHT)


def vectors(problem: Problem) -> list[str]:
    """What vectors may run over."""
    axes, channels = problem.geometry.axes, problem.channels
    found = ["example"]
    if axes and axes[-1].bank == 1:
        found.append("position")
    if channels.mask is None:
        one_each = channels.groups == channels.hidden == channels.visible > 1
        found += ["channel"] if one_each else ["hidden", "visible"]
    return found


def way(problem: Problem, vector: str, strides: tuple[Strides, ...], exact: tuple[bool, ...]) -> Way:
    """How to run a problem over vectors of something, on arrays of these strides, in the order of ROLES."""
    from ..kernels.loops import WIDE

    produces, axes = problem.produces, problem.geometry.axes
    transposed = produces is Role.VISIBLE
    inner = _with_borders_written_out(problem) if transposed else problem
    each = list(zip(inner.geometry.axes, exact, strict=True))
    overhang = [axis.overhang if transposed and not own else (0, 0) for axis, own in each]
    pads = {
        Role.VISIBLE: [(0, axis.visible) if transposed or own else _padding(axis) for axis, own in each],
        Role.HIDDEN: [
            (before, before + axis.hidden + after) for (before, after), axis in zip(overhang, axes, strict=True)
        ],
        Role.WEIGHT: [],
    }
    split = axes[-1].stride if vector == "position" else 1
    buffers: list[Buffer | None] = []
    layouts = []
    for role, steps in zip(ROLES, strides, strict=True):
        shape = problem.shape(role)
        order = _order(problem, role, vector, steps)
        unit = order[-1]
        panel = _panel(problem, role, vector, shape[unit])
        lead = (0,) * (len(shape) - len(pads[role]))
        buffer = Buffer(
            (*shape[: len(lead)], *(length for _, length in pads[role])),
            (*lead, *(before for before, _ in pads[role])),
            order,
            split if role is Role.VISIBLE else 1,
            panel,
        )
        lies_well = role not in WIDE[vector] or shape[unit] == 1 or steps[unit] == 1
        if _local(problem) and role is not Role.WEIGHT and role is not produces and vector in ("hidden", "visible"):
            lies_well = lies_well and steps[0] < steps[2]
        same = buffer.shape == shape and not any(buffer.before) and buffer.split == 1 and not panel
        as_it_is = same and lies_well and not (role is produces and _folds(problem))
        buffers.append(None if as_it_is else buffer)
        # The step of an axis of one entry means nothing; of the vector it is one.
        own = tuple(1 if axis == unit and role in WIDE[vector] else step for axis, step in enumerate(steps))
        layouts.append(Layout(own) if as_it_is else buffer.layout)
    return Way(inner, vector, exact, tuple(buffers), tuple(layouts), tuple(before for before, _ in overhang))


def _panel(problem: Problem, role: Role, vector: str, channels: int) -> int:
    """How many channels of a large weight to put side by side, so that what one tile reads is near; 0 leaves it."""
    from ..kernels.loops import LARGE
    from ..kernels.target import target

    wide = PANEL * target().lanes(problem.itemsize)
    other = {Role.HIDDEN: "hidden", Role.VISIBLE: "visible"}.get(problem.produces)
    large = role is Role.WEIGHT and vector == other and problem.bytes_of(role) > LARGE
    return wide if large and not problem.geometry.banked and channels % wide == 0 and channels > wide else 0


LONG = 16
"""Positions of a line that is not short."""

PANEL = 2
"""Vectors of a panel, as tiles have where there are many rows."""


def _padding(axis: Axis) -> tuple[int, int]:
    """How many positions go before the visible, and how many there are then in all."""
    if axis.before == 0 and axis.reach <= axis.visible:
        return 0, axis.visible
    return axis.before, axis.reach


def _with_borders_written_out(problem: Problem) -> Problem:
    """The problem whose visible has positions of its own for what borders read; zero borders need none."""
    axes = tuple(axis if axis.border == "zero" else axis.extended for axis in problem.geometry.axes)
    return replace(problem, geometry=replace(problem.geometry, axes=axes))


def _order(problem: Problem, role: Role, vector: str, steps: Strides) -> tuple[int, ...]:
    """The order of the axes of a copy, the last one that along which it steps by one."""
    axes = range(len(steps))
    if role is Role.WEIGHT:
        channel = problem.geometry.rank * problem.geometry.banked + (vector == "visible")
        others = sorted((axis for axis in axes if axis != channel), key=lambda axis: -abs(steps[axis]))
        return (*others, channel)
    match vector:
        case "position":
            # All channels of a line side by side, unless lines are so short that they are better joined.
            long = problem.geometry.hidden[-1] >= LONG
            return (0, *axes[2:-1], 1, axes[-1]) if long else tuple(axes)
        case "example":
            return (*axes[1:], 0)
    if _local(problem):  # examples are what shares a kernel
        return (*axes[2:], 0, 1)
    return (0, *axes[2:], 1)


def _local(problem: Problem) -> bool:
    """Whether every position has a kernel of its own."""
    return problem.geometry.rank > 0 and all(axis.local for axis in problem.geometry.axes)


def best_way(problem: Problem, strides: tuple[Strides, ...], finite: bool) -> Way:
    """The way that should take the least time.

    If operands are finite, products with a zero of the border may be left out, and products with a zero beyond the
    hidden put in. Else only what the sum has may be multiplied.
    """
    rank = problem.geometry.rank
    always = (problem.produces is Role.VISIBLE and not finite,) * rank
    found = [way(problem, vector, strides, always) for vector in vectors(problem)]
    best = min(found, key=Way.seconds)
    others = [exact for exact in _exact_choices(problem, best.vector) if finite and any(exact)]
    return min([best, *(way(problem, best.vector, strides, exact) for exact in others)], key=Way.seconds)


def _exact_choices(problem: Problem, vector: str) -> list[tuple[bool, ...]]:
    """Which axes to try to give loops of their own at the edges: it spares products, or a copy.

    Every line is a loop of its own then. The last axis has long runs of positions in it, which edges would break; it is
    tried where there is little to compute and the copy costs as much.
    """
    axes = problem.geometry.axes
    able = [axis.border == "zero" and axis.bank == 1 and _reads_beyond(problem, axis) for axis in axes]
    lines = prod(axis.visible if problem.produces is Role.VISIBLE else axis.hidden for axis in axes[:-1])
    found = [(*able[:-1], False)] if axes and lines <= MANY_LINES else []
    if vector == "channel" and prod(problem.geometry.kernel) <= FEW_TAPS and problem.produces is not Role.WEIGHT:
        found += [tuple(able)] if all(able) else []
    return found


MANY_LINES = 1024
"""Lines that make tables too long, and edges too rare, for loops of their own."""

FEW_TAPS = 25
"""A kernel whose window is small, so that most positions are far from an edge and share what they read."""


def _reads_beyond(problem: Problem, axis: Axis) -> bool:
    """Whether zeros beyond the edges of an axis are read."""
    if problem.produces is Role.VISIBLE:
        return any(axis.overhang)
    return _padding(axis) != (0, axis.visible)


@dataclass(frozen=True, eq=False)
class Ready:
    """A way with its compiled program, and the copies into and out of its buffers."""

    way: Way
    program: Program
    fills: tuple[Move | None, ...]
    drain: list[tuple[Move, int, int]]
    supposes: int | None
    """Which of the arrays has to be finite."""


def _folds(problem: Problem) -> bool:
    """Whether what is computed on a border is added to what the border reads."""
    return problem.produces is Role.VISIBLE and any(axis.border != "zero" for axis in problem.geometry.axes)


def prepared(problem: Problem, strides: tuple[Strides, ...], finite: bool, in_line: bool) -> Ready:
    """The best way to run a problem on arrays of these strides, made ready; is the result `in_line` with the cache?"""
    from ..kernels.program import Program, tiled
    from ..kernels.target import target

    best = best_way(problem, strides, finite)
    lanes = target().lanes(problem.itemsize)
    in_line |= best.buffers[ROLES.index(problem.produces)] is not None
    program = Program([one for cut in best.cuts() for one in tiled(cut, problem.dtype, lanes, in_line)], problem.flops)
    fills: list[Move | None] = []
    drain: list[tuple[Move, int, int]] = []
    for role, buffer, steps in zip(ROLES, best.buffers, strides, strict=True):
        shape = problem.shape(role)
        axes = (None, None, *problem.geometry.axes) if role is Role.VISIBLE else (None,) * len(shape)
        is_operand = buffer is not None and role is not problem.produces
        fills.append(buffer.fill(shape, steps, axes, problem.dtype) if buffer and is_operand else None)
        if buffer and not is_operand and not _folds(problem):
            drain = buffer.drain(shape, steps, problem.dtype)
    supposes = None if best.supposes is None else ROLES.index(best.supposes)
    return Ready(best, program, tuple(fills), drain, supposes)


def build(problem: Problem) -> Run:
    if problem.batch == 0:
        return _nothing
    if problem.complex:
        return _build_complex(problem)
    from ..kernels.loops import arrays
    from ..kernels.program import in_parts
    from ..kernels.scratch import Scratch

    ready = lru_cache(maxsize=KEPT_ORDERS)(partial(prepared, problem))
    sparse = problem.produces is Role.WEIGHT and problem.channels.mask is not None
    dtype, itemsize, produced = problem.dtype, problem.itemsize, ROLES.index(problem.produces)
    order = [ROLES.index(role) for role in (*problem.operands, problem.produces)]
    given_at = [order.index(number) for number in range(3)]

    def run(a: Array, b: Array, out: Array) -> None:
        arguments = _aligned(a), _aligned(b), _aligned(out)
        given = [arguments[number] for number in given_at]
        strides = tuple([tuple([step // itemsize for step in array.strides]) for array in given])
        in_line = given[produced].__array_interface__["data"][0] % LINE == 0
        best = ready(strides, True, in_line)
        if best.supposes is not None and not _finite(problem, ROLES[best.supposes], given[best.supposes]):
            best = ready(strides, False, in_line)
        with Scratch() as lent:
            seen = list(given)
            for number, buffer in enumerate(best.way.buffers):
                if buffer is not None:
                    seen[number] = lent.array(buffer.size, dtype)
            for fill, source, target in zip(best.fills, given, seen, strict=True):
                if fill is not None:
                    in_parts(partial(fill.run, source, target), target.size)
            result = seen[produced]
            if sparse:
                result[...] = 0
            best.program.run(*[seen[ROLES.index(role)] for role in arrays(problem, best.way.vector)])
            for move, begin, first in best.drain:
                in_parts(partial(move.run, result[begin:], given[produced][..., first:]), result.size)
            if (buffer := best.way.buffers[produced]) is not None and not best.drain:
                buffer.fold(result, given[produced], (None, None, *problem.geometry.axes))
        if given[produced] is not out:
            out[...] = given[produced]

    return run


def _finite(problem: Problem, role: Role, array: Array) -> bool:
    """Whether all that is read of an operand is finite; of a weight nothing outside a channel graph is."""
    from ..kernels.finite import all_finite

    mask = problem.channels.mask
    if mask is None or role is not Role.WEIGHT:
        return all_finite(array)
    lead = (slice(None),) * (problem.geometry.rank * problem.geometry.banked)
    return bool(np.isfinite(array[(*lead, *np.nonzero(mask))]).all())


def _nothing(_a: Array, _b: Array, out: Array) -> None:
    """A sum over no examples."""
    out[...] = 0


def _aligned(array: Array) -> Array:
    """The array, or a copy where its numbers do not lie on multiples of their size."""
    if array.flags.aligned and not any(step % array.itemsize for step in array.strides):
        return array
    return array.copy()


def _build_complex(problem: Problem) -> Run:
    """Complex numbers as pairs of real channels, a complex weight as blocks of two by two."""
    inner = _real(problem)
    run_real, real = build(inner), np.dtype(inner.dtype)
    lead = (slice(None),) * (problem.geometry.rank * problem.geometry.banked)
    even, odd = slice(0, None, 2), slice(1, None, 2)

    def pairs(array: Array) -> Array:
        """(examples, 2 · channels, *positions), real; a view where channels are neighbours."""
        apart = np.moveaxis(array[..., None].view(real), -1, 2)
        return apart.reshape(array.shape[0], 2 * array.shape[1], *array.shape[2:])

    def blocks(w: Array) -> Array:
        """The real weight of (hidden, visible) pairs; conjugated for a transpose, as its transpose conjugates back."""
        found = _empty(inner, Role.WEIGHT)
        found[(*lead, even, even)] = found[(*lead, odd, odd)] = w.real
        plus, minus = (odd, even), (even, odd)
        if problem.produces is Role.VISIBLE:
            plus, minus = minus, plus
        found[(*lead, *plus)], found[(*lead, *minus)] = w.imag, -w.imag
        return found

    def run(a: Array, b: Array, out: Array) -> None:
        result = _empty(inner, problem.produces)
        if problem.produces is Role.WEIGHT:
            run_real(pairs(a), pairs(b), result)
            out.real = result[(*lead, even, even)] - result[(*lead, odd, odd)]
            out.imag = result[(*lead, even, odd)] + result[(*lead, odd, even)]
        else:
            run_real(pairs(a), blocks(b), result)
            out.real, out.imag = result[:, even], result[:, odd]

    return run


def _some(problem: Problem) -> Problem:
    """The problem to estimate: a real one, with at least one example."""
    return replace(_real(problem) if problem.complex else problem, batch=max(1, problem.batch))


def _real(problem: Problem) -> Problem:
    """A complex problem as the real one with twice the channels."""
    channels = problem.channels
    graph = None if channels.mask is None else np.kron(channels.mask, np.ones((2, 2), np.bool_)).tobytes()
    pairs = Channels(2 * channels.visible, 2 * channels.hidden, channels.groups, graph)
    real = np.empty(0, problem.dtype).real.dtype
    return replace(problem, channels=pairs, dtype=real.name, itemsize=real.itemsize)


def _empty(problem: Problem, role: Role) -> Array:
    """An array for a role that lies as engines like it, hidden channels innermost."""
    order = _lying_well(problem, role)
    return np.empty([problem.shape(role)[axis] for axis in order], problem.dtype).transpose(np.argsort(order))


def _lying_well(problem: Problem, role: Role) -> tuple[int, ...]:
    """The physical order of the axes of channels-last arrays, and of weights as layers keep them."""
    rank = problem.geometry.rank
    return weight_order(rank, problem.geometry.banked) if role is Role.WEIGHT else (0, *range(2, 2 + rank), 1)


@lru_cache(maxsize=KEPT_ORDERS)
def _expected(problem: Problem, well: bool = True) -> Way:
    """The best way for arrays that lie well; or as PyTorch's and NumPy's do, channels before positions."""
    strides = []
    for role in ROLES:
        shape = problem.shape(role)
        order = _lying_well(problem, role) if well else tuple(range(len(shape)))
        strides.append(Buffer(shape, (0,) * len(shape), order).layout.steps)
    return best_way(problem, tuple(strides), finite=True)


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well."""
    return 1e-5 + _expected(_some(problem)).seconds()


def workspace(problem: Problem) -> int:
    """Padded copies of operands, the result in another order, tables while they are made; of complex numbers, pairs."""
    inner = _some(problem)
    copied = max(_expected(inner, well).copied for well in (True, False))
    pairs = 3 * inner.bytes if problem.complex else 0
    return copied + pairs + 3 * tables(problem)


def tables(problem: Problem) -> int:
    """Tiles and taps."""
    return sum(40 * cut.tiles + 16 * cut.taps for cut in _expected(_some(problem)).cuts())


ENGINE = Engine("direct", takes_all, cost, workspace, tables, build)
