"""Calls of the engines: views of the tensors' memory go in, and the result is written into a new tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..after import After
from ..arguments import Groups
from ..dispatch import AUTO, Plan, choose
from ..form import Problem, Role, name_of, weight_order
from ..kept import Kept
from ..memory import LARGE, empty
from ..ops import PROBLEMS
from ..problem import Options
from .layout import order_of, strides_of
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


class Kind(NamedTuple):
    """A dtype that NumPy need not know."""

    name: str
    itemsize: int


def kind_of(dtype: torch.dtype) -> Kind:
    return Kind(DTYPES[dtype], dtype.itemsize)


KEPT_CALLS = 1024
"""How many calls are kept ready; those made longest ago go first."""

Array = NDArray[Any]
Shape = tuple[int, ...]
Sizes = Sequence[Any]
"""What an operation takes besides its operands: nothing, visible_size, or kernel_size and bank."""

Pattern = int | tuple[Shape, str, bytes]
"""A number of groups, or the shape, dtype and bytes of a channel graph: what a cache can find."""


Lying = tuple[Sequence[int], Sequence[int]]
"""The shape and the steps of a tensor."""


@dataclass(frozen=True, eq=False)
class Call:
    """An operation at one size, with an engine for it, on tensors of one dtype."""

    plan: Plan
    shape: Shape
    """As the result lies in memory, outermost first."""
    axes: Shape | None
    """Where the axes of the result are in it; None: in their places."""
    dtype: torch.dtype
    computed: torch.dtype
    kind: np.dtype[Any]
    """`computed`, as NumPy calls it; of bfloat16 the bits, as integers."""
    allocate: Callable[[Shape, np.dtype[Any]], Array]
    """What gives memory for the result: NumPy, or blocks that are used again if it is large."""

    @property
    def lying(self) -> Lying:
        """The shape and the steps of a result."""
        axes = self.axes or tuple(range(len(self.shape)))
        steps = strides_of(self.shape, range(len(self.shape)))
        return tuple([self.shape[axis] for axis in axes]), tuple([steps[axis] for axis in axes])

    def adds(self, bias: Tensor) -> bool:
        """Whether a run can add this bias: a number for each channel, of a dtype that NumPy can add too.

        Where results are rounded to another dtype, PyTorch adds after that, and so do we.
        """
        channels = self.plan.problem.shape(self.plan.problem.produces)[1:2]
        fits = bias.dtype is self.computed is self.dtype
        return fits and self.computed is not torch.bfloat16 and bias.shape == channels

    def run(self, a: Tensor, b: Tensor, kept: Kept | None = None, bias: Tensor | None = None) -> Tensor:
        """The operation, in a new tensor of `dtype`, with what is kept of the weight, which is b, and a bias."""
        computed, run = self.computed, self.plan.built
        one = _array(a, computed)
        if kept is None or b.dtype is computed:
            two = _array(b, computed)
        else:
            two = kept.of(computed, lambda: _array(b, computed))
        out = self.allocate(self.shape, self.kind)
        if self.axes is not None:
            out = out.transpose(self.axes)
        after = None if bias is None else After(_array(bias, computed))
        run(one, two, out, kept, after)
        result = torch.from_numpy(out)
        if computed is torch.bfloat16:
            result = result.view(computed)
        return result if computed is self.dtype else result.to(self.dtype)


def _array(tensor: Tensor, dtype: torch.dtype) -> Any:
    """The numbers of a tensor as an array: a view, if they have the dtype; of bfloat16 the bits, as integers."""
    if tensor.dtype is not dtype:
        tensor = tensor.to(dtype)
    held = tensor.view(torch.int16) if dtype is torch.bfloat16 else tensor
    return held.numpy(force=tensor.requires_grad)


def problem_of(
    operation: str, a: Shape, b: Shape, dtype: torch.dtype, sizes: Sizes, groups: Groups, text: str
) -> Problem:
    """The problem of a call whose options are a text; `groups` is a number or a channel graph."""
    values = {name: value for name, value in read(text).items() if name != "engine"}
    return PROBLEMS[operation](tuple(a), tuple(b), *sizes, kind_of(dtype), Options(groups=groups, **values))


def call_of(problem: Problem, engine: str, dtype: torch.dtype, order: Sequence[int]) -> Call:
    """A call with an engine chosen; the result's axes lie in an order, the outermost first."""
    plan, shape = choose(problem, engine), problem.shape(problem.produces)
    axes = None if list(order) == sorted(order) else tuple(np.argsort(order).tolist())
    computed = next(kind for kind, name in DTYPES.items() if name == plan.problem.dtype)
    kind = np.dtype("int16" if computed is torch.bfloat16 else plan.problem.dtype)
    allocate = empty if problem.bytes_of(problem.produces) >= LARGE else np.empty
    lying = tuple(shape[axis] for axis in order)
    return Call(plan, lying, axes, dtype, computed, kind, allocate)


def pattern_of(graph: Array) -> Pattern:
    """A channel graph as what a cache can find."""
    return graph.shape, graph.dtype.str, graph.tobytes()


@lru_cache(maxsize=KEPT_CALLS)
def ready(
    produces: Role, a: Shape, b: Shape, dtype: torch.dtype, sizes: Shape, pattern: Pattern, text: str, order: Shape
) -> Call:
    """The call that an operator's arguments mean."""
    groups: Groups = pattern
    if isinstance(pattern, tuple):
        shape, kind, numbers = pattern
        groups = np.frombuffer(numbers, kind).reshape(shape)
    problem = problem_of(name_of(produces), a, b, dtype, sizes, groups, text)
    return call_of(problem, read(text).get("engine", AUTO), dtype, order)


def best_order(produces: Role, banked: bool, first: Lying, second: Lying) -> list[int]:
    """The order of a result that nobody asked for: that of the first operand, a weight's as engines like it.

    Where the first could have either order, as one of one channel could, the channels are innermost if the weight's
    are. (PyTorch lets the weight decide always.)
    """
    shape, _ = first
    axes = list(range(len(shape)))
    if produces is Role.WEIGHT:
        return list(weight_order(len(shape) - 2, banked))
    kernel = second[0][len(second[0]) - len(shape) + 2 :]
    either = shape[1] == 1 or prod(shape[2:]) == 1
    if either and prod(kernel) > 1 and order_of(*second)[-1] < len(second[0]) - len(kernel):
        return [0, *axes[2:], 1]
    return order_of(*first)
