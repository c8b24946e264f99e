"""float32 numbers as sums of two of bfloat16, by the processor's own products of small matrices (AMX).

x = high + low + rest, where high is x rounded to bfloat16, low what that leaves over, rounded too: |low| ≤ 2⁻⁸ |x| and
|rest| ≤ 2⁻¹⁷ |x|. A product is taken as high · high + high · low + low · high, each exact in float32, which leaves out
low · low and rests: about 2⁻¹⁵ |product| at most or, root mean square on random operands, 4.5 · 10⁻⁶ of it, and of sums
no more (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence
datatype for higher-precision computations", section II). What sums of n add is as of float32's own, n · 2⁻²⁴
Σ|products|. The instructions take numbers too small to be normal as zero, and leave none; so numbers are only split
that are far from that (2⁻⁶² to 2⁵⁰ of the data, or of a gradient's hidden; from 2⁻⁴⁰ on of a weight, or of a gradient's
visible) or zero. Where an operand has another, an infinity or a NaN, that is found while it is copied, and the problem
is computed as written.

Two neighbours of what is summed lie side by side: visible channels of a convolution, hidden ones of its transpose, and
examples of a weight's gradient. Where channels are odd or few, a convolution takes the lines of its windows as they
lie, all channels of all taps, and so does a transpose of stride 1, as one with the flipped kernel. A gradient's pairs
take one operand with its positions innermost; with a stride of 1, whichever costs less to copy so, as
T(v, w, h) = T(h, flip w, v).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..after import After
from ..channels import Channels
from ..coefficients import coefficients, depending, moving
from ..engine import KEPT_ORDERS, MUCH, Array, Engine, Run, met, nothing, on_met
from ..form import Problem, Role
from ..kept import Kept
from ..kernels.lines import Lines, are_lines, in_lines, lines

if TYPE_CHECKING:
    from ..kernels.gradients import Gradient
    from ..kernels.halves import Halves
    from ..kernels.ways import Strides

SIZE = 4
"""Bytes of a number, and of a pair of halves."""


def why_not(problem: Problem) -> tuple[str, ...]:
    if problem.dtype != "float32":
        return (f"it splits float32, not {problem.dtype}",)
    from ..kernels.matrices import LEAST
    from ..kernels.registers import SIDE
    from ..kernels.target import target

    bordered = any(axis.border != "zero" for axis in problem.geometry.axes)
    reasons = {
        "this processor multiplies no matrices of bfloat16 (amx)": not target().matrices,
        'precision="highest" forbids to leave out what is small': problem.precision == "highest",
        "needs whole groups of channels": problem.channels.mask is not None,
        "needs one kernel for all positions": problem.geometry.banked,
        "what lies on a border is added up elsewhere": problem.produces is Role.VISIBLE and bordered,
    }
    if problem.produces is Role.WEIGHT:
        from ..kernels.gradients import hindrances

        other = turned(problem)
        fits = _fits(problem) or (other is not None and _fits(other))
        reasons |= {
            f"needs pairs of examples, not {problem.batch}": problem.batch % 2 == 1,
            f"needs at most {SIDE} channels of a group's result, or a multiple": not fits,
            **hindrances(problem),
        }
    else:
        summed = f"{_channels(problem)[0]} channels to a sum"
        reasons |= {f"needs {LEAST} to {SIDE} pairs at a time of {summed}, or of lines of windows": not _parts(problem)}
    return tuple(reason for reason, holds in reasons.items() if holds)


def _channels(problem: Problem) -> tuple[int, int]:
    """How many a sum has, and how many a group of the result has: rows and columns of a weight's gradient."""
    channels = problem.channels
    each = channels.visible // channels.groups, channels.hidden // channels.groups
    return each[::-1] if problem.produces is Role.VISIBLE else each


def _fits(problem: Problem) -> bool:
    """Whether a gradient's columns are those of matrices, or few."""
    from ..kernels.matrices import fill_columns

    return fill_columns(_channels(problem)[1])


@dataclass(frozen=True)
class Part:
    """Some of a problem's sums as a problem of their own."""

    problem: Problem
    """Theirs, on pairs."""
    lines: Lines | None = None
    """Of which positions, if pairs lie along lines of windows."""


