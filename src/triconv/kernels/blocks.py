"""Data as rows of matrices whose columns are positions: pairs of them lie innermost, a matrix's at a time.

Positions of a stride's residue follow each other, each with some examples, so that every matrix has as many columns as
it can, however short lines are: x · many + example. Where numbers are split, high halves come before the low ones of
each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import prod

from ..geometry import OUTSIDE, Axis
from .copy import AS_THEY_ARE, Dim, Move, Stored
from .layout import placed
from .registers import SIDE

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """A copy of some examples and lines of an array: panels of channels, lines, residues, blocks, channels, pairs."""

    examples: int
    """Pairs of them, as many as divide a block."""
    channels: int
    panel: int
    """How many of them lie side by side."""
    lines: tuple[int, ...]
    """How many there are along each axis but the last."""
    residues: tuple[int, ...]
    """Of the stride along the last axis, those that a tap meets."""
    stride: int
    turns: int
    """Positions of each residue, with those that fill up the last block."""
    low: int
    """How far low halves are behind the high ones of a row; 0 if numbers have none."""

    @property
    def each(self) -> int:
        """How many positions a block has."""
        return SIDE // self.examples

    @property
    def count(self) -> int:
        """How many blocks a residue of a line has."""
        return self.turns // self.each

    @property
    def row(self) -> int:
        """How far rows are apart."""
        return SIDE + self.low

    @cached_property
    def steps(self) -> tuple[int, int, int, tuple[int, ...]]:
        """How far apart blocks are, residues, panels, and lines along each axis."""
        block = self.row * self.panel
        residue = block * self.count
        line, lines = residue * len(self.residues), list[int]()
        for many in reversed(self.lines):
            lines.insert(0, line)
            line *= many
        return block, residue, line, tuple(lines)

    @property
    def size(self) -> int:
        """The numbers of the copy."""
        return self.row * self.channels * self.count * len(self.residues) * prod(self.lines)

    def fill(
        self,
        shape: Strides,
        steps: Strides,
        axes: tuple[Axis | None, ...],
        begin: Strides,
        dtype: str,
        how: Stored | None,
    ) -> Move:
        """The copy of an array of this shape and these steps, from a position of each axis on, in pairs."""
        block, residue, panel, lines = self.steps
        _, channel, *along, position = steps
        around = [
            Dim(((0, 0, self.examples),), steps[0], 1),
            Dim(((0, 0, self.panel),), channel, self.row),
            Dim(((0, 0, self.channels // self.panel),), channel * self.panel, panel),
        ]
        for size, room, first, axis, step, to in zip(shape[2:-1], self.lines, begin, axes, along, lines, strict=False):
            around.append(Dim(tuple(placed(size, room, -first, axis)), step, to))
        far, found = self.stride * position, list[Move]()
        for number, own in enumerate(self.residues):
            at = begin[-1] + own
            there = [0 <= at + turn * self.stride < shape[-1] for turn in range(self.turns)]
            for first, many, inside in self._alike(there):
                source, target = (at + first * self.each * self.stride) * position, number * residue + first * block
                runs = [Dim(tuple(inside), far, self.examples), Dim(((0, 0, many),), far * self.each, block)]
                move = Move.of([*around, *runs], dtype, how or AS_THEY_ARE)
                found.append(move.moved(source, target))
        move = Move.joined(found, dtype).as_read()
        return move.halves(self.low) if self.low else move

    def _alike(self, there: list[bool]) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """Blocks next to each other of which the same positions are there: the first, how many, and which those are."""
        cut = [tuple(there[n : n + self.each]) for n in range(0, len(there), self.each)]
        first = 0
        for own, same in groupby(cut):
            many, place, runs = len(list(same)), 0, list[tuple[int, int, int]]()
            for inside, run in groupby(own):
                length = len(list(run))
                runs.append((place if inside else OUTSIDE, place, length))
                place += length
            yield first, many, runs
            first += many
