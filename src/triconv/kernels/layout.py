"""How an array lies in memory, and the copies that make it lie as a kernel wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import OUTSIDE, Axis

if TYPE_CHECKING:
    from .copy import Dim, Move, Stored

Array = NDArray[Any]
Pieces = list[tuple[int, int, int, int]]
"""(source, target, size, stride of the source) along an axis; what has no source is zero."""


@dataclass(frozen=True)
class Layout:
    """The step, in numbers, along each axis of an array.

    Where `split` is not 1, the last axis is cut into residues: position p is p // split steps into residue p % split,
    so that every split-th position is a neighbour. Where `panel` is not 0, an axis of that many neighbours at a time
    is cut into panels, which are `panel_step` apart.
    """

    steps: tuple[int, ...]
    split: int = 1
    residue: int = 0
    panel: int = 0
    panel_step: int = 0
    low: int = 0
    """How far low halves of numbers are behind the high ones, if numbers are split."""

    def at(self, axis: int, position: int) -> int:
        """How far a position along an axis is from the first."""
        if self.split == 1 or axis != len(self.steps) - 1:
            return self.steps[axis] * position
        return position % self.split * self.residue + position // self.split * self.steps[axis]

    def step(self, axis: int, positions: int) -> int:
        """How far so many positions are, wherever they begin."""
        if self.split == 1 or axis != len(self.steps) - 1:
            return self.steps[axis] * positions
        assert positions % self.split == 0, "neighbours of different residues are not evenly spaced"
        return positions // self.split * self.steps[axis]


@dataclass(frozen=True)
class Apart:
    """Parts of an axis: how many, and that the b-th begins at first + b·step of the array's positions."""

    axis: int
    count: int
    first: int
    step: int

    def stretches(self, size: int, room: int) -> Iterator[tuple[int, int, list[tuple[int, int, bool]]]]:
        """Positions of the parts, from one to the next, where the same parts lie in an array of this size.

        With each come the ranges of parts, and whether they lie in the array.
        """
        begins = [self.first + b * self.step for b in range(self.count)]
        inside = [(min(max(-begin, 0), room), min(max(size - begin, 0), room)) for begin in begins]
        for low, high in pairwise(sorted({0, room, *(edge for both in inside for edge in both)})):
            there = [begin <= low < end for begin, end in inside]
            edges = [0, *(b for b in range(1, self.count) if there[b] != there[b - 1]), self.count]
            yield low, high, [(first, last, there[first]) for first, last in pairwise(edges)]


