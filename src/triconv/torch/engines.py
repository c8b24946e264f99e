"""Calls of the engines: views of the tensors' memory go in, and the result is written into a new tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import Groups
from ..dispatch import Plan, choose
from ..form import Problem, Role, weight_order
from ..ops import PROBLEMS
from ..problem import Options
from .layout import strides_of
from .options import read

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
"""The dtypes that operations take, by NumPy's names."""

COMPUTED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""dtypes that are only stored, and what they are computed in."""

KEPT_CALLS = 1024
"""How many calls are kept ready; those made longest ago go first."""

Shape = tuple[int, ...]
Sizes = tuple[Any, ...]
"""What an operation takes besides its operands: nothing, visible_size, or kernel_size and bank."""

Pattern = int | tuple[Shape, bytes]
"""A number of groups, or the shape and the bytes of a channel graph: what a cache can find."""


@dataclass(frozen=True, eq=False)
class Call:
    """An operation at one size, with an engine for it, on tensors of one dtype."""

    plan: Plan
    shape: Shape
    strides: Shape
    dtype: torch.dtype
    computed: torch.dtype

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        """The operation, in a new tensor of `dtype`."""
        computed = self.computed
        out = torch.empty_strided(self.shape, self.strides, dtype=computed, device="cpu")
        # Infinities and NaN travel as IEEE says; they are values here, not accidents to warn of.
        with np.errstate(all="ignore"):
            if self.plan.problem.batch == 0:
                out.zero_()
            else:
                self.plan.built(_array(a, computed), _array(b, computed), out.numpy())
        return out if computed is self.dtype else out.to(self.dtype)


def _array(tensor: Tensor, dtype: torch.dtype) -> Any:
    """The numbers of a tensor as an array: a view, if they have the dtype."""
    if tensor.dtype is not dtype:
        tensor = tensor.to(dtype)
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def problem_of(operation: str, a: Shape, b: Shape, dtype: torch.dtype, sizes: Sizes, groups: Groups, text: str) -> Problem:
    """The problem of a call whose options are a text; `groups` is a number or a channel graph."""
    values = {name: value for name, value in read(text).items() if name != "engine"}
    kind = np.dtype(DTYPES[COMPUTED.get(dtype, dtype)])
    return PROBLEMS[operation](a, b, *sizes, kind, Options(groups=groups, **values))


def call_of(problem: Problem, engine: str, dtype: torch.dtype, order: Sequence[int]) -> Call:
    """A call with an engine chosen; the result's axes lie in an order, the outermost first."""
    shape = problem.shape(problem.produces)
    return Call(choose(problem, engine), shape, strides_of(shape, order), dtype, COMPUTED.get(dtype, dtype))


@lru_cache(maxsize=KEPT_CALLS)
def ready(
    operation: str, a: Shape, b: Shape, dtype: torch.dtype, sizes: Sizes, pattern: Pattern, text: str, order: Shape
) -> Call:
    """The call that an operator's arguments mean."""
    groups = pattern if isinstance(pattern, int) else np.frombuffer(pattern[1], np.bool_).reshape(pattern[0])
    problem = problem_of(operation, a, b, dtype, sizes, groups, text)
    return call_of(problem, read(text)["engine"], dtype, order)


def best_order(produces: Role, rank: int, banked: bool, first: list[int]) -> list[int]:
    """The order of a result that nobody asked for: that of the first operand, a weight's as engines like it."""
    return list(weight_order(rank, banked)) if produces is Role.WEIGHT else first
