"""A stride-1 problem as a correlation: one array is seen, one is made, a kernel joins them; and its tiles.

    made[n, o, c] = Σ_{i,k}  kernel[o, i, k] · seen[n, i, c + e∘k − p]

A convolution sees the visible and makes the hidden. Its transpose sees the hidden and makes the visible, with the
kernel flipped. The weight's gradient is the convolution with the kernel as what is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..form import Problem, Role
from ..geometry import Axis
from .transform import JOB

Table = NDArray[np.int64]
Strides = tuple[int, ...]


@dataclass(frozen=True)
class Correlation:
    """The sizes of a correlation, and how far its arrays step, in numbers."""

    axes: tuple[Axis, ...]
    batch: int
    groups: int
    inputs: int
    """Channels that a group sees."""
    outputs: int
    """Channels that a group makes."""
    seen: Strides
    made: Strides
    kernel: Strides
    """Of the kernel's outputs, inputs and taps."""
    first_tap: int
    """Where the first tap of the kernel is, which lies last where it is flipped."""
    across: int
    """How far the kernels of a group are from those of the next."""

    @classmethod
    def of(cls, problem: Problem, visible: Strides, hidden: Strides, weight: Strides) -> Correlation:
        """The correlation of a problem whose arrays step so."""
        channels, axes = problem.channels, problem.geometry.axes
        inputs, outputs = channels.weight[1], channels.hidden // channels.groups
        by_hidden, by_visible, *taps = weight
        if problem.produces is not Role.VISIBLE:
            across = outputs * by_hidden
            return cls(axes, problem.batch, channels.groups, inputs, outputs, visible, hidden, weight, 0, across)
        kernel = (by_visible, by_hidden, *(-step for step in taps))
        last = sum(step * (axis.kernel - 1) for step, axis in zip(taps, axes, strict=True))
        mirrored = tuple(axis.mirrored for axis in axes)
        across = outputs * by_hidden
        return cls(mirrored, problem.batch, channels.groups, outputs, inputs, hidden, visible, kernel, last, across)

    def steps(self, strides: Strides) -> Strides:
        """How far the positions of a tile are apart."""
        return tuple(axis.dilation * step for axis, step in zip(self.axes, strides[2:], strict=True))

    def jobs(self, strides: Strides, sizes: Sequence[int], even: bool, channels: int, back: bool) -> Table:
        """The jobs of the transforms of all tiles, example by example: of what is seen, or of what is made.

        `strides` tell which; the other side, which is scratch, is left for the caller.
        """
        made = strides is self.made
        found = np.zeros((self.batch, JOB + 2 * len(self.axes)), np.int64)
        here = 1 if back else 0
        found[:, here] = np.arange(self.batch) * strides[0]
        found[:, 2:4] = channels, 1
        for number, (axis, size) in enumerate(zip(self.axes, sizes, strict=True)):
            tiles = axis.tiles(size, even)
            span = size if made else size + axis.kernel - 1
            own = np.zeros((len(tiles), found.shape[1]), np.int64)
            own[:, here] = [strides[2 + number] * (tile.hidden if made else tile.visible) for tile in tiles]
            ends = [tile.made if made else tile.seen for tile in tiles]
            own[:, JOB + 2 * number : JOB + 2 * number + 2] = ends
            inside = np.array([end == (0, span) for end in ends])
            found = (found[:, None] + own[None]).reshape(-1, found.shape[1])
            found[:, 3] &= np.tile(inside, len(found) // len(tiles))
        return found

    def shorter(self, sizes: Sequence[int]) -> NDArray[np.bool_]:
        """Which of all even tiles are shorter, along each axis."""
        tiles = (axis.tiles(size, True) for axis, size in zip(self.axes, sizes, strict=True))
        own = [[tile.made[1] < size for tile in some] for some, size in zip(tiles, sizes, strict=True)]
        found = np.stack(np.meshgrid(*own, indexing="ij"), axis=-1).reshape(-1, len(own))
        return np.tile(found, (self.batch, 1))

    def kernel_jobs(self, wide: int, back: bool) -> Table:
        """The jobs of the transforms of all kernels, by (group, panel of outputs, input)."""
        panels = -(-self.outputs // wide)
        found = np.zeros((self.groups, panels, self.inputs, JOB + 2 * len(self.axes)), np.int64)
        g, q = np.arange(self.groups)[:, None, None], np.arange(panels)[:, None]
        i = np.arange(self.inputs)
        where = g * self.across + q * wide * self.kernel[0] + i * self.kernel[1]
        found[..., 1 if back else 0] = self.first_tap + where
        found[..., 2] = np.minimum(self.outputs - q * wide, wide)
        found[..., 3] = 1
        found[..., JOB + 1 :: 2] = [axis.kernel for axis in self.axes]
        return found
