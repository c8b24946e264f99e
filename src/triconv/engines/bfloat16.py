"""bfloat16 operands as they are stored, two at a time, by the processor's own products of pairs.

Two neighbours of what is summed are one number of 32 bits: visible channels of a convolution, hidden ones of its
transpose, examples of a kernel's gradient. So it is the direct engine's contraction of a problem with half as many of
them, whose product of two numbers is a sum of two products. Of an odd number of channels one would be alone: where they
are innermost, a convolution takes the lines of its windows as they lie instead, all channels of all taps. Where the
processor multiplies small matrices of pairs, tiles are such matrices if pairs of a sum are neighbours; for a gradient,
positions and examples are copied so. Products of bfloat16 are exact in float32, so a sum of n is off by at most
n · 2⁻²⁴ Σ|products|, as float32's own are, before it is rounded once, by at most 2⁻⁸ of it. The instructions take
numbers too small to be normal (below 2⁻¹²⁶) as zero and leave none: up to 2⁻¹²⁶ more for every sum of a product, and
2⁻¹²⁶ times the other factor for every such operand, or NaN if that is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..after import After
from ..channels import Channels
from ..coefficients import coefficients, depending, moving
from ..engine import KEPT_ORDERS, MUCH, Array, Engine, Run, in_channels, nothing, on_channels
from ..form import Problem, Role
from ..kept import Kept
from ..kernels.layout import Buffer
from ..kernels.lines import Lines, are_lines, in_lines, lines
from ..memory import KEPT_STRIDES, LINE, address

if TYPE_CHECKING:
    from ..kernels.gradients import Gradient
    from ..kernels.prepared import Prepared
    from ..kernels.ways import Strides, Way

HALF, PAIR = 2, 4
"""Bytes of a number, and of two."""


def why_not(problem: Problem) -> tuple[str, ...]:
    if problem.dtype != "bfloat16":
        return (f"it multiplies bfloat16, not {problem.dtype}",)
    from ..kernels.target import target

    reasons = {
        "this processor multiplies no pairs of bfloat16 (avx512_bf16)": not target().pairs,
        'precision="highest" keeps numbers that are too small to be normal': problem.precision == "highest",
        "a channel graph sums one product at a time": problem.channels.mask is not None,
        f"there are no two {_summed(problem)} to a sum": _count(problem) < 2,
        "what lies on a border is added up in float32": problem.produces is Role.VISIBLE
        and any(axis.border != "zero" for axis in problem.geometry.axes),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _summed(problem: Problem) -> str:
    """What pairs are made of."""
    return {Role.HIDDEN: "visible channels", Role.VISIBLE: "hidden channels", Role.WEIGHT: "examples"}[problem.produces]


def _count(problem: Problem) -> int:
    """How many of them one sum has."""
    channels = problem.channels
    each = {
        Role.HIDDEN: channels.visible // channels.groups,
        Role.VISIBLE: channels.hidden // channels.groups,
        Role.WEIGHT: problem.batch,
    }
    return each[problem.produces]


def _axes(problem: Problem) -> tuple[int, int]:
    """The axis of each operand along which pairs are."""
    lead = problem.geometry.rank * problem.geometry.banked
    return {Role.HIDDEN: (1, lead + 1), Role.VISIBLE: (1, lead), Role.WEIGHT: (0, 0)}[problem.produces]


def pairs(problem: Problem) -> Problem:
    """The problem on pairs; an odd one has a zero beside it."""
    from ..kernels.words import PAIRS

    channels, half = problem.channels, -(-_count(problem) // 2)
    groups, batch = channels.groups, problem.batch
    match problem.produces:
        case Role.HIDDEN:
            channels = Channels(half * groups, channels.hidden, groups)
        case Role.VISIBLE:
            channels = Channels(channels.visible, half * groups, groups)
        case Role.WEIGHT:
            batch = half
    return replace(problem, channels=channels, batch=batch, dtype=PAIRS, itemsize=PAIR)


def _lines(problem: Problem) -> Lines | None:
    """The lines of a convolution's windows, if fewer pairs are left with one number then, and one problem has all."""
    from ..kernels.words import PAIRS

    axes = problem.geometry.axes
    worth = _count(problem) % 2 == 1 and any(axis.kernel > 1 for axis in axes[-1:])
    found = lines(problem, PAIRS, PAIR) if worth else ()
    return found[0] if len(found) == 1 else None


def _bits(array: Array) -> Array:
    """The same numbers by another name, by which NumPy copies them faster."""
    return array.view(np.uint16)


@lru_cache(maxsize=KEPT_STRIDES)
def _follow(strides: Strides, count: int, place: int) -> bool:
    """Whether so many channels of a position come before those of the next one, and lines begin where a pair can."""
    others = [place, strides[0], *strides[2:-1]]
    return are_lines(strides, count, HALF) and not any(step % PAIR for step in others)


def build(problem: Problem) -> Run:
    return on_channels(problem, _build) if problem.batch else nothing


