"""float32 numbers as sums of two of bfloat16, by the processor's own products of small matrices (AMX).

x = high + low + rest, where high is x rounded to bfloat16, low what that leaves over, rounded too: |low| ≤ 2⁻⁸ |x| and
|rest| ≤ 2⁻¹⁷ |x|. A product is taken as high · high + high · low + low · high, each exact in float32, which leaves out
low · low and rests: about 2⁻¹⁵ |product| at most or, root mean square on random operands, 4.5 · 10⁻⁶ of it, and of sums
no more (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence
datatype for higher-precision computations", section II). What sums of n add is as of float32's own, n · 2⁻²⁴
Σ|products|. The instructions take numbers too small to be normal as zero, and leave none; so numbers are only split
that are far from that (2⁻⁶² to 2⁵⁰ of the data, or of a gradient's hidden; from 2⁻⁴⁰ on of a weight, or of a gradient's
visible) or zero. Where an operand has another, an infinity or a NaN, that is found while it is copied, and the problem
is computed as written. Groups of channels are problems of their own, but for a gradient.

Two neighbours of what is summed lie side by side: visible channels of a convolution, hidden ones of its transpose, and
examples of a weight's gradient. That takes one operand with its positions innermost; with a stride of 1, whichever
costs less to copy so, as T(v, w, h) = T(h, flip w, v).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..after import After
from ..channels import Channels
from ..coefficients import coefficients, depending, moving
from ..engine import KEPT_ORDERS, MUCH, Array, Engine, Run, met, nothing, on_met
from ..form import Problem, Role
from ..kept import Kept

if TYPE_CHECKING:
    from ..kernels.gradients import Gradient
    from ..kernels.halves import Halves

SIZE = 4
"""Bytes of a number, and of a pair of halves."""


def why_not(problem: Problem) -> tuple[str, ...]:
    if problem.dtype != "float32":
        return (f"it splits float32, not {problem.dtype}",)
    from ..kernels.matrices import LEAST, SIDE, at_a_time
    from ..kernels.target import target

    summed, _ = _channels(problem)
    other = turned(problem)
    fits = _fits(problem) or (other is not None and _fits(other))
    bordered = any(axis.border != "zero" for axis in problem.geometry.axes)
    few = at_a_time(max(summed // 2, 1)) < LEAST
    reasons = {
        "this processor multiplies no matrices of bfloat16 (amx)": not target().matrices,
        'precision="highest" forbids to leave out what is small': problem.precision == "highest",
        "needs whole groups of channels": problem.channels.mask is not None,
        "needs one kernel for all positions": problem.geometry.banked,
        "what lies on a border is added up elsewhere": problem.produces is Role.VISIBLE and bordered,
        f"needs at most {SIDE} channels of a group's result, or a multiple": not fits,
    }
    if problem.produces is Role.WEIGHT:
        from ..kernels.gradients import hindrances

        reasons |= {f"needs pairs of examples, not {problem.batch}": problem.batch % 2 == 1, **hindrances(problem)}
    else:
        reasons |= {
            f"needs pairs of channels, not {summed} to a sum": summed % 2 == 1,
            f"needs {LEAST} to {SIDE} pairs of channels at a time": few,
        }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _channels(problem: Problem) -> tuple[int, int]:
    """How many a sum has, and how many a group of the result has: rows and columns of a weight's gradient."""
    channels = problem.channels
    each = channels.visible // channels.groups, channels.hidden // channels.groups
    return each[::-1] if problem.produces is Role.VISIBLE else each


def _fits(problem: Problem) -> bool:
    """Whether a group's result has columns of matrices, or few."""
    from ..kernels.matrices import fill_columns

    return fill_columns(_channels(problem)[1])


