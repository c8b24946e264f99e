"""Max pooling on PyTorch tensors, and its transpose: a selection of positions, and its adjoint.

    pool    h[n, i, c] = v[n, i, indices[n, i, c]]        put    v[n, i, x] = Σ_{c : indices[n, i, c] = x}  h[n, i, c]

Given the indices, both are linear, and each is the other's derivative.
"""

from __future__ import annotations

from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import pool
from ..arguments import Padding, PerAxis, per_axis
from ..geometry import OUTSIDE, Geometry
from .engines import COMPUTED
from .layout import order_of, strides_of
from .operands import check, check_device, each, known
from .options import read, short, written
from .registry import SingleLevelFunction, below, outer_levels, register, watched

DEFAULTS: dict[str, Any] = {"stride": None, "padding": 0, "dilation": 1, "ceil": False}


def max_pool(
    visible: Tensor,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil: bool = False,
) -> tuple[Tensor, Tensor]:
    """Take the largest value of each window, and where it was. There is no kernel, so nothing is flipped.

    ::

        h[n, i, c] = max_k  v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible
        Tensor (N, C, *X), real; integers, which PyTorch pools on processors, have to be cast, as for every operation.
    window, stride, padding, dilation, ceil
        As for `triconv.max_pool`.

    Returns
    -------
    hidden, indices
        Both (N, C, *Y), in the memory order of visible: the values, and the flat index into *X where each was found
        (int64). Of equal values the first is taken; a NaN is larger than any number. The values can be differentiated,
        in both modes and any number of times: `max_pool_transpose` puts a gradient where the values were.

    Raises
    ------
    ValueError, TypeError
        As `triconv.max_pool`.

    Notes
    -----
    "Max pool, kernel k, stride k" in the lecture of Šegvić; section 4 of *Gradient in convolutional neural networks*.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch import max_pool
    >>> max_pool(torch.tensor([[[1.0, 5.0, 2.0, 4.0, 3.0]]]), 2, ceil=True)
    (tensor([[[5., 4., 3.]]]), tensor([[[1, 3, 4]]]))
    """
    check("visible", visible)
    if visible.is_complex():
        short_dtype = short(visible.dtype)
        raise TypeError(
            f"visible of dtype {short_dtype}: complex numbers have no largest; pool their real part or modulus"
        )
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "ceil": bool(ceil)}
    if not torch.compiler.is_compiling() and known(visible):
        pool.geometry_of(_like(visible), window, **options)
    way = POOL if watched(visible) else _pool_on_processor
    hidden, indices = way(visible, each(window, visible.ndim - 2), written(options, DEFAULTS), None)
    return hidden, indices


def max_pool_transpose(hidden: Tensor, indices: Tensor, visible_size: PerAxis) -> Tensor:
    """Put each hidden value where `max_pool` found it, and zero elsewhere: its derivative with respect to visible.

    ::

        v[n, i, x] = Σ_{c : indices[n, i, c] = x}  h[n, i, c]

    There is no kernel, so nothing is flipped.

    Parameters
    ----------
    hidden, indices
        Tensors (N, C, *Y): values, and flat indices into *X as `max_pool` returns them.
    visible_size
        X, an int or one per axis.

    Returns
    -------
    torch.Tensor
        visible (N, C, *X) in the dtype and memory order of hidden. Values that meet, where windows overlap, are added.

    Raises
    ------
    ValueError, TypeError
        As `triconv.max_pool_transpose`.

    Notes
    -----
    ``embed`` of ``onehot`` in the lecture of Šegvić.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch import max_pool_transpose
    >>> max_pool_transpose(torch.tensor([[[5.0, 4.0, 3.0]]]), torch.tensor([[[1, 3, 4]]]), 5)
    tensor([[[0., 5., 0., 4., 3.]]])
    """
    check("hidden", hidden)
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices of type {type(indices).__name__}: expected a torch.Tensor")
    if indices.layout is not torch.strided:
        raise TypeError(f"indices of layout {indices.layout}: expected a dense tensor; use indices.to_dense()")
    check_device("indices", indices, "hidden", hidden)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype in NO_INDICES:
        raise TypeError(f"indices of dtype {short(indices.dtype)}: expected integers, as max_pool returns them")
    if not torch.compiler.is_compiling() and known(hidden) and hidden.ndim >= 2:
        per_axis("visible_size", visible_size, hidden.ndim - 2)
    way = PUT if watched(hidden) or watched(indices) else _put_on_processor
    result: Tensor = way(hidden, indices, each(visible_size, hidden.ndim - 2), None)
    return result


