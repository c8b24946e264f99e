"""Memory for the copies of one call."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory import LINE, Block, address, give, take

SMALL = 1 << 16
"""Bytes that are there as quickly when they are asked for anew."""


def whole_lines(size: int, itemsize: int) -> int:
    """How many numbers the cache lines have that so many take: what comes behind them begins on a line."""
    line = LINE // itemsize
    return -(-size // line) * line


class Scratch:
    """Memory that is lent until the end of a with statement.

    Examples
    --------
    >>> import numpy as np
    >>> with Scratch() as lent:
    ...     lent.array(3, np.dtype("float32")).size
    3
    """

    def __enter__(self) -> Scratch:
        self._blocks: list[Block] = []
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for block in self._blocks:
            give(block)

    def array(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """So many uninitialised numbers, the first on a cache line."""
        itemsize = dtype.itemsize
        wanted = size * itemsize
        if wanted < SMALL:
            room = np.empty(size + LINE // itemsize, dtype)
            start = -address(room) % LINE // itemsize
            return room[start : start + size]
        block = take(wanted, soon_left=True)
        self._blocks.append(block)
        return block[:wanted].view(dtype)
