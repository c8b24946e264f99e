"""Stages of kernel calls, written down once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from ..memory import address
from . import rows
from .compile import Compiled, function
from .rows import Repeat
from .team import Shape, Stages, Words, in_rows, run_rows, words_of

NO_MORE = (0,) * rows.ARRAYS
"""Where no array comes."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Stages of calls, written down once, to be run on other arrays each time."""

    words: Words
    """The rows: arguments that are addresses in arrays to come count from where these begin."""
    shape: Shape
    kept: tuple[NDArray[Any], ...]
    """The arrays that stay the same."""
    home: int = 0
    """In which of the arrays to come each thread has memory of its own."""
    apart: int = 0
    """How many bytes that is behind that of the one before."""
    at: Words | tuple[()] = ()
    """Of each of the arrays that stay, which word is an address in it."""
    entries: Words | tuple[()] = ()
    """Which words are entries."""
    kernels: tuple[Compiled, ...] = ()
    """And whose."""

    @classmethod
    def of(cls, stages: Stages, arrays: Sequence[NDArray[Any]], each: NDArray[Any] | None = None) -> Sheet:
        """Write down stages that are made for some arrays, of which others are to come in the same order.

        These stand for those to come: no two of them may share memory, or nobody knows which one an address is in.
        In one of them is what `each` thread has, if any: that of the first, and behind it that of the next, and so on.
        """
        every, shape = in_rows(stages)
        words, (low_own, high_own) = words_of(every, shape), (0, 0) if each is None else byte_bounds(each)
        ends = sorted((*byte_bounds(array), number) for number, array in enumerate(arrays, 1))
        low, high, inside = map(np.array, zip(*ends, strict=True))
        numbers = {id(array): number for number, array in enumerate(arrays, 1)}
        width, _ = shape
        assert len(arrays) <= rows.ARRAYS, f"{len(arrays)} arrays to come: expected at most {rows.ARRAYS}"
        calls = [(width * n, call) for n, call in enumerate(every) if call is not None]
        pointers = [call.kernel.pointers for _, call in calls]
        lines = np.repeat(np.array([begin for begin, _ in calls], np.intp), np.array([*map(len, pointers)], np.intp))
        position = np.array([*chain.from_iterable(pointers)], np.intp)
        pointed = [*chain.from_iterable(call.arrays for _, call in calls)]
        # One of the arrays itself is known; of views of them, and of what stays, it is seen where they begin.
        found = np.array([numbers.get(id(array), -1) for array in pointed], np.intp)
        where = words[lines + rows.FIRST + position]
        slot = np.searchsorted(low, where, "right") - 1
        found = np.where(found >= 0, found, np.where((slot >= 0) & (where < high[slot]), inside[slot], rows.NONE))
        kept = tuple(compress(pointed, (found == rows.NONE).tolist()))
        words[lines + rows.FIRST + position] -= np.array([0, *map(address, arrays)])[found]
        # Where a copy begins further on in an array that another stands for, is no address in any.
        home = 1 if each is None else inside[np.searchsorted(low, low_own, "right") - 1]
        found[(low_own <= where) & (where < high_own) & (found == home)] = rows.OWN
        assert not found[position >= rows.MANY - 1].any(), "an address behind those that there are bits for"
        at = (lines + rows.FIRST + position)[found == rows.NONE]
        np.bitwise_or.at(words, lines + rows.WHICH, found << rows.BITS * position)
        entries, kernels = np.array([begin for begin, _ in calls], np.int64), tuple(call.kernel for _, call in calls)
        return cls(words, shape, kept, int(home) - 1, high_own - low_own, at, entries + rows.ENTRY, kernels)

    @cached_property
    def most(self) -> int:
        """How many threads can take part."""
        return max(parts for parts, _ in self.shape[1])

    @cached_property
    def alone(self) -> tuple[Compiled, int, int, int]:
        """What runs all on one thread, and what it is told first: where the rows are, how many, of how many words."""
        width, stages = self.shape
        return function(Repeat()), address(self.words), sum(parts * each for parts, each in stages), width

    def run(self, arrays: Sequence[NDArray[Any]], helpers: int) -> None:
        """Run the stages on these arrays, their parts side by side on this thread and at most so many helpers."""
        self.run_from([*map(address, arrays)], helpers)

    def run_from(self, begins: Sequence[int], helpers: int) -> None:
        """The same on arrays that begin at these addresses."""
        if helpers and self.most > 1:
            helpers = min(helpers, self.most - 1)
            run_rows(self.words, self.shape, helpers, begins, begins[self.home], self.apart)
        else:
            run, place, calls, width = self.alone
            run(place, calls, width, begins[self.home], *begins, *NO_MORE[len(begins) :])
