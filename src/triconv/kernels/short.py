"""Work written down once, as calls on arrays to come, which one call of machine code runs.

Python takes some microseconds for each call that it makes anew, which is longer than little work itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory import address
from .scratch import SMALL, Scratch, whole_lines
from .sheet import Sheet
from .team import Part, Stages, run_stages
from .threads import thread_count
from .words import CHECKED


def stand_in(shape: Sequence[int], strides: Sequence[int], kind: np.dtype[Any]) -> NDArray[Any]:
    """An array of this shape and these strides for one that is to come; only its addresses are real.

    MemoryError where there are not so many left.
    """
    size = kind.itemsize + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    try:
        room = mmap(-1, size) if size >= SMALL else np.empty(size, np.uint8)
    except OSError as error:
        raise MemoryError(f"addresses of {size} bytes: {error}") from None
    return np.ndarray(shape, kind, room, strides=strides)


@dataclass(frozen=True, eq=False)
class Short:
    """Calls written down, in stages that threads share, and the numbers of room that they want."""

    sheet: Sheet
    helpers: int
    """At most so many threads share them with the caller's."""
    room: int
    kind: np.dtype[Any]
    total: int | None
    """Which of these is zero if all is finite that has to be; None if nothing has to."""
    marks: slice | None
    """Those that are zeros before, and stay zeros unless something is not finite."""

    @classmethod
    def of(
        cls,
        stages: Stages,
        arrays: Sequence[NDArray[Any]],
        total: int | None,
        threads: int = 1,
        marks: slice | None = None,
        each: NDArray[Any] | None = None,
    ) -> Short:
        """Write down stages on `arrays`: three that stand for those to come, room, and what else is to come.

        Of the room, `each` is what the first thread has for itself.
        """
        some = [found for stage in stages if (found := [part for part in stage if part])]
        if threads == 1 or all(len(stage) == 1 for stage in some):  # nothing is shared
            some = [[[call for stage in some for part in stage for call in part]]]
        return cls(Sheet.of(some, arrays, each), threads - 1, arrays[3].size, arrays[3].dtype, total, marks)

    @cached_property
    def shared(self) -> bool:
        """Whether threads share any of it."""
        return self.helpers > 0 and self.sheet.most > 1

    def run(self, a: int, b: int, c: int, bias: int = 0, where: int = 0) -> bool:
        """Run the calls on arrays that begin at these addresses; is all finite that has to be, and nothing marked?"""
        with Scratch() as lent:
            room = lent.array(self.room, self.kind)
            if self.marks is not None:
                room[self.marks] = 0
            place = address(room)
            if self.shared:
                self.sheet.run_from((a, b, c, place, bias, where), self.helpers)
            else:
                run, rows, calls, width = self.sheet.alone
                run(rows, calls, width, place, a, b, c, place, bias, where, 0, 0)
            if self.marks is not None and room[self.marks].tobytes().strip(b"\0"):  # sooner than NumPy's any()
                return False
            return self.total is None or bool(room[self.total] == 0)


class Later:
    """Stages of calls that are run later, and memory for them in one room: what is left, later stages take again."""

    def __init__(self, room: NDArray[Any], threads: int) -> None:
        self.room, self.threads, self.size = room, threads, 0
        self.stages: list[Sequence[Part]] = []
        self._taken, self._free = dict[int, int](), dict[int, int]()

    def array(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """So many numbers of the room, the first on a cache line where the room begins on one."""
        assert dtype == self.room.dtype, f"memory for {dtype} in a room of {self.room.dtype}"
        wanted = whole_lines(size, dtype.itemsize)
        fitting = ((size, begin) for begin, size in self._free.items() if size >= wanted)
        _, begin = min(fitting, default=(wanted, self.size))
        self._taken[begin] = self._free.pop(begin, wanted)
        self.size = max(self.size, begin + wanted)
        if self.size > len(self.room):
            raise OverflowError(f"a room of {len(self.room)} numbers: expected {self.size}")
        return self.room[begin : begin + size]

    def foresee(self, sizes: Iterable[int]) -> None:
        """So many numbers will be wanted at once, each time: what is asked for from now on finds room for them.

        Without it, there would be room for what is wanted first, which is too small for what is wanted next.
        """
        for array in [self.array(size, self.room.dtype) for size in sizes]:
            self.leave(array)

    def leave(self, array: NDArray[Any]) -> None:
        """Let later stages have what an array begins with, if that is of the room."""
        begin = (address(array) - address(self.room)) // self.room.itemsize
        if begin in self._taken:
            self._free[begin] = self._taken.pop(begin)


Keeping = Callable[[str, Callable[[], Short | None]], Short | None]
"""What is known so, or is made now."""

Work = Callable[..., None]
"""Says of three arrays what is to be done later, and to whom: work(a, b, c, later)."""


class Written:
    """Work on three arrays, written down for each way in which they lie; with room for so many numbers, or for more.

    It may be `kept` for other processes: known by what a work, and how its arrays lie, say of themselves.
    """

    def __init__(self, work: Work, kind: np.dtype[Any], room: int = SMALL, kept: Keeping | None = None) -> None:
        self.work, self.kind, self.room, self.kept = work, kind, room, kept
        self._known: dict[Any, Short | int] = {}

    def __call__(self, *arrays: NDArray[Any]) -> None:
        threads, strides = thread_count(), tuple(array.strides for array in arrays)
        if (known := self._known.get((threads, strides))) is None:
            if len(self._known) >= KEPT:
                self._known.clear()
            known = self._known[threads, strides] = self._looked_up(arrays, threads)
        if isinstance(known, Short):
            known.run(*map(address, arrays))
            return
        with Scratch() as lent:
            later = Later(lent.array(known, self.kind), threads)
            self.work(*arrays, later)
            run_stages(later.stages, threads)

    def _looked_up(self, arrays: Sequence[NDArray[Any]], threads: int) -> Short | int:
        """The work on arrays that lie so, which may be kept."""
        if self.kept is None:
            return self._written(arrays, threads)
        found = list[Short | int]()

        def make() -> Short | None:
            found.append(self._written(arrays, threads))
            return found[0] if isinstance(found[0], Short) else None

        lying = [(array.shape, array.strides, array.dtype.str) for array in arrays]
        kept = self.kept(repr((lying, threads)), make)
        return found[0] if kept is None else kept

    def _written(self, arrays: Sequence[NDArray[Any]], threads: int) -> Short | int:
        """The work on arrays that lie so; where it cannot be written down, the numbers of the room that it takes."""
        plain, given = not CHECKED and all(step >= 0 for array in arrays for step in array.strides), [*arrays]
        if plain:
            try:
                given = [stand_in(array.shape, array.strides, array.dtype) for array in arrays]
            except MemoryError:
                plain = False
        size = self.room
        while True:
            later = Later(stand_in((size,), (self.kind.itemsize,), self.kind), threads)
            try:
                self.work(*given, later)
                break
            except OverflowError:
                size *= 2
        if not plain:
            return later.size
        return Short.of(later.stages, [*given, later.room[: later.size]], None, threads)


KEPT = 16
"""How many ways in which arrays lie work is kept for, and numbers of threads."""