NO_INDICES = (torch.bool, torch.quint8, torch.qint8, torch.qint32)

Order = list[int] | None
Sizes = list[int]


def _pairs(tensor: Tensor) -> Tensor:
    """(N, C, *positions) with all positions on one axis."""
    return tensor.reshape(*tensor.shape[:2], prod(tensor.shape[2:]))


def pick(visible: Tensor, indices: Tensor) -> Tensor:
    """The visible values at flat indices."""
    return _pairs(visible).gather(2, _pairs(indices)).reshape(indices.shape)


def _order(tensor: Tensor, order: Order) -> list[int]:
    return order_of(tensor.shape, tensor.stride()) if order is None else order


def _lying(tensor: Tensor, like: Tensor, order: list[int], dtype: torch.dtype) -> Tensor:
    """The tensor itself, if it has the dtype and its axes lie in the order, or such a copy."""
    steps = strides_of(tensor.shape, order)
    if tensor.dtype is dtype and tensor.stride() == steps:
        return tensor
    return like.new_empty_strided(tensor.shape, steps, dtype=dtype).copy_(tensor)


def _computed(tensor: Tensor) -> Tensor:
    return tensor.detach().to(COMPUTED.get(tensor.dtype, tensor.dtype))


def _like(visible: Tensor) -> Any:
    """What the pooling of arrays asks of one, its positions counted."""
    shape = tuple(visible.shape)
    return SimpleNamespace(shape=shape, ndim=len(shape))


def _geometry(visible: Tensor, window: Sizes, text: str) -> Geometry:
    return pool.geometry_of(_like(visible), list(map(int, window)), **{**DEFAULTS, **read(text)})


def _pool_on_processor(visible: Tensor, window: Sizes, text: str, order: Order) -> tuple[Tensor, Tensor]:
    hidden, indices = map(torch.from_numpy, pool.max_pool(_computed(visible).numpy(), window, **read(text)))
    order = _order(visible, order)
    return _lying(hidden, visible, order, visible.dtype), _lying(indices, visible, order, torch.int64)


def _pool_elsewhere(visible: Tensor, window: Sizes, text: str, order: Order) -> tuple[Tensor, Tensor]:
    geometry = _geometry(visible, window, text)
    reads = geometry.reads
    # What the padding supplies is never the largest: the first position that a window has stands for it.
    first = np.take_along_axis(reads, np.argmax(reads != OUTSIDE, axis=1)[:, None], axis=1)
    seen = torch.from_numpy(np.where(reads == OUTSIDE, first, reads)).to(visible.device)
    values, taps = _pairs(visible.detach())[:, :, seen].max(dim=3)
    indices = seen.expand(*taps.shape[:2], -1, -1).gather(3, taps.unsqueeze(3)).squeeze(3)
    order = _order(visible, order)
    shape = (*visible.shape[:2], *geometry.hidden)
    hidden, indices = values.reshape(shape), indices.reshape(shape)
    return _lying(hidden, visible, order, visible.dtype), _lying(indices, visible, order, torch.int64)


def _pool_nowhere(visible: Tensor, window: Sizes, text: str, order: Order) -> tuple[Tensor, Tensor]:
    shape = (*visible.shape[:2], *_geometry(visible, window, text).hidden)
    steps = strides_of(shape, _order(visible, order))
    return visible.new_empty_strided(shape, steps), visible.new_empty_strided(shape, steps, dtype=torch.int64)


def _put_on_processor(hidden: Tensor, indices: Tensor, size: Sizes, order: Order) -> Tensor:
    check_device("indices", indices, "hidden", hidden)
    visible = pool.max_pool_transpose(_computed(hidden).numpy(), indices.numpy(), size)
    return _lying(torch.from_numpy(visible), hidden, _order(hidden, order), hidden.dtype)


