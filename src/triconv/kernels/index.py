"""Loops over three strided arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """A loop: how often, and how far it steps in A, B and C, in numbers; one of a nest runs over vectors."""

    count: int
    a: int
    b: int
    c: int
    vector: bool = False
    axis: int = -1
    """The axis of A along which its turns are, if that has edges which tiles know of."""
    move: int = 0
    """By how many positions."""

    @property
    def row(self) -> bool:
        """Whether its turns are rows of a tile: they leave B alone."""
        return self.b == 0 and not self.vector

    @property
    def column(self) -> bool:
        """Whether its turns are columns of a tile: they leave A alone."""
        return self.a == 0 and self.b != 0 and not self.vector

    @property
    def alone(self) -> bool:
        """Whether its turns share nothing, and each has tiles of its own."""
        return self.a != 0 and self.b != 0 and not self.vector

    def around(self, inner: Index) -> bool:
        """Whether this loop around another one is one longer loop."""
        steps = ((self.a, inner.a), (self.b, inner.b), (self.c, inner.c))
        return not self.vector and self.axis == inner.axis == -1 and all(step == inner.count * by for step, by in steps)


def merged(loops: Sequence[Index]) -> tuple[Index, ...]:
    """The same loops, with those of one turn left out and those that are one longer loop made one."""
    kept: list[Index] = []
    for loop in reversed(loops):
        if kept and loop.count > 1 and loop.around(kept[-1]):
            kept[-1] = replace(kept[-1], count=loop.count * kept[-1].count)
        elif loop.count > 1 or loop.vector:
            kept.append(loop)
    return tuple(reversed(kept))


def divisors(number: int) -> list[int]:
    """Into how many equal parts so many turns can be cut."""
    return [n for n in range(1, number + 1) if number % n == 0]


def outer_sum(*parts: Any) -> Table:
    """Rows of fields, summed for every combination of one row from each part, the last part running fastest."""
    total = np.asarray(parts[0], dtype=np.int64)
    for part in parts[1:]:
        rows = np.asarray(part, dtype=np.int64).reshape(-1, total.shape[1])
        total = (total[:, None, :] + rows[None, :, :]).reshape(-1, total.shape[1])
    return total


def offsets(loops: Sequence[Index], array: str) -> list[int]:
    """Where every combination of the loops' turns is in an array."""
    steps = [getattr(loop, array) for loop in loops]
    places = product(*(range(loop.count) for loop in loops))
    return [sum(i * step for i, step in zip(place, steps, strict=True)) for place in places]
