"""Work in stages on three arrays and scratch: units of kernel calls that threads share, written down once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
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
from .sheet import Sheet
from .team import NUMBERS_WORTH_A_THREAD, SLICES, run_stages
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


SHARED = 16
"""Times what is worth a thread elsewhere: stages wait for each other, most take a fraction of the multiplications that
they stand for, and a thread that sleeps has to be woken first."""


Calls = Callable[[Arrays, int, int, int], list[Call]]


@dataclass(frozen=True, eq=False)
class Stage:
    """What is done before the next begins: units of work that threads share."""

    units: int
    calls: Calls
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
    room: int | None = None
    """Within how many numbers scratch should be, for two threads, if it matters."""
    knowing: Schedule | None = None
    """What is done where the weight stays the same, if that is not this."""
    comes: int | None = None
    """In the place of which of the three arrays what is made of a weight comes."""
    sheets: dict[tuple[int, int | None], Sheet] = field(default_factory=dict)
    """By the number of parts, and of stages if these are not all."""

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Their tables are made when they are first needed."""
        return self.make()

    def _parts(self, threads: int) -> int:
        """How many parts of a stage to run side by side."""
        worth = self.flops // (2 * MULTIPLICATIONS_A_COPY * NUMBERS_WORTH_A_THREAD)
        parts = threads * SLICES if worth >= SHARED and threads > 1 else 1
        return parts if self.most is None else min(parts, self.most)

    def _room(self, threads: int) -> int:
        """The numbers that all of some threads share, and those that each has."""
        return self.shared + self.sharing(threads) * (self.own + self._gap) - self._gap

    def sharing(self, threads: int) -> int:
        """How many of some threads share the work, and have scratch of their own."""
        return min(self._parts(threads), threads)

    @property
    def _gap(self) -> int:
        """How many numbers nobody uses between the scratch of two threads, if there is room for that.

        Where it is side by side, threads are in each other's way: they took up to 1.6 times as long, in a gradient's
        chunks of 400 KB, and less with every page between, up to about as much.
        """
        left = self.own if self.room is None else self.room - TOLD - self.kernels - self.shared - THREADS * self.own
        return max(0, min(self.own, left)) // LINE * LINE

    def rooms(self, threads: int) -> tuple[int, int, int]:
        """The numbers of scratch, marks and kernels for so many threads."""
        return self._room(threads), self.marks, self.kernels

    def own_of(self, scratch: Array) -> Array:
        """What of the scratch the first thread has for itself."""
        return scratch[self.shared : self.shared + self.own + self._gap]

    def calls(self, arrays: Arrays, threads: int) -> list[list[list[Call]]]:
        """What so many threads share of each stage."""
        return self._calls(slice(None), arrays, self._parts(threads))

    @property
    def scratch(self) -> int:
        """The numbers of scratch in all."""
        return self.kernels + self._room(thread_count())

    def run(self, given: Sequence[Array], kind: np.dtype[Any]) -> bool | None:
        """Run the stages on three arrays and write over the one that is the result; is nothing marked?

        Behind the three comes what it is finished with. Scratch is of a kind. None if there are no marks that tell.
        """
        with Scratch() as lent:
            threads = thread_count()  # asked once: there is room for so many
            room, marks = lent.array(self._room(threads), kind), np.zeros(self.marks, kind)
            self._go((*given[:3], room, marks, lent.array(self.kernels, kind), *given[3:]), threads)
            return not marks.any() if self.marks else None

    @property
    def known(self) -> Schedule | None:
        """What is done where the weight stays the same, if something of it can be kept."""
        found = self.knowing or self
        return found if found.keeps is not None else None

    def made(self, given: Sequence[Array], kind: np.dtype[Any], kept: Kept) -> Array | None:
        """What the first stage makes of a weight that stays the same, now or before; None if it cannot be taken."""

        def make() -> tuple[Array, bool]:
            with Scratch() as lent:
                threads = thread_count()
                found, marks = empty((self.kernels,), kind), np.zeros(self.marks, kind)
                self._go((*given[:3], lent.array(self._room(threads), kind), marks, found), threads, slice(1))
                return found, bool(marks.any())

        found, marked = kept.of(self.keeps, make)
        return None if marked else found

    def after(self, place: int) -> Schedule:
        """The stages but the first, with what that makes in the place of one of the three arrays, as its only row."""

        def taking(calls: Calls) -> Calls:
            return lambda arrays, *units: calls((*arrays[:5], arrays[place][0], *arrays[6:]), *units)

        def make() -> tuple[Stage, ...]:
            return tuple(Stage(stage.units, taking(stage.calls)) for stage in self.stages[1:])

        return replace(self, make=make, kernels=0, keeps=None, knowing=None, comes=place, sheets={})

    def _go(self, arrays: Arrays, threads: int, which: slice = slice(None)) -> None:
        """Run some of the stages."""
        parts = self._parts(threads)
        if CHECKED:
            run_stages(self._calls(which, arrays, parts), threads)
        else:
            sheet = self.sheets.get((parts, which.stop)) or self._written_down(parts, which, arrays)
            sheet.run(arrays, threads - 1)

    def _written_down(self, parts: int, which: slice, given: Arrays) -> Sheet:
        """The sheet of some stages. For arrays that are given others stand in, as their own memory may overlap."""
        ours = {3, 4, 5, self.comes}
        arrays = [own if number in ours else np.empty(1, given[0].dtype) for number, own in enumerate(given)]
        sheet = Sheet.of(self._calls(which, arrays, parts), arrays, self.own_of(arrays[3]))
        self.sheets[parts, which.stop] = sheet
        return sheet

    def _calls(self, which: slice, arrays: Arrays, parts: int) -> list[list[list[Call]]]:
        """The calls of each part of some stages, with the scratch of the first thread."""
        found = []
        for stage in self.stages[which]:
            many = min(parts, stage.units)
            cuts = [stage.units * part // many for part in range(many + 1)]
            found.append([stage.calls(arrays, self.shared, *ends) for ends in pairwise(cuts)])
        return found
