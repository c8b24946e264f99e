"""The order of tiles: the same tiles, and as near to each other as the caches want."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from triconv.kernels import turns
from triconv.kernels.index import Index
from triconv.kernels.nest import Nest, cut
from triconv.kernels.program import tiled
from triconv.kernels.target import target


@pytest.mark.parametrize(
    ("of_a", "panel", "panels", "blocks"),
    [
        (2048, 8, 8, 1),  # a panel of columns stays in the first-level cache
        (128, 24, 8, 1),  # all rows stay in the second
        (2048, 24, 1, 1),  # no other columns are there to take turns
        (2048, 24, 4, None),  # all columns stay in the second: they take turns around each tile of rows
        (2048, 24, 8, 16),  # rows in blocks that stay in the second
        (2048, 64, 8, 1),  # columns would be read again more often than rows are now
    ],
)
def test_rows_take_turns_where_they_are_near(
    of_a: int, panel: int, panels: int, blocks: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a product of matrices of so many KB, in caches of 32 and 256 KB: as often as B's panel changes."""
    monkeypatch.setattr(turns, "cache_bytes", lambda: (32 << 10, 256 << 10))
    lanes = target().lanes(4)
    width = 2 * lanes
    depth = (panel << 10) // (4 * width)
    rows = (of_a << 10) // (4 * depth)
    results = (
        Index(panels, 0, depth * width, width),
        Index(width, 0, 1, 1, True),
        Index(rows, depth, 0, panels * width),
    )
    corners, taps = np.array([[0, 0, 0, 0, 1]]), np.zeros((1, 2), np.int64)
    made = cut(Nest((), results, (Index(depth, 1, width, 0),), corners, taps), 4, target(), 1 << 20)
    tables = [one.tiles for one in tiled(made, "float32", True)]
    places = [(a, b // (depth * width)) for table in tables for a, b, *_ in table.tolist()]
    high, wide = {a for a, _ in places}, {panel for _, panel in places}  # of which a tile may take several
    assert sorted(places) == sorted(product(high, wide))
    assert max(wide) + min({*wide, panels} - {0}) == panels
    changes = sum(one != other for (_, one), (_, other) in pairwise(places))
    assert (changes + 1) / len(wide) == (len(high) if blocks is None else blocks)
