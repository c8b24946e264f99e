"""The three operations by PyTorch's own operators, on whatever device the tensors are.

Kernels that all positions share, up to rank three, are convolutions that PyTorch has; a border is written out around
the visible before, and folded back after. Everything else is a gather of the windows and a product for each stack of
channel blocks, over the tables of the im2row engine.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.im2row import table
from ..form import Problem, Role
from ..geometry import Axis, Geometry

LARGEST_RANK = 3
"""Of PyTorch's own convolutions."""


def compute(problem: Problem, a: Tensor, b: Tensor) -> Tensor:
    """The operation on tensors of the problem's shapes, below autograd."""
    if problem.batch == 0:
        return a.new_zeros(problem.shape(problem.produces))
    geometry = problem.geometry
    shared = problem.channels.mask is None and not geometry.banked and not problem.complex
    shared = shared and 1 <= geometry.rank <= LARGEST_RANK
    return (_convolution if shared else _products)(problem, a, b)


# Convolutions that PyTorch has.


def _convolution(problem: Problem, a: Tensor, b: Tensor) -> Tensor:
    axes = problem.geometry.axes
    if not all(map(_plain, axes)):
        extended = Geometry(tuple(axis.extended for axis in axes))
        if problem.produces is not Role.VISIBLE:
            a = _extend(a, axes)
        inner = Problem(problem.produces, extended, problem.channels, problem.batch, problem.dtype, problem.itemsize)
        result = _convolution(inner, a, b)
        return _fold(result, axes) if problem.produces is Role.VISIBLE else result
    padding, stride, dilation = zip(*((axis.before, axis.stride, axis.dilation) for axis in axes), strict=True)
    none, groups = (0,) * len(axes), problem.channels.groups
    match problem.produces:
        case Role.HIDDEN:
            return torch.convolution(a, b, None, stride, padding, dilation, False, none, groups)
        case Role.VISIBLE:
            more = tuple(map(_left_over, axes))
            return torch.convolution(a, b, None, stride, padding, dilation, True, more, groups)
        case Role.WEIGHT:
            like = a.new_empty(1).expand(problem.shape(Role.WEIGHT))
            mask = [False, True, False]
            gradients: Any = torch.ops.aten.convolution_backward(
                b, a, like, None, stride, padding, dilation, False, none, groups, mask
            )
            weight: Tensor = gradients[1]
            return weight


def _left_over(axis: Axis) -> int:
    """How many visible positions are more than the windows reach, with the padding on both sides alike."""
    return axis.visible + 2 * axis.before - axis.reach


def _plain(axis: Axis) -> bool:
    """Whether PyTorch's padding, alike on both sides, gives the same sizes."""
    return axis.border == "zero" and 0 <= _left_over(axis) < axis.stride


def _extend(visible: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """All that the windows cover, the border written out."""
    for dim, axis in enumerate(axes, start=2):
        if axis.border == "zero":
            before, after = _pads(axis, visible.ndim - 1 - dim)
            visible = torch.constant_pad_nd(torch.constant_pad_nd(visible, before, 0), after, 0)
        else:
            visible = visible.index_select(dim, _index(axis, visible.device))
    return visible


def _fold(extended: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """The transpose of `_extend`: what a border was read from receives it back."""
    for dim, axis in enumerate(axes, start=2):
        if axis.border == "zero":
            before, after = ([-pad for pad in pads] for pads in _pads(axis, extended.ndim - 1 - dim))
            extended = torch.constant_pad_nd(torch.constant_pad_nd(extended, after, 0), before, 0)
        else:
            shape = (*extended.shape[:dim], axis.visible, *extended.shape[dim + 1 :])
            extended = extended.new_zeros(shape).index_add(dim, _index(axis, extended.device), extended)
    return extended


def _pads(axis: Axis, others: int) -> tuple[list[int], list[int]]:
    """The zeros before and after an axis that others follow; fewer than none where windows do not reach the end."""
    none = [0, 0] * others
    return [*none, axis.before, 0], [*none, 0, axis.reach - axis.before - axis.visible]


@lru_cache(maxsize=64)
def _index(axis: Axis, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(axis.extension)).to(device)


# Windows and products.


@lru_cache(maxsize=16)
def _tables(geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What each (kernel of the bank, turn, tap) reads, where each (kernel, turn) is, and which one is at each place.

    One position past the last stands for the zero of the border, and for a turn left over.
    """
    at = table(geometry)
    order = np.argsort(at.places, axis=None, kind="stable")[: prod(geometry.hidden)]
    reads, places, back = (
        torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in (at.reads, at.places, order)
    )
    return reads, places, back


def _products(problem: Problem, a: Tensor, b: Tensor) -> Tensor:
    reads, places, back = _tables(problem.geometry, a.device)
    arrays = dict(zip(problem.operands, (a, b), strict=True))
    shape, channels = problem.shape(problem.produces), problem.channels
    banks, _, taps = reads.shape
    result = {
        Role.HIDDEN: (problem.batch, channels.hidden, len(back)),
        Role.VISIBLE: (problem.batch, channels.visible, prod(problem.geometry.visible) + 1),
        Role.WEIGHT: (banks, *channels.weight, taps),
    }[problem.produces]
    out = a.new_zeros(result)
    given = {role: _gathered(role, array, reads, places, channels.weight) for role, array in arrays.items()}
    for stack in channels.blocks:
        hidden, visible, columns = (
            torch.from_numpy(x).to(a.device) for x in (stack.hidden, stack.visible, stack.columns)
        )
        part = {
            role: array[:, hidden[:, :, None], columns[:, None, :]]
            if role is Role.WEIGHT
            else array[:, visible if role is Role.VISIBLE else hidden]
            for role, array in given.items()
        }
        one, two = (part[role] for role in problem.operands)
        match problem.produces:
            case Role.HIDDEN:
                sums = torch.einsum("ncbqrt,qcabt->ncaqr", one, two).flatten(3)[..., back]
                out.index_copy_(1, hidden.flatten(), sums.flatten(1, 2))
            case Role.VISIBLE:
                terms = torch.einsum("ncaqr,qcabt->ncbqrt", one, two).flatten(3).flatten(1, 2)
                sums = out.new_zeros(terms.shape[0], terms.shape[1], out.shape[2]).index_add_(2, reads.flatten(), terms)
                out.index_add_(1, visible.flatten(), sums)
            case Role.WEIGHT:
                out[:, hidden[:, :, None], columns[:, None, :]] = torch.einsum("ncbqrt,ncaqr->qcabt", one, two)
    return (out[..., :-1] if problem.produces is Role.VISIBLE else out).reshape(shape)


def _gathered(role: Role, array: Tensor, reads: Tensor, places: Tensor, channels: tuple[int, int]) -> Tensor:
    """Windows (n, i, bank, turn, tap), hidden positions (n, o, bank, turn) or kernels (bank, o, i, tap)."""
    if role is Role.WEIGHT:
        return array.reshape(len(reads), *channels, reads.shape[2])
    flat = torch.constant_pad_nd(array.flatten(2) if array.ndim > 2 else array.unsqueeze(2), [0, 1], 0)
    return flat[:, :, reads if role is Role.VISIBLE else places]
