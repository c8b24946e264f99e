"""A call of one of the three operations: what is asked of its operands, and the way it takes.

While nothing watches (no gradient is wanted, no transform, mode or tracer is active) a call on processors goes straight
to its engine; all others go to the operators, which PyTorch leads wherever they have to go.
"""

from __future__ import annotations

from functools import lru_cache
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import LOCAL, Groups
from ..form import OPERANDS, OPERATIONS, Problem, Role
from ..ops import PROBLEMS
from ..ops import _plain as hashable
from ..problem import Options
from .engines import DTYPES, KEPT_CALLS, Call, Shape, Sizes, best_order, call_of, numpy_dtype
from .layout import order_of
from .operators import OPERATORS, Form, bare, nobody_watches
from .options import DEFAULTS, written


def call(operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]) -> Tensor:
    """The operation on two tensors; `options` are values for the names of DEFAULTS, as the user wrote them."""
    if torch.compiler.is_compiling() or not (bare(a) and bare(b) and nobody_watches()):
        return _operator(operation, a, b, sizes, groups, options)
    if not hashable((*sizes, groups, *options)):
        return _operator(operation, a, b, sizes, groups, options)
    found, rest = _ready(operation, a.shape, a.stride(), a.dtype, b.shape, b.dtype, sizes, groups, options)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        if a.dtype is not b.dtype:
            return _operator(operation, a, b, sizes, groups, options)
        return Form.apply(found, OPERATIONS[operation], a, b, *rest)
    return found.run(a, b)


@lru_cache(maxsize=KEPT_CALLS)
def _ready(
    operation: str,
    a: Shape,
    steps: Shape,
    one: torch.dtype,
    b: Shape,
    two: torch.dtype,
    sizes: Sizes,
    groups: Any,
    options: tuple[Any, ...],
) -> tuple[Call, tuple[Any, ...]]:
    """The call that these arguments mean, and what the operator takes besides the operands."""
    dtype = _common(operation, one, two)
    problem = _problem(operation, a, b, dtype, sizes, groups, options)
    geometry, produces = problem.geometry, problem.produces
    order = best_order(produces, geometry.rank, geometry.banked, order_of(a, steps))
    values = dict(zip(DEFAULTS, options, strict=True))
    named = {
        Role.HIDDEN: (),
        Role.VISIBLE: (geometry.visible,),
        Role.WEIGHT: (geometry.kernel, geometry.bank if geometry.banked else None),
    }
    rest = *named[produces], problem.channels.groups, None, written(values, DEFAULTS), order
    return call_of(problem, values["engine"], dtype, order), rest


def _problem(
    operation: str, a: Shape, b: Shape, dtype: torch.dtype, sizes: Sizes, groups: Groups, options: tuple[Any, ...]
) -> Problem:
    values = dict(zip(DEFAULTS, options, strict=True))
    del values["engine"]
    return PROBLEMS[operation](tuple(a), tuple(b), *sizes, numpy_dtype(dtype), Options(groups=groups, **values))


_checked = lru_cache(maxsize=KEPT_CALLS)(_problem)


def _operator(
    operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]
) -> Tensor:
    """The operator called, with arguments that it can carry."""
    produces = OPERATIONS[operation]
    for role, tensor in zip(OPERANDS[produces], (a, b), strict=True):
        _check(role.value, tensor)
    if a.device != b.device:
        one, two = OPERANDS[produces]
        raise ValueError(f"{two.value} on device {b.device}: expected {a.device}, as {one.value}")
    dtype = _common(operation, a.dtype, b.dtype)
    if not (torch.compiler.is_compiling() or isinstance(groups, Tensor)) and _known(a) and _known(b):
        find = _checked if hashable((*sizes, groups, *options)) else _problem
        find(operation, a.shape, b.shape, dtype, sizes, groups, options)
    number, graph = _pattern(groups)
    text = written(dict(zip(DEFAULTS, options, strict=True)), DEFAULTS)
    sizes = _listed(produces, a.ndim - 2, b, sizes)
    result: Tensor = OPERATORS[produces](a.to(dtype), b.to(dtype), *sizes, number, graph, text, None)
    return result


def _check(name: str, tensor: Any) -> None:
    """Say what a tensor is not that it has to be."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} of type {type(tensor).__name__}: expected a torch.Tensor")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} of layout {tensor.layout}: expected a dense tensor; use {name}.to_dense()")
    if tensor.is_quantized:
        raise TypeError(f"{name} of dtype {_short(tensor.dtype)}: expected numbers; use {name}.dequantize()")
    _check_dtype(name, tensor.dtype)


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        cast = "complex128" if dtype.is_complex else "float64"
        expected = f"expected {', '.join(DTYPES.values())}"
        raise TypeError(f"{name} of dtype {_short(dtype)}: {expected}; cast it, for example with .to(torch.{cast})")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _common(operation: str, one: torch.dtype, two: torch.dtype) -> torch.dtype:
    """The dtype of a result: NumPy's promotion."""
    if one is two and one in DTYPES:
        return one
    for role, dtype in zip(OPERANDS[OPERATIONS[operation]], (one, two), strict=True):
        _check_dtype(role.value, dtype)
    if {one, two} == {torch.float16, torch.bfloat16}:
        names = f"{_short(one)} and {_short(two)}"
        raise TypeError(f"dtypes {names}: NumPy has no common type for them; cast one, for example to float32")
    return torch.promote_types(one, two)


def _known(tensor: Tensor) -> bool:
    """Whether the shape is numbers, not symbols."""
    return all(type(size) is int for size in tensor.shape)


def _pattern(groups: Groups) -> tuple[int, Tensor | None]:
    """The number of groups, and the channel graph as a tensor on the processor."""
    if isinstance(groups, int):
        return groups, None
    if isinstance(groups, np.ndarray) and groups.ndim == 0:
        groups = groups.item()
    if hasattr(groups, "__index__") and not isinstance(groups, Tensor | np.ndarray):
        return index(groups), None
    if isinstance(groups, np.ndarray) and not torch.compiler.is_compiling():
        groups = np.ascontiguousarray(groups)
    return 1, torch.as_tensor(groups, device="cpu")


def _listed(produces: Role, rank: int, b: Tensor, sizes: Sizes) -> Sizes:
    """The sizes as lists of one per axis."""
    if produces is Role.WEIGHT:
        kernel, bank = sizes
        if bank is not None:
            bank = [
                y if isinstance(t, str) and t == LOCAL else t for t, y in zip(_each(bank, rank), b.shape[2:], strict=True)
            ]
        return _each(kernel, rank), bank
    return tuple(None if size is None else _each(size, rank) for size in sizes)


def _each(value: Any, rank: int) -> list[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value] * rank
