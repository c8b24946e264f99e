"""Large blocks of memory that are used again: fresh ones cost more than what is written to them.

The system gives fresh memory page by page, each zeroed first, and takes it back when an array goes. Blocks that arrays
have left are kept here, up to KEPT bytes of them, for the next array that needs about as much.
"""

from __future__ import annotations

import ctypes
import os
import sys
from bisect import bisect_left, insort
from itertools import count
from math import prod
from operator import itemgetter
from threading import Lock
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

LINE = 64
"""Bytes of a cache line, on which every block begins: vectors that begin on one do not lie across two."""

PAGE = 4096
"""Bytes apart, numbers meet in one place of the first-level cache; and in which processors compare addresses: a load
waits for a store just before it that has the same place in a page. Others' large arrays begin where a page does, so
blocks begin in the middle of one."""

CLASH = 1 << 11
"""Bytes of which multiples share few places in the caches."""

LARGE = 1 << 20
"""Bytes from which on an array is worth a block."""

KEPT = 256 << 20
"""Bytes of blocks that wait for the next array; those that were left first go first."""

KEPT_STRIDES = 1024
"""How many arrays' strides are looked at once only."""

Block = NDArray[np.uint8]


class _Lease(ref["ctypes.Array[ctypes.c_ubyte]"]):
    """Of a block to an array: it is called when nobody needs the array any more."""

    __slots__ = ("block",)
    block: Block


_leases: dict[int, _Lease] = {}
_free: list[tuple[int, int, Block]] = []
"""The smallest first; of one size first that which left last, as caches may still have it."""

_left: list[Block] = []
_size, _turn, _turns = itemgetter(0), itemgetter(1), count(step=-1)
_lock = Lock()
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a thread that it has not
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def take(size: int, soon_left: bool = False) -> Block:
    """So many bytes on a cache line, and perhaps some more: those that somebody left, or fresh ones.

    Much more only where they are left again soon: nobody has to do without a large block for long then.
    """
    most = KEPT if soon_left else 2 * size + (1 << 16)
    if _lock.acquire(blocking=False):  # a signal's handler may call while this very thread holds it
        try:
            _collect()
            first = bisect_left(_free, (size,))
            if first < len(_free) and _free[first][0] <= most:
                return _free.pop(first)[2]
        finally:
            _lock.release()
    room = np.empty(size + PAGE, np.uint8)
    start = (PAGE // 2 - address(room)) % PAGE
    return room[start : start + size]


def give(block: Block) -> None:
    """Leave a block. No lock is needed: garbage may be collected while this very thread holds it."""
    if len(block) + sum(map(len, _left)) > KEPT:
        return
    _left.append(block)
    if _lock.acquire(blocking=False):
        try:
            _collect()
        finally:
            _lock.release()


def _told(array: NDArray[Any]) -> int:
    """Where an array's first entry is, as NumPy tells it: that takes a microsecond."""
    where: int = array.__array_interface__["data"][0]
    return where


_HEAD, _word = object.__basicsize__, ctypes.c_size_t.from_address


def _read(array: NDArray[Any]) -> int:
    """The same, read where every NumPy has kept it for its C interface: right behind what each object begins with."""
    return _word(id(array) + _HEAD).value


_PROBES: list[NDArray[Any]] = [np.zeros(7)[2:], np.zeros((3, 4), np.float32).T[::-1], np.zeros(())]
address = (
    _read if sys.implementation.name == "cpython" and all(_read(probe) == _told(probe) for probe in _PROBES) else _told
)
"""Where an array's first entry is."""


def release() -> None:
    """Give everything that is kept back to the system."""
    for number, lease in list(_leases.items()):
        if lease() is None:  # a signal came when it ended
            _leases.pop(number, None)
    with _lock:
        _collect()
        _free.clear()


def kept() -> int:
    """The bytes that are kept."""
    return sum([size for size, *_ in _free]) + sum(map(len, _left))


def empty(shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None = None) -> NDArray[Any]:
    """An uninitialised array, in the order of its axes or of these strides, which leave out and repeat nothing.

    A large one takes a block, which begins on a line, and leaves it when nobody needs it.

    Examples
    --------
    >>> empty((2, 3), "float32").shape
    (2, 3)
    >>> empty((2, 3), "float32", (4, 8)).strides
    (4, 8)
    """
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    if size < LARGE:
        return np.ndarray(shape, kind, None, 0, strides)
    block = take(size)
    room: Any = (ctypes.c_ubyte * size).from_address(address(block))
    room.block = block  # the array may live when nothing of this module does any more
    lease = _Lease(room, _ended)
    lease.block = block
    _leases[id(lease)] = lease
    array: NDArray[Any] = np.ndarray(shape, kind, room, 0, strides)
    return array


def _ended(lease: _Lease) -> None:
    if _leases.pop(id(lease), None) is not None:  # a signal may have kept it from there
        give(lease.block)


def in_line(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in the same physical order that begins on a cache line, where NumPy's own mostly do not.

    Examples
    --------
    >>> in_line(np.arange(6).reshape(2, 3).T).strides
    (8, 24)
    """
    steps = np.empty_like(array, subok=False).strides
    room = np.empty(array.nbytes + LINE, np.uint8)
    found: NDArray[Any] = np.ndarray(array.shape, array.dtype, room, -address(room) % LINE, steps)
    found[...] = array
    return found


def _collect() -> None:
    """Put what was left with what is free, within the bound."""
    while _left:
        block = _left.pop(0)
        insort(_free, (len(block), next(_turns), block))
        while sum(map(_size, _free)) > KEPT:
            _free.remove(max(_free, key=_turn))
