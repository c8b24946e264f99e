"""A call of one of the three operations: what is asked of its operands, and the way it takes.

While nothing watches (no gradient is wanted, no transform, mode or tracer is active) a call on processors goes straight
to its engine; all others go to the operators, which PyTorch leads wherever they have to go.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..arguments import Groups
from ..form import OPERANDS, OPERATIONS, Problem
from ..ops import PROBLEMS, known_plain, plain
from ..problem import Options
from .engines import KEPT_CALLS, Lying, Shape, Sizes, best_order, call_of, kind_of
from .operands import check, check_devices, common_dtype, known, pattern, sizes_of
from .operators import OPERATORS, level, lowered
from .options import DEFAULTS, written
from .registry import bare, nobody_watches, wanted
from .stages import Ready


def call(operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]) -> Tensor:
    """The operation on two tensors; `options` are values for the names of DEFAULTS, as the user wrote them."""
    stage = found(operation, a, b, sizes, groups, options)
    if stage is None:
        return _operator(operation, a, b, sizes, groups, options)
    if wanted(a, b):
        if a.dtype is not b.dtype:
            return _operator(operation, a, b, sizes, groups, options)
        return level(stage.produces, stage, a, b)
    return stage.call.run(a, b)


def found(operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]) -> Ready | None:
    """The call of an engine that these arguments mean, where nothing but a gradient may be wanted besides."""
    if torch.compiler.is_compiling() or not (bare(a) and bare(b) and nobody_watches()):
        return None
    if not (known_plain((groups, *options)) and plain(sizes)):
        return None
    return _ready(operation, (a.shape, a.stride()), (b.shape, b.stride()), a.dtype, b.dtype, sizes, groups, options)


@lru_cache(maxsize=KEPT_CALLS)
def _ready(
    operation: str,
    a: Lying,
    b: Lying,
    one: torch.dtype,
    two: torch.dtype,
    sizes: Sizes,
    groups: Any,
    options: tuple[Any, ...],
) -> Ready:
    """The call that these arguments mean, and what its derivatives are."""
    dtype = common_dtype(OPERATIONS[operation], one, two)
    problem = _problem(operation, tuple(a[0]), tuple(b[0]), dtype, sizes, groups, options)
    geometry, produces = problem.geometry, problem.produces
    order = best_order(produces, geometry.banked, a, b)
    values = dict(zip(DEFAULTS, options, strict=True))
    call = call_of(problem, values["engine"], dtype, order)
    shared = problem.channels.groups, None, written(values, DEFAULTS)
    return Ready(produces, a, b, shared, call)


def _problem(
    operation: str, a: Shape, b: Shape, dtype: torch.dtype, sizes: Sizes, groups: Groups, options: tuple[Any, ...]
) -> Problem:
    values = dict(zip(DEFAULTS, options, strict=True))
    del values["engine"]
    return PROBLEMS[operation](tuple(a), tuple(b), *sizes, kind_of(dtype), Options(groups=groups, **values))


_checked = lru_cache(maxsize=KEPT_CALLS)(_problem)


def _operator(operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]) -> Tensor:
    """The operator called, with arguments that it can carry."""
    produces = OPERATIONS[operation]
    for role, tensor in zip(OPERANDS[produces], (a, b), strict=True):
        check(role.value, tensor)
    check_devices(produces, a, b)
    a, b = lowered(a.device.type, a, b)
    dtype = common_dtype(produces, a.dtype, b.dtype)
    if isinstance(groups, Tensor) and not groups.ndim:
        groups = groups.item()
    if not (torch.compiler.is_compiling() or isinstance(groups, Tensor)) and known(a) and known(b):
        find = _checked if plain((*sizes, groups, *options)) else _problem
        find(operation, a.shape, b.shape, dtype, sizes, groups, options)
    number, graph = pattern(groups, a)
    text = written(dict(zip(DEFAULTS, options, strict=True)), DEFAULTS)
    sizes = sizes_of(produces, a.ndim - 2, b, sizes)
    result: Tensor = OPERATORS[produces](a.to(dtype), b.to(dtype), *sizes, number, graph, text, None)
    return result