def pairs(problem: Problem) -> Problem:
    """The problem of a group on pairs of channels, or of all groups on pairs of examples."""
    from ..kernels.words import SPLIT

    summed, made = _channels(problem)
    if problem.produces is Role.WEIGHT:
        return replace(problem, batch=problem.batch // 2, dtype=SPLIT, itemsize=SIZE)
    both = (summed // 2, made) if problem.produces is Role.HIDDEN else (made, summed // 2)
    return replace(problem, channels=Channels(*both), dtype=SPLIT, itemsize=SIZE)


def turned(problem: Problem) -> Problem | None:
    """A gradient as one of operands in each other's place, for the flipped kernel; of stride 1, without groups.

    None where some of the hidden meets only zeros, as they would not be copied, and it may be infinite.
    """
    axes, channels = problem.geometry.axes, problem.channels
    if problem.produces is not Role.WEIGHT or channels.groups > 1:
        return None
    if any(axis.stride > 1 or axis.border != "zero" or not axis.every_window_sees for axis in axes):
        return None
    geometry = replace(problem.geometry, axes=tuple(axis.mirrored for axis in axes))
    return replace(problem, geometry=geometry, channels=Channels(channels.hidden, channels.visible))


def _turned(visible: Array, hidden: Array, weight: Array) -> list[Array]:
    """The arrays as such a problem has them."""
    flipped = (slice(None, None, -1),) * (weight.ndim - 2)
    return [hidden, visible, weight.swapaxes(0, 1)[:, :, *flipped]]


def _axes(problem: Problem) -> tuple[int | None, int | None, int | None]:
    """The axis of the visible, the hidden and the weight along which pairs are; none of the result."""
    return {Role.HIDDEN: (1, None, 1), Role.VISIBLE: (None, 1, 0), Role.WEIGHT: (0, 0, None)}[problem.produces]


def build(problem: Problem) -> Run:
    return nothing if problem.batch == 0 else on_met(problem, _build)


def _build(problem: Problem) -> Run:
    """The problem on arrays as they are given, or on views of what is met."""
    from ..kernels.halves import prepared
    from ..kernels.prepared import aligned, apart, paired
    from ..kernels.ways import ROLES, arguments

    turns = _best(problem, True)[1]
    inner = turned(problem) if turns else problem
    assert inner is not None
    ready = lru_cache(maxsize=KEPT_ORDERS)(partial(prepared, pairs(inner), turns))
    produced, given_at, axes = ROLES.index(problem.produces), arguments(problem), _axes(problem)
    every = [tuple(_of_group(problem, role, number) for role in ROLES) for number in range(_apart(problem))]

    def one(given: list[Array], kept: Kept | None, after: After | None) -> bool | None:
        given = _turned(*given) if turns else given
        visible, hidden, weight = (paired(array.strides, axis, SIZE) for array, axis in zip(given, axes, strict=True))
        steps = after.steps if after is not None and after.fits(given[produced]) else None
        best = ready((visible, hidden, weight), steps)
        able = best.run(given, kept, after.arrays if best.finishes and after is not None else ())
        if able and after is not None and not best.finishes:
            after.apply(given[produced])
        return able

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> bool | None:
        numbers = aligned(a), aligned(b), aligned(out)
        given = [numbers[number] for number in given_at]
        given = [apart(array, axis) for array, axis in zip(given, axes, strict=True)]
        if len(every) == 1:
            able = one(given, kept, after)
        else:
            own = [None] * len(every) if kept is None else kept.of("groups", lambda: [Kept() for _ in every])
            parts = [[array[where] for array, where in zip(given, group, strict=True)] for group in every]
            able = all(one(some, known, None) for some, known in zip(parts, own, strict=True))
            if able and after is not None:
                after.apply(given[produced])
        if given[produced] is not out:
            out[...] = given[produced]
        return able

    return run


def _apart(problem: Problem) -> int:
    """How many groups are problems of their own."""
    return 1 if problem.produces is Role.WEIGHT else problem.channels.groups


def _of_group(problem: Problem, role: Role, number: int) -> tuple[slice, ...]:
    """Where the channels of a group are in an array; of a weight, those of the hidden."""
    channels, axis = problem.channels, 0 if role is Role.WEIGHT else 1
    each = (channels.visible if role is Role.VISIBLE else channels.hidden) // channels.groups
    return (*(slice(None),) * axis, slice(number * each, (number + 1) * each))


def _choice(problem: Problem, well: bool) -> tuple[Halves | Gradient, bool]:
    """The bands or chunks for arrays that lie well, or as PyTorch's and NumPy's do, channels before positions; and
    whether operands are in each other's place."""
    some = replace(problem, batch=max(problem.batch, 1 + (problem.produces is Role.WEIGHT)))
    innermost = 1 if well else 1 + some.geometry.rank
    return _best(met(some, tuple(int(axis == innermost) for axis in range(2 + some.geometry.rank)))[0], well)


@depending(KEPT_ORDERS)
def _best(some: Problem, well: bool) -> tuple[Halves | Gradient, bool]:
    """The same for a problem of which every position is met."""
    from ..kernels.halves import chosen
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES

    inner, steps = pairs(some), list[tuple[int, ...]]()
    for role in ROLES:
        shape = inner.shape(role)
        order = inner.order(role) if well else tuple(range(len(shape)))
        steps.append(Buffer(shape, (0,) * len(shape), order).layout.steps)
    found = [(chosen(inner, tuple(steps)), False)] if _fits(some) else []
    if (other := turned(some)) is not None and _fits(other):
        visible, hidden, (o, i, *taps) = steps
        found.append((chosen(pairs(other), (hidden, visible, (i, o, *(-step for step in taps))), True), True))
    if len(found) > 1 and not well:  # which of them is so for all arrays
        return found[_best(some, True)[1]]
    return min(found, key=lambda one: one[0].seconds()) if len(found) > 1 else found[0]


def _expected(problem: Problem, well: bool) -> Halves | Gradient:
    """The bands, or the chunks."""
    return _choice(problem, well)[0]


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well, and those in which they come and go where they are not near."""
    seconds = coefficients().winograd_called + _expected(problem, True).seconds()  # stages, as Winograd has
    return _apart(problem) * seconds + moving(problem.bytes)


def workspace(problem: Problem) -> int:
    """The weight's halves, those of a band for each thread, and the result in another order or in pieces."""
    found = [_expected(problem, well) for well in (False, True)]
    return max(one.whole.copied + SIZE * one.scratch for one in found) + 2 * tables(problem)


def most(problem: Problem) -> int:
    """Copies of arrays in any memory order."""
    return MUCH * problem.padded + 2 * tables(problem)


def tables(problem: Problem) -> int:
    """Tiles and taps of each band."""
    return _expected(problem, True).tables


def describe(problem: Problem) -> str:
    """The bands or chunks, what vectors run over, the tiles, of pairs."""
    found, turns = _choice(problem, True)
    groups = f"{_apart(problem)} groups, each of " if _apart(problem) > 1 else ""
    return groups + found.described + (" in each other's place" if turns else "")


ENGINE = Engine(
    "split", why_not, cost, workspace, tables, build, spreads=True, dtypes=("float32",), describe=describe, most=most
)