def _build(problem: Problem) -> Run:
    from ..kernels.finite import all_finite
    from ..kernels.prepared import apart, paired, prepared
    from ..kernels.ways import arguments

    def readied(inner: Problem) -> Callable[[tuple[Strides, ...], tuple[int, ...], bool, bool], Prepared]:
        @lru_cache(maxsize=KEPT_ORDERS)
        def ready(strides: tuple[Strides, ...], others: tuple[int, ...], finite: bool, in_line: bool) -> Prepared:
            return prepared(inner, strides, finite, in_line, others)

        return ready

    count, along = _count(problem), _lines(problem)
    by_channels, by_lines = readied(pairs(problem)), None if along is None else readied(along.problem)
    banked = problem.produces is Role.WEIGHT and problem.geometry.banked
    given_at = arguments(problem)

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> None:
        ready, axes = by_channels, _axes(problem)
        # In lines, zeros of the weight meet what other windows see.
        if along and by_lines and _follow(a.strides, count, address(a) % PAIR) and all_finite(a):
            ready, axes = by_lines, (a.ndim - 1, a.ndim - 1)
            a, b = in_lines(a), along.weight(_bits(b))
        elif count % 2:
            a, b = _even(a, axes[0], count), _even(b, axes[1], count)
        numbers = *(_aligned(apart(one, axis)) for one, axis in zip((a, b), axes, strict=True)), _aligned(out)
        a, b, result = numbers
        lying = (
            paired(a.strides, axes[0], HALF, address(a) % PAIR),
            paired(b.strides, axes[1], HALF, address(b) % PAIR),
            paired(result.strides, None, HALF),
        )
        strides, others = zip(*(lying[number] for number in given_at), strict=True)
        # Of a gradient some pairs of examples may be taken at a time.
        arrays = (_in_twos(a), _in_twos(b), result) if problem.produces is Role.WEIGHT else numbers
        given = [arrays[number] for number in given_at]
        in_line = banked and address(result) % LINE == 0  # of bfloat16 nothing else goes past the caches
        if not ready(strides, others, True, in_line).tried(given, kept):
            ready(strides, others, False, in_line).run(given)
        if result is not out:
            out[...] = result
        if after is not None:
            after.apply(out)

    return run


def _aligned(array: Array) -> Array:
    """The array, or a copy where its numbers do not lie on multiples of their size."""
    return array if _on_halves(address(array) % HALF, array.strides) else array.copy()


@lru_cache(maxsize=KEPT_STRIDES)
def _on_halves(*steps: int | Strides) -> bool:
    return not any(np.hstack(steps) % HALF)


def _even(array: Array, axis: int, count: int) -> Array:
    """The array with a zero behind every so many along an axis."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    groups = _bits(array).reshape(*before, array.shape[axis] // count, count, *after)
    found = np.zeros_like(groups, shape=(*before, groups.shape[axis], count + 1, *after))
    into, given = np.moveaxis(found, axis + 1, 0), np.moveaxis(groups, axis + 1, 0)
    if count < FEW:  # NumPy's inner loops would be as short
        for one, other in zip(into, given, strict=False):
            one[...] = other
    else:
        into[:count] = given
    return found.reshape(*before, -1, *after)


FEW = 8
"""Numbers that are copied faster one after the other than together."""


def _in_twos(array: Array) -> Array:
    """The array with an axis of two behind that of the examples."""
    return array.reshape(-1, 2, *array.shape[1:])


@depending(KEPT_ORDERS)
def _expected(problem: Problem, well: bool) -> tuple[Way, tuple[Strides, ...]]:
    """The best way for arrays that lie well; or as PyTorch's and NumPy's do, channels before positions; and how."""
    from ..kernels.ways import ROLES, best_way

    some = in_channels(replace(problem, batch=max(problem.batch, 2)))
    inner = along.problem if well and (along := _lines(some)) else pairs(some)
    strides, copied = [], {Role.VISIBLE, Role.HIDDEN, Role.WEIGHT} - {problem.produces}
    for role in ROLES:
        shape = inner.shape(role)
        order = inner.order(role) if well or role is Role.WEIGHT else tuple(range(len(shape)))
        if well and Role.WEIGHT not in (role, problem.produces):
            copied -= {role}
        strides.append(Buffer(shape, (0,) * len(shape), order).layout.steps)
    return best_way(inner, tuple(strides), True, frozenset(copied)), tuple(strides)


def _found(problem: Problem) -> tuple[Way, Gradient | None]:
    """The best way for arrays that lie well, and the chunks of a gradient if these are better."""
    from ..kernels.gradients import of_pairs

    way, strides = _expected(problem, True)
    return way, of_pairs(way, strides)


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well, and those in which they, and copies, come and go where they are not near."""
    from ..kernels.chunks import seconds

    way, found = _found(problem)
    return coefficients().called + (seconds(way) if found is None else found.seconds()) + moving(problem.bytes)


def workspace(problem: Problem) -> int:
    """Operands made even, copies with pairs put together, the result in float32 or in pieces of that, tables."""
    from ..kernels.prepared import scratch

    copied = max(scratch(*_expected(problem, well)) for well in (True, False))
    even = sum(2 * problem.bytes_of(role) for role in problem.operands) if _count(problem) % 2 else 0
    return even + 2 * problem.bytes_of(problem.produces) + copied + 3 * tables(problem)


def most(problem: Problem) -> int:
    """Copies of arrays in any memory order, in any pieces."""
    return MUCH * replace(problem, batch=max(2, problem.batch)).padded + 3 * tables(problem)


def tables(problem: Problem) -> int:
    """Tiles and taps."""
    way, found = _found(problem)
    return sum(40 * cut.tiles + 16 * cut.taps for cut in way.cuts()) if found is None else found.tables


def describe(problem: Problem) -> str:
    """What vectors run over, the tiles, what is copied first; of pairs."""
    from ..kernels.chunks import described

    way, found = _found(problem)
    return described(way) if found is None else found.described


ENGINE = Engine("bfloat16", why_not, cost, workspace, tables, build, dtypes=("bfloat16",), describe=describe, most=most)
