"""Max pooling in any number of dimensions, and its transpose: a selection of positions and its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import Padding, PerAxis, padding_per_axis, per_axis
from .arrays import allocate, compute_dtype, operand
from .geometry import OUTSIDE, Axis, Geometry, pooled
from .memory import address

Array = NDArray[Any]

WORTH_THREADS = 1 << 18
"""Numbers to compare or add from which on a call is cut among threads."""


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
    geometry = geometry_of(v, window, stride, padding, dilation, ceil)
    hidden = allocate("max_pool", (*v.shape[:2], *geometry.hidden), v.dtype, v)
    indices = allocate("max_pool", hidden.shape, np.int64, hidden)
    last, dtype = _is_channels_last(v), _native(v.dtype)
    with _filled(hidden, last, dtype) as values, _filled(indices, last, np.dtype(np.int64)) as where:
        if hidden.size:
            _take_largest(_contiguous(v, last, dtype), values, where, geometry, last)
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
    visible = allocate("max_pool_transpose", (*h.shape[:2], *size), h.dtype, h)
    last, dtype, pixels = _is_channels_last(visible), _native(h.dtype), prod(size)
    places = _contiguous(at, last, np.dtype(np.int64))
    if at.size and not places.view(np.uint64).max() < pixels:  # what is negative is large without its sign
        raise ValueError(f"indices from {at.min()} to {at.max()}: expected 0 to {pixels - 1} for visible size {size}")
    if h.dtype.kind == "c":
        visible.real, visible.imag = (max_pool_transpose(part, at, size) for part in (h.real, h.imag))
        return visible
    # Values that meet are added in the dtype of computation, and rounded once.
    with _filled(visible, last, dtype) as sums:
        if sums.size:
            _scatter(_contiguous(h, last, dtype), places, sums, last)
    return visible


_axis = lru_cache(maxsize=256)(pooled)


def geometry_of(v: Array, window: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Geometry:
    """What the arguments of a pooling mean for an array."""
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
        numbers = all(type(x) is int for x in v.shape)  # and not PyTorch's symbols, which no cache can find
        axis = _axis if numbers else pooled
        return Geometry(tuple(axis(x, *step) for x, step in zip(v.shape[2:], steps, strict=True)))
    except ValueError as error:  # a geometry's window is a kernel's
        raise ValueError(str(error).replace("kernel size", "window")) from None


# Kernels want numbers in the machine's order, each plane in one piece: channels before all positions or after them.


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return compute_dtype(dtype).newbyteorder("=")


def _is_channels_last(array: Array) -> bool:
    """Whether neighbours in memory are channels of a position, rather than positions."""
    apart = [abs(stride) for stride, size in zip(array.strides[2:], array.shape[2:], strict=True) if size > 1]
    return array.shape[1] > 1 and abs(array.strides[1]) < min(apart, default=array.nbytes)


def _ordered(array: Array, last: bool) -> Array:
    """The array with its axes as they lie in memory."""
    return array.transpose(0, *range(2, array.ndim), 1) if last else array


def _contiguous(array: Array, last: bool, dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(_ordered(array, last), dtype)


@contextmanager
def _filled(array: Array, last: bool, dtype: np.dtype[Any]) -> Iterator[Array]:
    """What to fill for an array: its own memory if that is as kernels want it, else other memory, copied at the end."""
    own = _ordered(array, last)
    if own.flags.c_contiguous and own.dtype == dtype:
        yield own
    else:
        other = np.empty(own.shape, dtype)
        yield other
        own[...] = other


@lru_cache(maxsize=16)
def _tables(geometry: Geometry, channels: int) -> tuple[Array, Array, Array]:
    """The rows, heads and spans of `kernels.pool.MaxPool`; spans run over so many channels, or over positions if 0."""
    *others, inner = geometry.axes or (Axis(1, 1, 1),)
    reads = Geometry(tuple(others)).reads
    inside = reads != OUTSIDE
    rows = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    sources = inner.sources
    taps, first = (sources != OUTSIDE).sum(axis=1), np.argmax(sources != OUTSIDE, axis=1)
    positions = sources[np.arange(inner.hidden), first]
    starts = np.arange(inner.hidden)
    if not channels:  # windows that lie inside, next to each other, are one span; those at the edges one each
        whole = inner.interior
        starts = np.array([*range(whole.start), *whole[:1], *range(whole.stop, inner.hidden)])
    counts = np.full(len(starts), channels) if channels else np.diff(starts, append=inner.hidden)
    spans = np.stack([starts, counts, positions[starts], taps[starts]], axis=1)
    heads = reads[inside] * inner.visible
    return rows.astype(np.int64), heads.astype(np.int64), spans.astype(np.int64)


def _take_largest(visible: Array, hidden: Array, indices: Array, geometry: Geometry, last: bool) -> None:
    """Fill contiguous arrays with the largest numbers and where they are."""
    inner = geometry.axes[-1] if geometry.axes else Axis(1, 1, 1)
    positions, windows = prod(geometry.visible), prod(geometry.hidden)
    # Vectors run over channels where those lie together, in the hidden at least; else over positions.
    channels = hidden.shape[-1] if last else hidden.shape[1] if windows == 1 else 1
    if last:
        step, drift, pitch = 1, 0, channels
    elif windows == 1:
        step, drift, pitch = positions, 0, 1
    else:
        step, drift, pitch = inner.stride, inner.stride, 1
    rows, heads, spans = _tables(geometry, 0 if drift else channels)
    kernel = _kernel(visible.dtype, step, positions)
    sizes = (windows // inner.hidden, inner.hidden, positions, channels, pitch, inner.dilation, step, drift)
    arrays = (visible, hidden, indices, rows, heads, spans)
    lines = hidden.size // (inner.hidden * channels)
    _run(
        kernel, arrays, lines, hidden.size * prod(geometry.kernel), lambda begin, end: (len(spans), begin, end, *sizes)
    )


def _kernel(dtype: np.dtype[Any], step: int, positions: int) -> Any:
    from .kernels.pool import MaxPool

    return MaxPool(dtype.name, step if step <= 2 else 0, positions > np.iinfo(np.int32).max)


def _scatter(hidden: Array, indices: Array, visible: Array, last: bool) -> None:
    """Add hidden numbers to visible ones, in contiguous arrays."""
    from .kernels.pool import Scatter

    channels = hidden.shape[-1] if last else 1
    planes = len(hidden) * (1 if last else hidden.shape[1])
    size = visible.size // planes
    outer, inner = (hidden.size // (planes * channels), channels) if last else (1, hidden.size // planes)

    def numbers(begin: int, end: int) -> tuple[int, ...]:
        return begin, end, size, outer, inner, channels, int(last)

    _run(Scatter(hidden.dtype.name), (hidden, indices, visible), planes, hidden.size, numbers)


def _run(
    kernel: Any, arrays: tuple[Array, ...], total: int, work: int, numbers: Callable[[int, int], tuple[int, ...]]
) -> None:
    """Run a kernel over a range, cut among threads where there is work for them."""
    from .kernels.compile import Call, function
    from .kernels.team import run_all
    from .kernels.threads import thread_count

    run, addresses = function(kernel), [address(array) for array in arrays]
    parts = min(thread_count(), total) if work >= WORTH_THREADS else 1
    cuts = [total * part // parts for part in range(parts + 1)]
    run_all([[Call(run, (*addresses, *numbers(*cut)), arrays)] for cut in pairwise(cuts)])
