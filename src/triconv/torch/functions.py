"""The three operations on PyTorch tensors: validate, and call an operator or, where nothing watches, an engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..arguments import LOCAL, Bank, Groups, Padding, PerAxis
from ..form import OPERANDS, OPERATIONS, Problem, Role
from ..ops import Border
from .engines import DTYPES, KEPT_CALLS, Call, Shape, Sizes, call_of, problem_of
from .layout import order_of
from .operators import OPERATORS, order_for
from .options import DEFAULTS, written


def conv(
    visible: Tensor,
    weight: Tensor,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """TODO"""
    return _call("conv", visible, weight, (), groups, (stride, padding, dilation, border, precision, engine))


def conv_transpose(
    hidden: Tensor,
    weight: Tensor,
    *,
    visible_size: PerAxis | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """TODO"""
    options = stride, padding, dilation, border, precision, engine
    return _call("conv_transpose", hidden, weight, (visible_size,), groups, options)


def conv_weight(
    visible: Tensor,
    hidden: Tensor,
    kernel_size: PerAxis,
    *,
    bank: Bank = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """TODO"""
    options = stride, padding, dilation, border, precision, engine
    return _call("conv_weight", visible, hidden, (kernel_size, bank), groups, options)


NAMES = ("stride", "padding", "dilation", "border", "precision", "engine")


def _call(operation: str, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, options: tuple[Any, ...]) -> Tensor:
    produces = OPERATIONS[operation]
    rank = a.ndim - 2
    text = written(dict(zip(NAMES, options, strict=True)))
    graph = None
    if not isinstance(groups, int):
        graph, groups = torch.as_tensor(groups), 1
    if produces is Role.VISIBLE and sizes[0] is not None:
        sizes = (_each(sizes[0], rank),)
    elif produces is Role.WEIGHT:
        kernel, bank = sizes
        if bank is not None:
            bank = [y if t == LOCAL else t for t, y in zip(_each(bank, rank), b.shape[2:], strict=True)]
        sizes = _each(kernel, rank), bank
    return OPERATORS[produces](a, b, *sizes, groups, graph, text, None)


def _each(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * rank
