"""Work in stages on three arrays and scratch: units of kernel calls that threads share, written down once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kept import Kept
from ..memory import LINE, empty
from .compile import Call
from .program import MULTIPLICATIONS_A_COPY
from .scratch import Scratch
from .team import NUMBERS_WORTH_A_THREAD, SLICES, Sheet, run_all
from .threads import thread_count
from .words import CHECKED

Array = NDArray[Any]
Arrays = Sequence[Array]
"""Three arrays, scratch, marks (zeros that stay zero unless something in the result is not finite, or in an operand
cannot be taken), kernels, and what the result is finished with."""


THREADS = 2
"""For which there has to be room: where there are more, they take more. What is cut must not depend on how many there
are, as sums would come in another order."""


TOLD = 1 << 15
"""Numbers whose room the words of calls may take, which tell threads what to do."""


@dataclass(frozen=True, eq=False)
class Stage:
    """What is done before the next begins: units of work that threads share."""

    units: int
    calls: Callable[[Arrays, int, int, int], list[Call]]
    """Of some arrays, where scratch of one's own begins, and the first and last of the units."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Stages, and the numbers of scratch that all share and that each thread needs besides."""

    flops: int
    shared: int
    own: int
    marks: int
    """How many numbers."""
    make: Callable[[], tuple[Stage, ...]]
    most: int | None = None
    """How many parts there are units for, if that is known before the stages are made."""
    kernels: int = 0
    """How many numbers the first stage makes of the weight, for all that come after it."""
    keeps: Hashable = None
    """What these are known by."""
    dtype: str = ""
    """Of scratch, if not the arrays'."""
    room: int | None = None
    """Within how many numbers scratch should be, for two threads, if it matters."""
    knowing: Schedule | None = None
    """What is done where the weight stays the same, if that is not this."""
    sheets: dict[int, list[Sheet]] = field(default_factory=dict)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Their tables are made when they are first needed."""
        return self.make()

    def _parts(self, threads: int) -> int:
        """How many parts of a stage to run side by side."""
        worth = self.flops // (2 * MULTIPLICATIONS_A_COPY * NUMBERS_WORTH_A_THREAD)
        parts = threads * SLICES if worth > 1 < threads else 1
        return parts if self.most is None else min(parts, self.most)

    def _room(self, threads: int) -> int:
        """The numbers that all of some threads share, and those that each has."""
        return self.shared + min(self._parts(threads), threads) * (self.own + self._gap) - self._gap

    @property
    def _gap(self) -> int:
        """How many numbers nobody uses between the scratch of two threads, if there is room for that.

        Where it is side by side, threads are in each other's way: they took up to 1.6 times as long, in a gradient's
        chunks of 400 KB, and less with every page between, up to about as much.
        """
        left = self.own if self.room is None else self.room - TOLD - self.kernels - self.shared - THREADS * self.own
        return max(0, min(self.own, left)) // LINE * LINE

    @property
    def scratch(self) -> int:
        """The numbers of scratch in all."""
        return self.kernels + self._room(thread_count())

    def run(self, given: Sequence[Array], kept: Kept | None = None) -> bool | None:
        """Run the stages on three arrays and write over the one that is the result; is nothing marked?

        Behind the three comes what it is finished with. None if there are no marks that tell.
        """
        if kept is not None and self.knowing is not None:
            return self.knowing.run(given, kept)
        threads, (operands, more) = thread_count(), (given[:3], given[3:])  # asked once: there is room for so many
        dtype = np.dtype(self.dtype) if self.dtype else given[0].dtype
        with Scratch() as lent:
            scratch = lent.array(self._room(threads), dtype), np.zeros(self.marks, dtype)
            if kept is None or not self.kernels:
                arrays = *operands, *scratch, lent.array(self.kernels, dtype), *more
                self._go(arrays, threads)
            else:

                def kernels() -> tuple[Array, bool]:
                    made = empty((self.kernels,), dtype)
                    self._go((*operands, *scratch, made, *more), threads, slice(1))
                    return made, bool(scratch[1].any())

                made, marked = kept.of(self.keeps, kernels)
                if marked:
                    return False
                arrays = *operands, *scratch, made, *more
                self._go(arrays, threads, slice(1, None))
            return not arrays[4].any() if self.marks else None

    def _go(self, arrays: Arrays, threads: int, which: slice = slice(None)) -> None:
        """Run some of the stages."""
        parts = self._parts(threads)
        if CHECKED:
            for stage in self.stages[which]:
                run_all(self._calls(stage, arrays, parts))
        else:
            for sheet in (self.sheets.get(parts) or self._written_down(parts, arrays))[which]:
                sheet.run(arrays, threads - 1)

    def _written_down(self, parts: int, given: Arrays) -> list[Sheet]:
        """The sheets of the stages. For arrays that are given others stand in, as their own memory may overlap."""
        stand_ins = [np.empty(1, given[0].dtype) for _ in given]
        arrays = *stand_ins[:3], *given[3:6], *stand_ins[6:]
        own = arrays[3][self.shared : self.shared + self.own + self._gap]
        self.sheets[parts] = [Sheet.of(self._calls(stage, arrays, parts), arrays, own) for stage in self.stages]
        return self.sheets[parts]

    def _calls(self, stage: Stage, arrays: Arrays, parts: int) -> list[list[Call]]:
        """The calls of each part, with the scratch of the first thread."""
        many = min(parts, stage.units)
        cuts = [stage.units * part // many for part in range(many + 1)]
        return [stage.calls(arrays, self.shared, *ends) for ends in pairwise(cuts)]
