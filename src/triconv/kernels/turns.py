"""The order of tiles: what they read again should be near by then."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .index import Index, Table, outer_sum
from .nest import Cut
from .target import cache_bytes

SLOWER = 3
"""How much longer a number of B takes than one of A that comes from beyond the caches: it is asked for later."""


def in_turn(cut: Cut, sizes: Sequence[int], starts: Sequence[Table], itemsize: int) -> Table:
    """Where tiles of these sizes start inside of the corners, in the order in which they take turns.

    As they come, either rows are innermost, which all meet the same columns of B while these stay in the first-level
    cache, or columns, of a B that stays in the second. Where the columns of a tile are too many for the first, and all
    rows of A too many for the second, columns take turns around as few rows as are best.
    """
    inner = list(zip(cut.results, sizes, starts, strict=True))[cut.outer :]
    none = np.zeros((1, cut.nest.corners.shape[1]), np.int64)
    if not _alike(cut, [loop for loop, *_ in inner]):
        return outer_sum(none, *(at for *_, at in inner))
    rows, columns = (outer_sum(none, *(at for loop, _, at in inner if loop.row is row)) for row in (True, False))
    width = prod(size for loop, size, _ in inner if not loop.row)
    itemsize *= 1 + cut.nest.split
    blocks = min(len(rows), _blocks(cut, [loop for loop, *_ in inner], width, len(rows), len(columns), itemsize))
    if blocks == 1:
        return outer_sum(none, *(at for *_, at in inner))
    if blocks == len(rows):
        return outer_sum(rows, columns)
    return np.concatenate([outer_sum(columns, some) for some in np.array_split(rows, blocks)])


def _alike(cut: Cut, inner: Sequence[Index]) -> bool:
    """Whether every tile is of some rows and some columns that others have too, and is written once."""
    return not (
        cut.adds or cut.nest.ordered or cut.nest.once or cut.depth.vector or any(loop.a and loop.b for loop in inner)
    )


def _blocks(cut: Cut, inner: Sequence[Index], width: int, high: int, wide: int, itemsize: int) -> int:
    """Into how many blocks to cut the rows, which are so many tiles `high` and `wide`."""
    first, second = (size // 2 for size in cache_bytes())
    deep = cut.depth.count * cut.taps
    span = sum((loop.count - 1) * abs(loop.a) for loop in (*inner, cut.depth, *cut.others))
    of_a = itemsize * min(span, deep * prod(loop.count for loop in inner if loop.row))
    each = itemsize * deep * width
    if each <= first or of_a <= second:
        return 1
    if each * wide <= second:
        return high
    blocks = -(-of_a // second)
    return blocks if SLOWER * each * wide * (blocks - 1) < of_a * (wide - 1) else 1
