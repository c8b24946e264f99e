"""Where tensors lie in memory: the physical order of the axes, outermost first."""

from __future__ import annotations

from collections.abc import Sequence


def order_of(shape: Sequence[int], steps: Sequence[int]) -> list[int]:
    """The axes of a tensor of such steps as they lie in memory, the outermost first.

    They are as written where the tensor repeats itself. Of axes with the same step the longer is the outer one: an axis
    of length one may have any step.
    """
    axes = list(range(len(shape)))
    if 0 in steps:
        return axes
    return sorted(axes, key=lambda axis: (-steps[axis], -shape[axis]))


def strides_of(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The steps of a dense tensor of a shape whose axes lie in an order."""
    steps, step = [1] * len(shape), 1
    for axis in reversed(order):
        steps[axis] = step
        step = step * max(shape[axis], 1)
    return tuple(steps)
