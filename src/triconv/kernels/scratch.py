"""Memory for copies, kept between calls: fresh memory costs more than what is written to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
"""Bytes of a cache line: vectors that begin on one do not lie across two."""

KEPT = 64 << 20
"""Bytes kept at most; more is given back when a call ends."""

_free: list[NDArray[np.uint8]] = []
_lock = Lock()


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Lends memory until the end of the block."""
    lent = Scratch()
    try:
        yield lent
    finally:
        lent.give_back()


class Scratch:
    """What one call has borrowed."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []

    def array(self, size: int, dtype: Any) -> NDArray[Any]:
        """So many uninitialised numbers, the first on a cache line."""
        wanted = size * np.dtype(dtype).itemsize
        block = _take(wanted + LINE)
        self._blocks.append(block)
        start = -block.__array_interface__["data"][0] % LINE
        return block[start : start + wanted].view(dtype)

    def give_back(self) -> None:
        with _lock:
            _free.extend(self._blocks)
            _free.sort(key=len)
            while sum(map(len, _free)) > KEPT:
                _free.pop(0)
        self._blocks = []


def _take(size: int) -> NDArray[np.uint8]:
    """The smallest free block that is large enough, but no absurdly large one; or a new one."""
    with _lock:
        for number, block in enumerate(_free):
            if size <= len(block) <= 4 * size + 4096:
                return _free.pop(number)
    return np.empty(size, np.uint8)
