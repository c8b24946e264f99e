"""Max pooling in any number of dimensions, and its transpose: a selection of positions and its adjoint."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import Padding, PerAxis, padding_per_axis, per_axis
from .arrays import allocate, compute_dtype, operand
from .geometry import OUTSIDE, Geometry, pooled

Array = NDArray[Any]


def max_pool(
    visible: ArrayLike,
    window: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil: bool = False,
) -> tuple[Array, Array]:
    """Take the largest value of each window, and where it was. There is no kernel, so nothing is flipped.

    ::

        h[n, i, c] = max_k  v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible
        (N, C, *X), real.
    window
        K, an int or one per axis.
    stride
        s, an int or one per axis; None is the window, so that windows do not overlap.
    padding, dilation
        As for `conv`; the padding is never the largest.
    ceil
        Keep a last window that lies in the visible only in part: Y = ceil instead of floor.

    Returns
    -------
    hidden, indices
        Both (N, C, *Y): the values, in the dtype and memory order of visible, and the flat index into *X where each was
        found (int64). Of equal values the first is taken; a NaN is larger than any number.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    "Max pool, kernel k, stride k" in the lecture of Šegvić; section 4 of *Gradient in convolutional neural networks*.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> hidden, indices = triconv.max_pool(np.array([[[1.0, 5.0, 2.0, 4.0, 3.0]]]), 2, ceil=True)
    >>> hidden, indices
    (array([[[5., 4., 3.]]]), array([[[1, 3, 4]]]))
    """
    v = operand("visible", visible)
    if v.dtype.kind == "c":
        raise TypeError(f"visible of dtype {v.dtype}: complex numbers have no largest; pool their real part or modulus")
    geometry = _geometry(v, window, stride, padding, dilation, ceil)
    # One value after the last, smaller than any, is what the padding reads.
    flat = np.full((*v.shape[:2], prod(geometry.visible) + 1), -np.inf, v.dtype)
    flat[..., :-1] = v.reshape(*v.shape[:2], prod(geometry.visible))
    reads = geometry.reads
    first = np.argmax(reads != OUTSIDE, axis=1)
    where = np.broadcast_to(reads[np.arange(len(reads)), first], (*v.shape[:2], len(reads))).copy()
    best = flat[..., where[0, 0]] if where.size else np.empty(where.shape, v.dtype)
    for tap in reads.T:
        value = flat[..., tap]
        with np.errstate(invalid="ignore"):  # comparing with NaN is meant
            better = (value > best) | (np.isnan(value) & ~np.isnan(best))
        np.copyto(best, value, where=better)
        np.copyto(where, tap, where=better)
    shape = (*v.shape[:2], *geometry.hidden)
    hidden, indices = allocate("max_pool", shape, v.dtype, v), allocate("max_pool", shape, np.int64, v)
    hidden[...], indices[...] = best.reshape(shape), where.reshape(shape)
    return hidden, indices


def max_pool_transpose(hidden: ArrayLike, indices: ArrayLike, visible_size: PerAxis) -> Array:
    """Put each hidden value where `max_pool` found it, and zero elsewhere: its gradient with respect to visible.

    ::

        v[n, i, x] = Σ_{c : indices[n, i, c] = x}  h[n, i, c]

    There is no kernel, so nothing is flipped.

    Parameters
    ----------
    hidden, indices
        (N, C, *Y): values, and flat indices into *X as `max_pool` returns them.
    visible_size
        X, an int or one per axis.

    Returns
    -------
    numpy.ndarray
        visible (N, C, *X) in the dtype and memory order of hidden. Values that meet, where windows overlap, are added.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    ``embed`` of ``onehot`` in the lecture of Šegvić.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> triconv.max_pool_transpose(np.array([[[5.0, 4.0, 3.0]]]), np.array([[[1, 3, 4]]]), 5)
    array([[[0., 5., 0., 4., 3.]]])
    """
    h, at = operand("hidden", hidden), np.asarray(indices)
    if h.ndim < 2:
        raise ValueError(f"hidden of shape {h.shape}: expected (examples, channels, *positions)")
    size = per_axis("visible_size", visible_size, h.ndim - 2)
    if at.dtype.kind not in "iu":
        raise TypeError(f"indices of dtype {at.dtype}: expected integers, as max_pool returns them")
    if at.shape != h.shape:
        raise ValueError(f"indices of shape {at.shape}: expected the hidden's shape {h.shape}")
    pixels = prod(size)
    if at.size and not 0 <= at.min() <= at.max() < pixels:
        raise ValueError(f"indices from {at.min()} to {at.max()}: expected 0 to {pixels - 1} for visible size {size}")
    visible = allocate("max_pool_transpose", (*h.shape[:2], *size), h.dtype, h)
    # Values that meet are added in the dtype of computation, and rounded once.
    flat = np.zeros((h.shape[0] * h.shape[1], pixels), compute_dtype(h.dtype))
    rows = np.arange(len(flat))[:, None]
    each = (len(flat), prod(h.shape[2:]))
    np.add.at(flat, (rows, at.reshape(each)), h.reshape(each).astype(flat.dtype, copy=False))
    visible[...] = flat.reshape(visible.shape)
    return visible


def _geometry(v: Array, window: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Geometry:
    if v.ndim < 2 or 0 in v.shape[1:]:
        raise ValueError(f"visible of shape {v.shape}: expected (examples, channels, *positions), none of them zero")
    rank = v.ndim - 2
    windows = per_axis("window", window, rank)
    steps = zip(
        windows,
        windows if stride is None else per_axis("stride", stride, rank),
        per_axis("dilation", dilation, rank),
        padding_per_axis(padding, rank),
        (bool(ceil),) * rank,
        (f" on axis {axis}" for axis in range(rank)),
        strict=True,
    )
    try:
        return Geometry(tuple(pooled(x, *step) for x, step in zip(v.shape[2:], steps, strict=True)))
    except ValueError as error:  # a geometry's window is a kernel's
        raise ValueError(str(error).replace("kernel size", "window")) from None
