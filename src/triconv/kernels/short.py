"""Work written down once, as calls on arrays to come: those of one thread are run by one call of machine code.

Python takes some microseconds for each call that it makes anew, which is longer than little work itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..memory import address
from . import ir
from .compile import Compiled, function
from .relay import OWN, called_at
from .scratch import SMALL, Scratch
from .target import Target
from .team import Part, Sheet
from .words import I64, POINTER, begin

WORDS = 9
"""At most so many arguments has a call that can be written down."""

BASES = 6
"""The three arrays, what is lent, and two that the result is finished with; words that are no addresses count from one
more, which is 0."""


@dataclass(frozen=True)
class Repeat:
    """Run a table of calls: of each the entry and its arguments, as words and the bases that they count from."""

    name: ClassVar[str] = "repeat"
    arguments: ClassVar[dict[str, ir.Type]] = {"table": POINTER, "calls": I64} | {f"base{n}": I64 for n in range(BASES)}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        del machine
        k = begin(module, name, "float64", self.arguments)
        row, bases = k.scratch(WORDS + 1), k.scratch(BASES + 1)
        for number in range(BASES):
            k.store(k[f"base{number}"], bases, number)
        k.store(I64(0), bases, BASES)
        with k.loop(k["calls"]) as call:
            line = k.mul(call, 2 * (WORDS + 1))
            with k.loop(WORDS + 1) as place:
                cell = k.add(line, place, place)
                word, which = (k.load(k["table"], k.add(cell, n), I64) for n in (0, 1))
                k.store(k.add(word, k.load(bases, which, I64)), row, place)
            k.build.call(called_at(k.build.inttoptr(k.load(row, 0, I64), POINTER)), [k.at(row, 1, I64).pointer])
        k.build.ret_void()


def stand_in(shape: Sequence[int], steps: Sequence[int], kind: np.dtype[Any]) -> NDArray[Any]:
    """An array of this shape and these steps, in numbers, for one that is to come; only its addresses are real."""
    size = (1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))) * kind.itemsize
    room = np.frombuffer(mmap(-1, size), kind) if size >= SMALL else np.empty(size // kind.itemsize, kind)
    return as_strided(room, shape, [step * kind.itemsize for step in steps])


@dataclass(frozen=True, eq=False)
class Short:
    """Calls written down, in stages that threads share, and the numbers of room that they want."""

    sheets: list[Sheet]
    helpers: int
    """At most so many threads share them with the caller's."""
    room: int
    kind: np.dtype[Any]
    total: int | None
    """Which of these is zero if all is finite that has to be; None if nothing has to."""

    @classmethod
    def of(
        cls, stages: Sequence[Sequence[Part]], arrays: Sequence[NDArray[Any]], total: int | None, threads: int = 1
    ) -> Short:
        """Write down stages on `arrays`: three that stand for those to come, room, and what else is to come."""
        some = [found for stage in stages if (found := [part for part in stage if part])]
        if threads == 1 or all(len(stage) == 1 for stage in some):  # nothing is shared
            some = [[[call for stage in some for part in stage for call in part]]]
        others = (np.empty(1) for _ in range(BASES - len(arrays)))
        every = [*arrays, *others]
        return cls([Sheet.of(stage, every) for stage in some], threads - 1, arrays[3].size, arrays[3].dtype, total)

    @cached_property
    def _alone(self) -> tuple[Compiled, int, int, NDArray[np.int64]] | None:
        """What runs calls that are not shared: the kernel, where its table is, how many they are; and the table."""
        if len(self.sheets) > 1 or len(self.sheets[0].rows) > 1:
            return None
        (rows,), (which,) = (np.delete(words, OWN, -1) for words in (self.sheets[0].rows, self.sheets[0].which))
        table = np.full((len(rows), WORDS + 1, 2), (0, BASES), np.int64)
        table[:, : rows.shape[1]] = np.stack((rows, which), -1)
        return function(Repeat()), address(table), len(table), table

    def run(self, a: int, b: int, c: int, bias: int = 0, where: int = 0) -> bool:
        """Run the calls on arrays that begin at these addresses; is all finite that has to be?"""
        with Scratch() as lent:
            room = lent.array(self.room, self.kind)
            if self._alone is not None:
                kernel, table, count, _ = self._alone
                kernel(table, count, a, b, c, address(room), bias, where)
            else:
                begins = np.array((a, b, c, address(room), bias, where, 0))
                for sheet in self.sheets:
                    sheet.run_from(begins, self.helpers)
            return self.total is None or bool(room[self.total] == 0)
