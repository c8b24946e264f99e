"""What an engine is: a way to compute the operations, and what it says of itself before it computes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .after import After
from .arrays import COMPUTED, STORED
from .form import Problem, Role
from .kept import Kept
from .memory import empty

Array = NDArray[Any]

KEPT_ORDERS = 8
"""How many memory orders of a problem an engine keeps ready."""

MUCH = 16
"""How many times as large as arrays, padded, all copies of them never are."""


class Run(Protocol):
    """Compute what an engine was built for."""

    def __call__(
        self, a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None, /
    ) -> bool | None:
        """Write the operation on a and b, in the order of `form.OPERANDS`, over the whole of out.

        The operands have the problem's dtype and shapes and any strides; out is fresh, overlaps neither, and may hold
        anything. bfloat16, which NumPy does not know by itself, may also be called an integer of as many bits.
        Infinities and NaN travel as IEEE says, without a warning. With `kept`, what was made of the weight, if it is an
        operand, is used again. `after` is done to the result, which is no weight then.

        One that `spreads` returns whether the result is finite and to be trusted, if it knows; if not, `after` is left
        to its caller.
        """


@dataclass(frozen=True)
class Engine:
    """One algorithm, as data.

    why_not(problem) lists the reasons why it cannot take the problem; empty means that it can.
    cost(problem) estimates the seconds of one call. workspace(problem) is the most bytes a call allocates besides
    the result. build(problem) does all that needs no array and returns the callable, which holds tables(problem) bytes;
    ask once, call often.
    """

    name: str
    why_not: Callable[[Problem], tuple[str, ...]]
    cost: Callable[[Problem], float]
    workspace: Callable[[Problem], int]
    tables: Callable[[Problem], int]
    build: Callable[[Problem], Run]
    spreads: bool = False
    """Whether an infinity or NaN reaches results that it should not, or there are numbers that it cannot take. Then
    what is not finite, or not to be trusted, as its callable says, is computed again."""
    dtypes: tuple[str, ...] = COMPUTED
    """What it takes. Where that is what a dtype that is only stored is computed in, it takes that as such."""
    describe: Callable[[Problem], str] = lambda _: ""
    """How it would compute a problem that it can take, on arrays that lie well: the blocks it has chosen, in words."""
    least: Callable[[Problem], float] = lambda _: 0.0
    """Seconds that `cost` is not below, where these are known sooner."""
    modest: Callable[[Problem], bool] = lambda _: True
    """Whether it takes no more than `Problem.extra`; asked of one that may take many times that."""
    most: Callable[[Problem], int] | None = None
    """Bytes that `workspace` is not above, where these are known sooner."""

    def own(self, problem: Problem) -> Problem:
        """The problem as it would be computed: of a dtype that is only stored, in another one that the engine takes."""
        wider = widened(problem)
        return problem if problem.dtype in self.dtypes or wider.dtype not in self.dtypes else wider


def widened(problem: Problem) -> Problem:
    """The problem in the dtype that numbers of its own, if that is only stored, are computed in."""
    wider = STORED.get(problem.dtype)
    return problem if wider is None else replace(problem, dtype=wider, itemsize=np.dtype(wider).itemsize)


def quiet(run: Callable[[Array, Array, Array], None]) -> Run:
    """A callable that computes with NumPy, without its warnings: infinities and NaN are values here, not accidents.

    It makes nothing of a weight that would be worth keeping.
    """

    def quietly(a: Array, b: Array, out: Array, _kept: Kept | None = None, after: After | None = None) -> None:
        with np.errstate(all="ignore"):
            run(a, b, out)
        if after is not None:
            after.apply(out)

    return quietly


def nothing(_a: Array, _b: Array, out: Array, _kept: Kept | None = None, _after: After | None = None) -> bool:
    """A sum over no examples."""
    out[...] = 0
    return True


def takes_all(_problem: Problem) -> tuple[str, ...]:
    """The `why_not` of an engine that is total."""
    return ()


def on_met(problem: Problem, build: Callable[[Problem], Run]) -> Run:
    """What an engine builds for a problem: on views of the visible positions that are met, if some are not."""
    if problem.produces is Role.VISIBLE or not any(axis.met for axis in problem.geometry.axes):
        return build(problem)
    ready = lru_cache(maxsize=KEPT_ORDERS)(build)

    def run(
        visible: Array, other: Array, out: Array, kept: Kept | None = None, after: After | None = None
    ) -> bool | None:
        inner, where = met(problem, tuple(step // problem.itemsize for step in visible.strides))
        return ready(inner)(visible[where], other, out, kept, after)

    return run


def met(problem: Problem, steps: tuple[int, ...]) -> tuple[Problem, tuple[slice, ...]]:
    """The problem of those visible positions alone that are met, and where they are in a visible of these steps.

    All positions stay of an axis whose neighbours lie side by side: every other number takes longer to copy.
    """
    axes = problem.geometry.axes
    fewer = [axis.met if abs(step) != 1 else None for axis, step in zip(axes, steps[2:], strict=True)]
    if problem.produces is Role.VISIBLE or not any(fewer):
        return problem, (slice(None),) * len(steps)
    found = tuple(own or axis for own, axis in zip(fewer, axes, strict=True))
    inner = replace(problem, geometry=replace(problem.geometry, axes=found))
    where = (slice(0, axis.reach, axis.stride) if own else slice(None) for own, axis in zip(fewer, axes, strict=True))
    return inner, (slice(None), slice(None), *where)


def in_channels(problem: Problem) -> Problem:
    """The problem whose channels are those of all positions, along axes of which the only window is all there is.

    A sum over such an axis is one over channels: nothing is shared between windows, nor is there a border.
    """
    axes, channels = problem.geometry.axes, problem.channels
    apart = channels.groups > 1 or channels.mask is not None or problem.geometry.banked
    if apart or not any(axis.is_one_window for axis in axes):
        return problem
    count = channels.visible * prod(axis.kernel for axis in axes if axis.is_one_window)
    one = tuple(replace(axis, visible=1, kernel=1, stride=1) if axis.is_one_window else axis for axis in axes)
    return replace(problem, geometry=replace(problem.geometry, axes=one), channels=replace(channels, visible=count))


def on_channels(problem: Problem, build: Callable[[Problem], Run]) -> Run:
    """What an engine builds for a problem: for one of more channels, if they lie so in the weight."""
    inner = in_channels(problem)
    if inner is problem:
        return build(problem)
    ready = lru_cache(maxsize=2)(build)
    spanned = tuple(2 + number for number, axis in enumerate(problem.geometry.axes) if axis.is_one_window)
    shape, transposed = inner.shape(Role.VISIBLE), problem.produces is Role.VISIBLE

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> bool | None:
        array = dict(zip((*problem.operands, problem.produces), (a, b, out), strict=True))
        weight, visible = array[Role.WEIGHT], array[Role.VISIBLE]
        order = sorted((1, *spanned), key=lambda axis: -weight.strides[axis])
        if not _joins(weight, order):
            return ready(problem)(a, b, out, kept, after)
        array[Role.WEIGHT] = _joined(weight, order, inner.shape(Role.WEIGHT))
        view = _joins(visible, order)
        array[Role.VISIBLE] = empty(shape, visible.dtype) if transposed and not view else _joined(visible, order, shape)
        first, second, result = (array[role] for role in (*problem.operands, problem.produces))
        found = ready(inner)(first, second, result, kept, None if transposed else after)
        if transposed and not view:
            into = _foremost(visible, order)
            into[...] = array[Role.VISIBLE].reshape(into.shape)
        if transposed and after is not None:
            after.apply(out)
        return found

    return run


def _foremost(array: Array, order: Sequence[int]) -> Array:
    """With some axes right behind the first."""
    return array.transpose(0, *order, *(axis for axis in range(1, array.ndim) if axis not in order))


def _joins(array: Array, order: Sequence[int]) -> bool:
    """Whether axes follow each other in memory, in this order."""
    steps = [(array.strides[axis], array.shape[axis]) for axis in order]
    return all(step == size * inner for (step, _), (inner, size) in pairwise(steps))


def _joined(array: Array, order: Sequence[int], shape: tuple[int, ...]) -> Array:
    """With some axes as one; a copy if they do not follow each other."""
    return _foremost(array, order).reshape(shape)