@dataclass(frozen=True)
class Buffer:
    """A contiguous array that stands for an operand or a result, with its axes in another order, and padded.

    `shape` is of the array's axes with the padding, of which `before` goes before the array's first entry; where that
    is negative, so many entries go before the buffer's first.
    """

    shape: tuple[int, ...]
    before: tuple[int, ...]
    order: tuple[int, ...]
    split: int = 1
    panel: int = 0
    """Where it is not 0, the last axis in order is cut into panels of so many, which lie one after the other."""
    gap: int = 0
    """Numbers left free after each turn of the last axis in order, or after each panel."""
    apart: Apart | None = None
    """Where an axis is cut into parts, which are further examples."""
    halves: bool = False
    """Whether low halves of numbers follow the high ones of each turn of the last axis in order, or of a panel."""

    @property
    def turns(self) -> int:
        """How many positions of the last axis each residue has."""
        return -(-self.shape[-1] // self.split)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape with the last axis filled up to a multiple of the split."""
        return (*self.shape[:-1], self.turns * self.split) if self.shape else ()

    @cached_property
    def size(self) -> int:
        last, numbers = self.sizes[self.order[-1]] if self.order else 1, prod(self.sizes)
        turns = last // self.panel if self.panel else numbers // max(last, 1)
        return (1 + self.halves) * numbers + turns * self.gap

    @property
    def low(self) -> int:
        """How far low halves are behind the high ones; 0 if numbers have none."""
        return (self.panel or self.sizes[self.order[-1]]) * self.halves

    @property
    def layout(self) -> Layout:
        steps = [0] * len(self.order)
        step = 1
        for axis in reversed(self.order):
            steps[axis] = step
            last = axis == self.order[-1]
            turn = self.panel if self.panel and last else self.sizes[axis] + self.gap * last
            step *= turn + self.low * last
        residue = steps[-1] * self.turns if self.split > 1 else 0
        panel_step = step + self.gap if self.panel else 0
        return Layout(tuple(steps), self.split, residue, self.panel, panel_step, self.low)

    def fill(
        self,
        shape: Sequence[int],
        steps: Sequence[int],
        axes: Sequence[Axis | None],
        dtype: str,
        stored: Stored | None = None,
    ) -> Move:
        """The copy of an array of this shape and these steps into the buffer, extended by the axes' borders."""
        from .copy import AS_THEY_ARE, Dim, Move

        how = stored or AS_THEY_ARE
        sizes = zip(shape, self.shape, self.before, axes, strict=True)
        pieces = [placed(*each) for each in sizes]
        if self.split > 1:
            pieces[-1] = self._by_residue(pieces[-1])
        own = self.layout
        dims = [Dim(tuple(found), step, to) for found, step, to in zip(pieces, steps, own.steps, strict=True)]
        if self.apart is not None:
            boxes = self._boxes(shape, steps, dims, filled=True)
            return Move.joined([Move.of(box, dtype, how) for box in boxes], dtype)
        if self.panel:
            last = self.order[-1]
            panels = Dim(((0, 0, self.shape[last] // self.panel),), steps[last] * self.panel, own.panel_step)
            dims[last : last + 1] = [panels, Dim(((0, 0, self.panel),), steps[last], 1)]
        move = Move.of(dims, dtype, how)
        return move.halves(self.low) if self.halves else move

    def drain(
        self, shape: Sequence[int], steps: Sequence[int], dtype: str, stored: Stored | None = None
    ) -> list[tuple[Move, int, int]]:
        """The copies of the buffer, which has no padding, to an array of this shape and these steps.

        Each residue has a copy of its own, with where it begins in the buffer and along the array's last axis.
        """
        from .copy import AS_THEY_ARE, Move

        own, how = self.layout, stored or AS_THEY_ARE
        if self.apart is not None:
            dims = self._made(shape, own.steps, steps)
            boxes = self._boxes(shape, steps, dims, filled=False)
            return [(Move.joined([Move.of(box, dtype, how) for box in boxes], dtype), 0, 0)]
        found = []
        for residue in range(min(self.split, shape[-1])):
            sizes = (*shape[:-1], -(-(shape[-1] - residue) // self.split))
            to = (*steps[:-1], steps[-1] * self.split)
            dims = self._made(sizes, own.steps, to)
            found.append((Move.of(dims, dtype, how), residue * own.residue, residue))
        return found

    def _made(self, shape: Sequence[int], own: Sequence[int], steps: Sequence[int]) -> list[Dim]:
        """The dims of a copy to an array of this shape and these steps, of what the buffer has of it."""
        from .copy import Dim

        found = []
        for size, room, before, step, to in zip(shape, self.shape, self.before, own, steps, strict=True):
            found.append(Dim(((0, -before, min(size + before, room)),), step, to))
        return found

    def _boxes(self, shape: Sequence[int], steps: Sequence[int], dims: list[Dim], filled: bool) -> Iterator[list[Dim]]:
        """The dims of the copies of parts: those from the array, zeros included, or those to it."""
        from .copy import Dim

        assert self.apart is not None
        parts, own, axis = self.apart, self.layout.steps, self.apart.axis
        across, along = steps[axis] * parts.step, own[0] * shape[0]
        steps_of_examples = (steps[0], own[0]) if filled else (own[0], steps[0])
        for low, high, ranges in parts.stretches(shape[axis], self.shape[axis]):
            for first, last, inside in ranges:
                at, many, size = parts.first + first * parts.step + low, last - first, high - low
                found = [Dim(((0, 0, shape[0]),), *steps_of_examples), *dims[1:]]
                if filled:
                    found[axis] = Dim(((at if inside else OUTSIDE, low, size),), steps[axis], own[axis])
                    yield [*found, Dim(((0, first, many),), across, along)]
                elif inside:
                    found[axis] = Dim(((low, at, size),), own[axis], steps[axis])
                    yield [*found, Dim(((first, 0, many),), along, across)]

    def fold(self, flat: Array, out: Array, axes: Sequence[Axis | None]) -> None:
        """Write what was computed to where it belongs; what lies on a border is added to where the border reads."""
        view = flat.reshape([self.sizes[axis] for axis in self.order]).transpose(np.argsort(self.order))
        if self.split > 1:
            view = np.moveaxis(view.reshape(*view.shape[:-1], self.split, -1), -1, -2).reshape(self.sizes)
            view = view[..., : self.shape[-1]]
        for number, axis in enumerate(axes):
            if axis is not None and axis.border != "zero":
                view = _fold(view, number, axis)
        out[...] = view

    def _by_residue(self, pieces: Pieces) -> Pieces:
        """The same pieces for a last axis that is cut into residues."""
        found = []
        for source, target, size, stride in pieces:
            for first in range(min(self.split, size)):
                residue, turn = (target + first) % self.split, (target + first) // self.split
                many = -(-(size - first) // self.split)
                begin = OUTSIDE if source == OUTSIDE else source + first * stride
                found.append((begin, residue * self.turns + turn, many, stride * self.split))
        return found


def placed(size: int, room: int, before: int, axis: Axis | None) -> Pieces:
    """What goes where along an axis of `room` positions, of which the array's begin after `before`."""
    if axis is not None and axis.border != "zero" and (before, room) == (axis.before, axis.reach):
        return _stretches(axis.extension)
    skipped, before = max(0, -before), min(max(0, before), room)  # all that is read may lie before the first entry
    inside = max(0, min(size - skipped, room - before))
    after = before + inside
    return [(OUTSIDE, 0, before, 1), (skipped, before, inside, 1), (OUTSIDE, after, room - after, 1)]


def _stretches(sources: NDArray[np.intp]) -> Pieces:
    """The pieces of a table of sources, evenly stepping ones together."""
    found: Pieces = []
    for target, source in enumerate(map(int, sources)):
        if found:
            first, start, size, stride = found[-1]
            if size == 1 or source == first + size * stride:
                found[-1] = first, start, size + 1, source - first if size == 1 else stride
                continue
        found.append((source, target, 1, 1))
    return found


def _fold(extended: Array, number: int, axis: Axis) -> Array:
    """The adjoint of extending an axis by its border."""
    along = extended.swapaxes(0, number)
    inside = np.zeros_like(along, shape=(axis.visible, *along.shape[1:]))
    for position, source in enumerate(axis.extension):
        inside[source] += along[position]
    return inside.swapaxes(0, number)