def _parts(problem: Problem) -> tuple[Part, ...]:
    """The parts of a problem: all of it, or lines of windows of a convolution; none if pairs are too few."""
    from ..kernels.matrices import LEAST, at_a_time
    from ..kernels.words import SPLIT

    if problem.produces is Role.WEIGHT:
        return (Part(replace(problem, batch=problem.batch // 2, dtype=SPLIT, itemsize=SIZE)),)
    (summed, _), channels = _channels(problem), problem.channels
    if summed > 1 and summed % 2 == 0 and at_a_time(summed // 2) >= LEAST:
        which = "visible" if problem.produces is Role.HIDDEN else "hidden"
        halved = replace(channels, **{which: getattr(channels, which) // 2})
        return (Part(replace(problem, channels=halved, dtype=SPLIT, itemsize=SIZE)),)
    flipped = problem if problem.produces is Role.HIDDEN else _exchanged(problem, Role.HIDDEN)
    found = () if flipped is None else lines(flipped, SPLIT, SIZE)
    fill = all(at_a_time(one.problem.geometry.axes[-1].kernel) >= LEAST for one in found)
    return tuple(Part(one.problem, lines=one) for one in found) if fill else ()


def _exchanged(problem: Problem, produces: Role) -> Problem | None:
    """A problem with the visible and the hidden in each other's place, for the flipped kernel; of stride 1 and without
    groups, else none."""
    axes, channels = problem.geometry.axes, problem.channels
    if channels.groups > 1 or any(axis.stride > 1 or axis.border != "zero" for axis in axes):
        return None
    geometry = replace(problem.geometry, axes=tuple(axis.mirrored for axis in axes))
    channels = Channels(channels.hidden, channels.visible)
    return replace(problem, produces=produces, geometry=geometry, channels=channels)


def _flipped(weight: Array) -> Array:
    """The kernel flipped, its channels in each other's place."""
    return weight.swapaxes(0, 1)[(slice(None), slice(None), *(slice(None, None, -1),) * (weight.ndim - 2))]


def turned(problem: Problem) -> Problem | None:
    """A gradient as one of operands in each other's place, for the flipped kernel; of stride 1, without groups.

    None where some of the hidden meets only zeros, as they would not be copied, and it may be infinite.
    """
    if problem.produces is not Role.WEIGHT or not all(axis.every_window_sees for axis in problem.geometry.axes):
        return None
    return _exchanged(problem, Role.WEIGHT)


def _turned(visible: Array, hidden: Array, weight: Array) -> list[Array]:
    """The arrays as such a problem has them."""
    return [hidden, visible, _flipped(weight)]


def _axes(problem: Problem) -> tuple[int | None, int | None, int | None]:
    """The axis of the visible, the hidden and the weight along which pairs are; none of the result."""
    return {Role.HIDDEN: (1, None, 1), Role.VISIBLE: (None, 1, 0), Role.WEIGHT: (0, 0, None)}[problem.produces]


def build(problem: Problem) -> Run:
    return nothing if problem.batch == 0 else on_met(problem, _build)


def _build(problem: Problem) -> Run:
    """The problem on arrays as they are given, or on views of what is met."""
    from ..kernels.prepared import aligned, apart
    from ..kernels.ways import ROLES, arguments

    turns = _best(problem, True)[1]
    asked = turned(problem) if turns else problem
    assert asked is not None
    every = _parts(asked)
    if any(part.lines for part in every):
        return _build_lines(problem, every)
    produced, given_at, axes = ROLES.index(problem.produces), arguments(problem), _axes(problem)
    one = _ready(every[0].problem, turns, axes)

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> bool | None:
        numbers = aligned(a), aligned(b), aligned(out)
        given = [numbers[number] for number in given_at]
        given = [apart(array, axis) for array, axis in zip(given, axes, strict=True)]
        able = one(_turned(*given) if turns else given, kept, after)
        if given[produced] is not out:
            out[...] = given[produced]
        return able

    return run


def _build_lines(problem: Problem, parts: tuple[Part, ...]) -> Run:
    """The same for lines of windows: of a transpose, those of its convolution."""
    from ..kernels.prepared import aligned, in_order

    found = [part.lines for part in parts if part.lines]
    last = 1 + problem.geometry.rank
    ready = [_ready(one.problem, False, (last, None, last)) for one in found]

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> bool | None:
        data, result = aligned(a), aligned(out)
        if not are_lines(data.strides, data.shape[1], SIZE):
            data = in_order(data, problem.order(Role.HIDDEN))
        data, weight = in_lines(data), b if problem.produces is Role.HIDDEN else _flipped(b)
        for one, line, own in zip(ready, found, _each(kept, len(found)), strict=True):
            positions = (..., line.where)
            kernels = line.weight(weight) if own is None else own.of("lines", partial(line.weight, weight))
            finish = None if after is None else after.of(positions)
            if not one([data, result[positions], kernels], own, finish):
                return False
        if result is not out:
            out[...] = result
        return True

    return run


Ready = Callable[[list[Array], Kept | None, After | None], bool | None]


def _ready(inner: Problem, turns: bool, axes: tuple[int | None, int | None, int | None]) -> Ready:
    """What runs a problem on pairs along these axes of arrays in the order of ROLES; its operands are in each other's
    place?"""
    from ..kernels.halves import prepared
    from ..kernels.prepared import paired
    from ..kernels.ways import ROLES

    ready = lru_cache(maxsize=KEPT_ORDERS)(partial(prepared, inner, turns))
    produced = ROLES.index(inner.produces)

    def run(given: list[Array], kept: Kept | None, after: After | None) -> bool | None:
        visible, hidden, weight = (paired(array.strides, axis, SIZE) for array, axis in zip(given, axes, strict=True))
        steps = after.steps if after is not None and after.fits(given[produced]) else None
        best = ready((visible, hidden, weight), steps)
        able = best.run(given, kept, after.arrays if best.finishes and after is not None else ())
        if able and after is not None and not best.finishes:
            after.apply(given[produced])
        return able

    return run


def _each(kept: Kept | None, many: int) -> list[Kept] | list[None]:
    """What is kept of each part."""
    if kept is None:
        return [None] * many
    found: list[Kept] = [kept] if many == 1 else kept.of("parts", lambda: [Kept() for _ in range(many)])
    return found


def _choice(problem: Problem, well: bool) -> tuple[tuple[Halves | Gradient, ...], bool]:
    """The bands or chunks of each part for arrays that lie well, or as PyTorch's and NumPy's do, channels before
    positions; and whether operands are in each other's place."""
    some = replace(problem, batch=max(problem.batch, 1 + (problem.produces is Role.WEIGHT)))
    innermost = 1 if well else 1 + some.geometry.rank
    return _best(met(some, tuple(int(axis == innermost) for axis in range(2 + some.geometry.rank)))[0], well)


@depending(KEPT_ORDERS)
def _best(some: Problem, well: bool) -> tuple[tuple[Halves | Gradient, ...], bool]:
    """The same for a problem of which every position is met."""
    from ..kernels.halves import chosen

    if some.produces is Role.WEIGHT:
        best, turns = _of_gradient(some, well)
        return (best,), turns
    return tuple(chosen(part.problem, _steps(part.problem, well)) for part in _parts(some)), False


def _of_gradient(some: Problem, well: bool) -> tuple[Halves | Gradient, bool]:
    """The chunks, and whether they are of operands in each other's place."""
    from ..kernels.halves import chosen

    (part,), other = _parts(some), turned(some)
    steps = visible, hidden, (o, i, *taps) = _steps(part.problem, well)
    found = [(chosen(part.problem, steps), False)] if _fits(some) else []
    if other is not None and _fits(other):
        strides = hidden, visible, (i, o, *(-step for step in taps))
        found.append((chosen(_parts(other)[0].problem, strides, True), True))
    if len(found) > 1 and not well:  # which of them is so for all arrays
        return found[_best(some, True)[1]]
    return min(found, key=lambda one: one[0].seconds()) if len(found) > 1 else found[0]


def _steps(inner: Problem, well: bool) -> tuple[Strides, ...]:
    """Those of arrays that lie well, or channels before positions."""
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES

    orders = [inner.order(role) if well else tuple(range(len(inner.shape(role)))) for role in ROLES]
    shapes = [inner.shape(role) for role in ROLES]
    return tuple(
        Buffer(shape, (0,) * len(shape), order).layout.steps for shape, order in zip(shapes, orders, strict=True)
    )


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well, and those in which they come and go where they are not near."""
    parts, _ = _choice(problem, True)
    called = coefficients().winograd_called  # stages, as Winograd has
    return sum(called + part.seconds() for part in parts) + moving(problem.bytes)


def workspace(problem: Problem) -> int:
    """The weight's halves, those of a band for each thread, the result in another order or in pieces; with lines, the
    data in order, and the weight's lines and halves of each, which may be kept."""
    found = [part for well in (False, True) for part in _choice(problem, well)[0]]
    along = [part.problem for part in _parts(problem) if part.lines]
    more = sum(4 * one.bytes_of(Role.WEIGHT) for one in along) + bool(along) * problem.bytes_of(problem.operands[0])
    return max(one.whole.copied + SIZE * one.scratch for one in found) + more + 2 * tables(problem)


def most(problem: Problem) -> int:
    """Copies of arrays in any memory order."""
    return MUCH * problem.padded + 2 * tables(problem)


def tables(problem: Problem) -> int:
    """Tiles and taps of each band."""
    return sum(part.tables for part in _choice(problem, True)[0])


def describe(problem: Problem) -> str:
    """The bands or chunks, what vectors run over, the tiles, of pairs."""
    (found, *others), turns = _choice(problem, True)
    several = f"{1 + len(others)} times " if others else ""
    kind = f"{several}lines of windows in " if any(part.lines for part in _parts(problem)) else ""
    return kind + found.described + (" in each other's place" if turns else "")


ENGINE = Engine(
    "split", why_not, cost, workspace, tables, build, spreads=True, dtypes=("float32",), describe=describe, most=most
)
