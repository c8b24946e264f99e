"""What is measured: one geometry, and random operands for its three operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import STORED, named_dtype
from ..dispatch import Plan
from ..form import Problem, Role
from ..memory import empty
from ..ops import explain

Array = NDArray[Any]
Operands = Mapping[Role, Array]


@dataclass(frozen=True, eq=False)
class Workload:
    """A geometry with a name: shapes of visible and weight, and the arguments of the operations."""

    name: str
    visible: tuple[int, ...]
    weight: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    def plan(self, operation: str, engine: str = "auto") -> Plan:
        return explain(operation, self.visible, self.weight, engine=engine, dtype=self.dtype, **self.options)

    def problem(self, operation: str = "conv") -> Problem:
        """As it is stored, in whichever dtype the plan's engine computes it."""
        # No engine is asked here whether it can: that is a figure of the row, not of the workload.
        kind = named_dtype(self.dtype)
        return replace(self.plan(operation).problem, dtype=kind.name, itemsize=kind.itemsize)


def operands(problem: Problem, seed: int = 0) -> dict[Role, Array]:
    """Standard normal arrays for the operands of an operation, contiguous in the order of their axes."""
    rng = np.random.default_rng(seed)
    return {role: _normal(rng, problem.shape(role), named_dtype(problem.dtype)) for role in problem.operands}


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.name in STORED:
        return rng.standard_normal(shape, np.float32).astype(dtype)
    if dtype.kind != "c":
        return rng.standard_normal(shape, dtype.type)
    real = dtype.type(0).real.dtype
    return (rng.standard_normal(shape, real) + 1j * rng.standard_normal(shape, real)).astype(dtype)


def channels_last(array: Array) -> Array:
    """The same numbers with the channels innermost in memory, in memory of ours."""
    return _lying(array, (0, *range(2, array.ndim), 1))


def as_layers_keep(weight: Array, problem: Problem) -> Array:
    """The same numbers in the physical order in which layers keep a weight, in memory of ours."""
    return _lying(weight, problem.order(Role.WEIGHT))


def _lying(array: Array, order: tuple[int, ...]) -> Array:
    """The same numbers with the axes in a physical order, where results of operations lie: large ones on a cache line,
    as PyTorch's do. NumPy's own begin 16 bytes behind one."""
    out = empty(tuple(array.shape[axis] for axis in order), array.dtype)
    out[...] = array.transpose(order)
    return out.transpose(np.argsort(order))


def terms(problem: Problem) -> int:
    """The most products that any entry of the result sums."""
    axes, channels = problem.geometry.axes, problem.channels
    taps = prod(problem.geometry.kernel)
    match problem.produces:
        case Role.HIDDEN:
            return channels.weight[1] * taps
        case Role.VISIBLE:
            return channels.hidden // channels.groups * taps
        case Role.WEIGHT:
            return problem.batch * prod(-(-axis.hidden // axis.bank) for axis in axes)


def moved(problem: Problem) -> tuple[int, int]:
    """The least bytes to read and to write: each operand once, the result once."""
    read = sum(problem.bytes_of(role) for role in problem.operands)
    return read, problem.bytes_of(problem.produces)


def masked(problem: Problem, operands: Operands) -> dict[Role, Array]:
    """Operands whose weight is zero outside the channel graph, for those who know no graphs."""
    return {
        role: array if role is not Role.WEIGHT else within_graph(problem, array) for role, array in operands.items()
    }


def within_graph(problem: Problem, weight: Array) -> Array:
    """A weight with zeros outside the channel graph."""
    mask = problem.channels.mask
    if mask is None:
        return weight
    kept: Array = weight * mask.reshape(*mask.shape, *(1,) * problem.geometry.rank).astype(weight.dtype)
    return kept


def within_result(problem: Problem, result: Array) -> Array:
    """A result with zeros outside the channel graph, if it is a weight."""
    return within_graph(problem, result) if problem.produces is Role.WEIGHT else result
