"""Convolutions on pairs of numbers along the lines of their windows, for channels that are odd, or too few for pairs.

Where the channels of a position lie before those of the next one, a line of a window is one run of count · kernel
numbers, which begins count · stride behind that of the position before: a problem of one channel. If count · stride is
odd, every other window begins with the second number of a pair. Then positions of even and of odd number are problems
of their own, in which windows begin with pairs, one of them with a zero before the weight's line. The data's lines
have to be whole pairs: else their last number would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..form import Problem, Role
from ..geometry import Axis

Array = NDArray[Any]


@dataclass(frozen=True)
class Lines:
    """Every so many-th position of a convolution."""

    problem: Problem
    """Theirs, on pairs."""
    front: int
    """Zeros before the weight's lines."""
    where: slice
    """Which of the last axis's positions they are."""

    def weight(self, weight: Array) -> Array:
        """The weight's lines with zeros before and behind, hidden channels innermost."""
        given, size = in_lines(weight), 2 * self.problem.geometry.axes[-1].kernel
        found = np.moveaxis(np.zeros((*given.shape[1:-1], size, len(given)), given.dtype), -1, 0)
        found[..., self.front : self.front + given.shape[-1]] = given
        return found


def lines(problem: Problem, dtype: str, itemsize: int) -> tuple[Lines, ...]:
    """The problems of a convolution on pairs of such a dtype; none where lines of windows are no runs of pairs."""
    from .registers import SIDE

    axes, channels = problem.geometry.axes, problem.channels
    if problem.produces is not Role.HIDDEN or not axes or problem.geometry.banked:
        return ()
    *others, last = axes
    count = channels.visible
    no_runs = channels.groups > 1 or channels.mask is not None or last.kernel == 1 or last.dilation > 1
    if no_runs or last.border != "zero" or count * last.visible % 2:
        return ()
    many = 1 + count * last.stride % 2
    found = []
    for first in range(min(many, last.hidden)):
        begin, front = divmod(count * int(last.position(first, 0)), 2)
        size = -(-(front + count * last.kernel) // 2)
        at_a_time = -(-size // -(-size // SIDE))  # with zeros behind, so that matrices have as many pairs each
        along = Axis(
            count * last.visible // 2,
            -(-(last.hidden - first) // many),
            -(-size // at_a_time) * at_a_time,
            many * count * last.stride // 2,
            before=-begin,
        )
        geometry = replace(problem.geometry, axes=(*others, along))
        whole = replace(problem, geometry=geometry, channels=replace(channels, visible=1))
        found.append(Lines(replace(whole, dtype=dtype, itemsize=itemsize), front, slice(first, None, many)))
    return tuple(found)


def in_lines(array: Array) -> Array:
    """The array with its channels along the last axis, those of a position before those of the next one."""
    return np.moveaxis(array, 1, -1).reshape(len(array), 1, *array.shape[2:-1], -1)


def are_lines(strides: tuple[int, ...], count: int, itemsize: int) -> bool:
    """Whether so many channels of a position come before those of the next one: that is a view of the array."""
    return (count == 1 or strides[1] == itemsize) and strides[-1] == count * itemsize


def along_lines(problem: Problem) -> bool:
    """Whether it is one of these, on halves: no other convolution on pairs has a single channel."""
    from .words import SPLIT

    return problem.dtype == SPLIT and problem.produces is Role.HIDDEN and problem.channels.visible == 1
