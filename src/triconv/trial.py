"""How long an engine takes for a problem on this machine: it is tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine
from .form import Problem, Role
from .memory import empty

Array = NDArray[Any]

TRIALS = 3
"""Of which the fastest counts, after one that makes all ready."""


def seconds(engine: Engine, problem: Problem) -> float:
    """The least time of a call."""
    run, times = ready(engine, problem), []
    for _ in range(1 + TRIALS):
        begun = perf_counter()
        run()
        times.append(perf_counter() - begun)
    return min(times[1:])


def ready(engine: Engine, problem: Problem) -> Callable[[], object]:
    """A call on random operands that lie well: channels innermost, weights as layers keep them."""
    random = np.random.default_rng(0)
    a, b = (_lying_well(problem, role, random) for role in problem.operands)
    return partial(engine.build(problem), a, b, _lying_well(problem, problem.produces, random))


def _lying_well(problem: Problem, role: Role, random: np.random.Generator) -> Array:
    """An array for a role, of standard normal numbers."""
    shape, order = problem.shape(role), problem.order(role)
    numbers = random.standard_normal([shape[axis] for axis in order], np.float32)
    if problem.dtype == "bfloat16":  # which NumPy does not know by itself: the upper half of float32
        bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return bits.transpose(np.argsort(order))
    array = empty(numbers.shape, problem.dtype)
    array[...] = numbers
    return array.transpose(np.argsort(order))
