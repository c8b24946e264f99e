"""What is asked of the tensors and sizes of a call, in one line for people."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from ..arguments import LOCAL, Groups
from ..form import OPERANDS, Role
from .engines import DTYPES, Sizes
from .options import plain, short


def check(name: str, tensor: Any) -> None:
    """Raise what a tensor is not that it has to be."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} of type {type(tensor).__name__}: expected a torch.Tensor")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} of layout {tensor.layout}: expected a dense tensor; use {name}.to_dense()")
    check_dtype(name, tensor.dtype)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    if short(dtype).startswith("q"):
        raise TypeError(f"{name} of dtype {short(dtype)}: expected numbers; use {name}.dequantize()")
    if dtype not in DTYPES:
        cast = "complex128" if dtype.is_complex else "float64"
        expected = f"expected {', '.join(DTYPES.values())}"
        raise TypeError(f"{name} of dtype {short(dtype)}: {expected}; cast it, for example with .to(torch.{cast})")


def common_dtype(produces: Role, one: torch.dtype, two: torch.dtype) -> torch.dtype:
    """The dtype of a result: NumPy's promotion."""
    if one is two and one in DTYPES:
        return one
    for role, dtype in zip(OPERANDS[produces], (one, two), strict=True):
        check_dtype(role.value, dtype)
    if {one, two} == {torch.float16, torch.bfloat16}:
        names = f"{short(one)} and {short(two)}"
        raise TypeError(f"dtypes {names}: NumPy has no common type for them; cast one, for example to float32")
    return torch.promote_types(one, two)


def check_devices(produces: Role, a: Tensor, b: Tensor) -> None:
    if a.device != b.device:  # names are made only where they are needed
        one, two = OPERANDS[produces]
        check_device(two.value, b, one.value, a)


def check_device(name: str, tensor: Tensor, other: str, beside: Tensor) -> None:
    if tensor.device != beside.device:
        raise ValueError(f"{name} on device {tensor.device}: expected {beside.device}, as {other}")


def check_order(order: Sequence[int] | None) -> None:
    """Memory is laid out by it, whoever calls the operator."""
    if order is not None and sorted(order) != list(range(len(order))):
        raise ValueError(f"order={list(order)}: expected each axis once")


def pattern(groups: Groups, beside: Tensor) -> tuple[int, Tensor | None]:
    """The number of groups, and the channel graph as a tensor on the processor, fake where the operands are."""
    if torch.compiler.is_compiling():
        if isinstance(groups, np.ndarray) and torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling():
            raise TypeError(
                "groups of type ndarray: torch.export(strict=True) would lose its values; "
                "expected a tensor, as torch.from_numpy makes one, or strict=False"
            )
        if isinstance(groups, Tensor | np.ndarray | list | tuple):
            return 1, torch.as_tensor(groups, device="cpu")
        return index(groups), None
    if isinstance(groups, np.ndarray):
        groups = np.ascontiguousarray(groups) if groups.ndim else groups.item()
    if not isinstance(groups, Tensor | np.ndarray | list | tuple):
        return index(groups), None
    check_graph(groups)
    mode = beside.fake_mode if isinstance(beside, FakeTensor) else active_fake_mode()
    if mode is None or isinstance(groups, FakeTensor):
        return 1, torch.as_tensor(groups, device="cpu").clone()  # backward finds what forward saw
    with unset_fake_temporarily():
        graph = torch.as_tensor(groups, device="cpu").clone()
    return 1, graph if mode.allow_non_fake_inputs else mode.from_tensor(graph)


def check_graph(groups: Any) -> None:
    """A graph says which channels are connected: it has to have numbers."""
    if isinstance(groups, Tensor) and groups.is_meta:
        raise ValueError("groups on device meta: expected a channel graph with values; make it on the processor")


def sizes_of(produces: Role, rank: int, b: Tensor, sizes: Sizes) -> Sizes:
    """The sizes of an operation as lists of one per axis."""
    if produces is Role.WEIGHT:
        kernel, bank = sizes
        if bank is not None:
            given = zip(each(bank, rank), b.shape[2:], strict=True)
            bank = [size if isinstance(period, str) and period == LOCAL else period for period, size in given]
        return each(kernel, rank), bank
    return tuple([None if size is None else each(size, rank) for size in sizes])


def each(value: Any, rank: int) -> list[Any]:
    """A value for every axis, or one per axis, as a list."""
    if not isinstance(value, int | list | tuple):
        value = plain(value)
    values = list(value) if isinstance(value, list | tuple) else [value] * rank
    # torch.jit.trace has tensors for the sizes of tensors: its program is for the sizes that it has seen.
    return [plain(one) if isinstance(one, Tensor) else one for one in values]


def known(tensor: Tensor) -> bool:
    """Whether the shape is numbers, not symbols."""
    return all(type(size) is int for size in tensor.shape)
