"""A way to run a problem made ready: its program, and the copies into and out of its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..form import Problem, Role
from .copy import Move
from .loops import arrays
from .program import Program, tiled
from .scratch import Scratch
from .target import cache_bytes, target
from .team import SLICES, in_parts
from .ways import ROLES, Strides, Way, best_way, filling, folds, way

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A way, compiled for arrays of certain strides."""

    way: Way
    produced: int
    """Which of the arrays is the result, as ROLES counts them."""
    supposes: int | None
    """Which of them has to be finite, if any; the result when it is there."""
    examples: int
    """How many are taken at a time, so that copies of the operands and of the result are not all there at once."""
    program: Program
    operands: tuple[int, ...]
    """Which of the arrays are the program's A, B and C."""
    fills: tuple[tuple[int, Move], ...]
    drains: tuple[tuple[Move, int, int], ...]

    def run(self, given: Sequence[Array]) -> None:
        """Write the result over one of the arrays, which come in the order of ROLES."""
        visible, hidden, weight = given
        if self.examples >= len(visible):
            self._run(given)
            return
        for n in range(0, len(visible), self.examples):
            some = slice(n, n + self.examples)
            self._run((visible[some], hidden[some], weight))

    def _run(self, given: Sequence[Array]) -> None:
        a, b, c = self.operands
        with Scratch() as lent:
            seen = list(given)
            for number, size in self.copies:
                seen[number] = lent.array(size, given[number].dtype)
            for number, move in self.fills:
                in_parts(partial(move.calls, given[number], seen[number]), seen[number].size)
            self.program.run(seen[a], seen[b], seen[c])
            if seen[self.produced] is not given[self.produced]:
                self._put(seen[self.produced], given[self.produced])

    def _put(self, result: Array, out: Array) -> None:
        """Write what was computed in a buffer to where it belongs."""
        for move, begin, first in self.drains:
            ends = (result[begin:], out[..., first:]) if begin or first else (result, out)
            in_parts(partial(move.calls, *ends), result.size)
        buffer = self.way.buffers[self.produced]
        if buffer is not None and not self.drains:
            with np.errstate(all="ignore"):  # infinities may meet here as anywhere
                buffer.fold(result, out, (None, None, *self.way.asked.geometry.axes))

    @cached_property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """Which of the arrays have a buffer, and how many numbers it holds."""
        return tuple((number, buffer.size) for number, buffer in enumerate(self.way.buffers) if buffer is not None)


def prepared(problem: Problem, strides: tuple[Strides, ...], finite: bool, in_line: bool) -> Prepared:
    """The best way to run a problem on arrays of these strides, made ready; is the result `in_line` with the cache?"""
    best, produced = best_way(problem, strides, finite), ROLES.index(problem.produces)
    examples = _examples(best)
    if examples < problem.batch:
        some = replace(problem, batch=examples)
        best = way(some, best.vector, strides, best.exact, filling(some) if best.parts > 1 else 1)
    part = best.asked
    in_line |= best.buffers[produced] is not None
    lanes = target().lanes(problem.itemsize)
    tables = [one for cut in best.cuts() for one in tiled(cut, problem.dtype, lanes, in_line)]
    fills, drains = [], []
    for number, (role, buffer, steps) in enumerate(zip(ROLES, best.buffers, strides, strict=True)):
        shape = part.shape(role)
        axes = (None, None, *part.geometry.axes) if role is Role.VISIBLE else (None,) * len(shape)
        if buffer is not None and number != produced:
            fills.append((number, buffer.fill(shape, steps, axes, problem.dtype)))
        elif buffer is not None and not folds(problem):
            drains += buffer.drain(shape, steps, problem.dtype)
    return Prepared(
        best,
        produced,
        None if best.supposes is None else ROLES.index(best.supposes),
        examples,
        # Every part of a weight's gradient reads all examples.
        Program(tables, part.flops, 1 if problem.produces is Role.WEIGHT else SLICES),
        tuple(ROLES.index(role) for role in arrays(problem, best.vector)),
        tuple(fills),
        tuple(drains),
    )


def _examples(best: Way) -> int:
    """How many examples to take at a time: half of them, or fewer, where operands and result have copies both."""
    problem = best.asked
    both = best.vector == "position" or (best.parts > 1 and best.copied > cache_bytes()[1])
    both = both and sum(buffer is not None for buffer in best.buffers) > 1
    if not both or problem.produces is Role.WEIGHT:
        return problem.batch
    return next((problem.batch // n for n in range(2, problem.batch + 1) if problem.batch % n == 0), problem.batch)
