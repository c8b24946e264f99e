"""Edges that a tile knows of: which of the numbers that it reads of A lie outside, and are zeros that nobody stored.

A tile's places in A are those of its rows and steps together. Along an axis they have few positions, and each has a bit
in a word that comes with the tile: whether it is outside there. So all tiles are one kernel and take their turns in the
order of memory, and nothing is copied to have zeros around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .index import Index, Table

BITS = 62
"""Of a word, its sign left alone."""

Position = tuple[int, ...]
"""Along each axis that has edges."""


@dataclass(frozen=True)
class Edge:
    """An axis of A with positions from 0 to before its size, and the one that the first turn of all loops reads."""

    size: int
    first: int


def positions(loops: Sequence[Index], axes: int) -> list[Position]:
    """Where every combination of the loops' turns is, from the first on."""
    places = product(*(range(loop.count) for loop in loops))
    return [
        tuple(
            sum(i * loop.move for i, loop in zip(place, loops, strict=True) if loop.axis == axis)
            for axis in range(axes)
        )
        for place in places
    ]


@dataclass(frozen=True)
class Edges:
    """The bits of a kind of tile: along each axis one for each position that its places have there."""

    edges: tuple[Edge, ...]
    bits: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, edges: Sequence[Edge], rows: Sequence[Position], steps: Sequence[Position]) -> Edges:
        """Those of some rows and steps."""
        axes = range(len(edges))
        each = [[{place[axis] for place in places} for places in (rows, steps)] for axis in axes]
        return cls(tuple(edges), tuple(tuple(sorted({a + b for a in own for b in met})) for own, met in each))

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.bits))

    def of_place(self, row: Position, step: Position) -> int:
        """The bits of which none may be set if a place is to be read."""
        found, first = 0, 0
        for own, a, b in zip(self.bits, row, step, strict=True):
            found |= 1 << (first + own.index(a + b))
            first += len(own)
        return found

    def of_tiles(self, corners: Table) -> Table:
        """The words of tiles, whose corners are given along each axis."""
        found, first = np.zeros(len(corners), np.int64), 0
        for edge, own, corner in zip(self.edges, self.bits, corners.T, strict=True):
            for number, position in enumerate(own, first):
                at = corner + (edge.first + position)
                found |= ((at < 0) | (at >= edge.size)).astype(np.int64) << number
            first += len(own)
        return found
