"""Which tiles have which of the products of minimal filtering, where some tiles are one shorter than others.

The product at infinity is part of a tile's last result alone: a tile that is one shorter does without it. So tiles that
cover an axis evenly, of which some are shorter, have fewer products than those of which the last reaches beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .index import Index


class Share(NamedTuple):
    """Products that some tiles have."""

    counts: tuple[int, ...]
    """How many along each axis."""
    steps: tuple[int, ...]
    """How far they are apart there, among all products of a tile."""
    first: int
    """The first of them."""
    tiles: range

    @property
    def products(self) -> int:
        return prod(self.counts) * len(self.tiles)

    def loops(self, a: int, b: int, c: int) -> list[Index]:
        """Over the products, which are so far apart in A, B and C."""
        steps = [(step * a, step * b, step * c) for step in self.steps]
        return [Index(count, *own) for count, own in zip(self.counts, steps, strict=True)]


def in_shares(counts: Sequence[int], shorter: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[Share]]:
    """An order of tiles in which those of each share are neighbours, and the shares; infinity comes last on each axis.

    `shorter` tells which tiles are, along each axis. Two axes at most are shared, those along which most tiles are:
    then there is such an order.
    """
    many, steps = shorter.mean(axis=0), tuple(prod(counts[axis + 1 :]) for axis in range(len(counts)))
    mixed = sorted((axis for axis, part in enumerate(many) if 0 < part < 1), key=many.take)
    shared = mixed[:-3:-1]
    order, found = np.arange(len(shorter)), list[Share]()
    if shared:
        # Along the first axis longer tiles come first; along the second, if there is one, they are in the middle.
        one, other = shorter[:, shared[0]], shorter[:, shared[-1]]
        order = np.lexsort((one == other, one))
    for at_infinity in product((False, True), repeat=len(shared)):
        own, begin, without = list(counts), 0, np.zeros(len(shorter), bool)
        for axis, infinite in zip(shared, at_infinity, strict=True):
            own[axis] = 1 if infinite else counts[axis] - 1
            if infinite:
                begin += (counts[axis] - 1) * steps[axis]
                without |= shorter[:, axis]
        (there,) = np.nonzero(~without[order])
        found.append(Share(tuple(own), steps, begin, range(int(there[0]), int(there[-1]) + 1)))
    return order, found
