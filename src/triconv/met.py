"""Problems on those positions of the visible alone that windows meet: all others of a stride beyond a kernel of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from .after import After
from .engine import KEPT_ORDERS, Array, Run
from .form import Problem, Role
from .kept import Kept


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