def _put_elsewhere(hidden: Tensor, indices: Tensor, size: Sizes, order: Order) -> Tensor:
    values = _pairs(_computed(hidden))
    sums = values.new_zeros((*hidden.shape[:2], prod(size))).scatter_add(2, _pairs(indices), values)
    return _lying(sums.reshape(*hidden.shape[:2], *size), hidden, _order(hidden, order), hidden.dtype)


def _put_nowhere(hidden: Tensor, indices: Tensor, size: Sizes, order: Order) -> Tensor:
    check_device("indices", indices, "hidden", hidden)
    if indices.shape != hidden.shape:
        raise ValueError(f"indices of shape {tuple(indices.shape)}: expected the hidden's shape {tuple(hidden.shape)}")
    shape = (*hidden.shape[:2], *size)
    return hidden.new_empty_strided(shape, strides_of(shape, _order(hidden, order)))


def _in_front(tensor: Tensor, dim: int | None, info: Any) -> Tensor:
    """A tensor with the batch as its first axis, where it becomes more examples."""
    return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _pool_batched(info: Any, in_dims: tuple[Any, ...], visible: Tensor, *rest: Any) -> Any:
    visible = _in_front(visible, in_dims[0], info)
    found = POOL(visible.flatten(0, 1), *rest)
    return tuple(one.unflatten(0, visible.shape[:2]) for one in found), (0, 0)


def _put_batched(info: Any, in_dims: tuple[Any, ...], hidden: Tensor, indices: Tensor, *rest: Any) -> Any:
    hidden, indices = (_in_front(x, dim, info) for x, dim in zip((hidden, indices), in_dims[:2], strict=True))
    visible = PUT(hidden.flatten(0, 1), indices.flatten(0, 1), *rest)
    return visible.unflatten(0, hidden.shape[:2]), 0


class Pool(SingleLevelFunction):
    """One level of differentiation of `max_pool`."""

    @staticmethod
    def forward(ctx: Any, keys: Any, visible: Tensor, window: Sizes, text: str, order: Order) -> Any:
        order = _order(visible, order)
        hidden, indices = below(POOL, keys, visible, window, text, order)
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        ctx.size, ctx.order = visible.shape[2:], order_of(visible.shape, visible.stride())
        return hidden, indices

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None, _: None) -> Any:
        gradient = None if cotangent is None else PUT(cotangent, *ctx.saved_tensors, ctx.size, ctx.order)
        return None, gradient, None, None, None

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor | None, *__: None) -> Any:
        with outer_levels():
            return None if tangent is None else pick(tangent, *ctx.saved_tensors), None


class Put(SingleLevelFunction):
    """One level of differentiation of `max_pool_transpose`."""

    @staticmethod
    def forward(ctx: Any, keys: Any, hidden: Tensor, indices: Tensor, size: Sizes, order: Order) -> Tensor:
        order = _order(hidden, order)
        visible: Tensor = below(PUT, keys, hidden, indices, size, order)
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)
        ctx.set_materialize_grads(False)
        ctx.size, ctx.order = size, order
        return visible

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        gradient = None if cotangent is None else pick(cotangent, *ctx.saved_tensors)
        return None, gradient, None, None, None

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor | None, *__: None) -> Any:
        with outer_levels():
            return None if tangent is None else PUT(tangent, *ctx.saved_tensors, ctx.size, ctx.order)


POOL = register(
    "max_pool",
    "(Tensor visible, SymInt[] window, str options, int[]? order) -> (Tensor, Tensor)",
    on_processor=_pool_on_processor,
    elsewhere=_pool_elsewhere,
    nowhere=_pool_nowhere,
    batched=_pool_batched,
    level=Pool.apply,
)
PUT = register(
    "max_pool_transpose",
    "(Tensor hidden, Tensor indices, SymInt[] visible_size, int[]? order) -> Tensor",
    on_processor=_put_on_processor,
    elsewhere=_put_elsewhere,
    nowhere=_put_nowhere,
    batched=_put_batched,
    level=Put.apply,
)
