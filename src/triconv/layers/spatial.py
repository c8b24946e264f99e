"""Layers that rearrange, select or interpolate positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import axes_in, padding_per_axis, per_axis
from ..pool import max_pool, max_pool_transpose
from .base import Layer

Array = NDArray[Any]


class MaxPool(Layer):
    """Take the largest value of each window; the gradient goes to where it was. Nothing is flipped.

    Parameters
    ----------
    window, stride, padding, dilation, ceil
        As for `triconv.max_pool`.

    Notes
    -----
    The lecture of Šegvić, "Max pool, kernel k, stride k"; *Gradient in convolutional neural networks*, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import MaxPool
    >>> layer = MaxPool(2)
    >>> layer.forward(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]]))
    array([[[2., 4., 6.]]])
    >>> layer.backward(np.array([[[1.0, 10.0, 100.0]]]))
    array([[[  0.,   1.,   0.,  10.,   0., 100.]]])
    """

    def __init__(
        self, window: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
    ) -> None:
        super().__init__()
        per_axis("window", window, axes_in(window))
        if stride is not None:
            per_axis("stride", stride, axes_in(stride))
        per_axis("dilation", dilation, axes_in(dilation))
        padding_per_axis(padding, axes_in(padding))
        self.window = window
        self.options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil": ceil}

    def forward(self, x: Array) -> Array:
        hidden, indices = max_pool(x, self.window, **self.options)
        self.remember((indices, x.shape[2:]))
        return hidden

    def backward(self, gradient: Array) -> Array:
        indices, visible_size = self.recall()
        return max_pool_transpose(gradient, indices, visible_size)


class GlobalMaxPool(Layer):
    """Take the largest value of each channel: (N, C, *X) to (N, C). Nothing is flipped.

    The gradient is ∂L/∂q · onehot(argmax p) (the lecture of Šegvić, "Global max pool").

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import GlobalMaxPool
    >>> GlobalMaxPool().forward(np.array([[[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]]))
    array([[5., 4.]])
    """

    def forward(self, x: Array) -> Array:
        hidden, indices = max_pool(x, x.shape[2:])
        self.remember((indices, x.shape[2:]))
        return hidden.reshape(x.shape[:2])

    def backward(self, gradient: Array) -> Array:
        indices, visible_size = self.recall()
        return max_pool_transpose(gradient.reshape(indices.shape), indices, visible_size)


class Upsample(Layer):
    """Enlarge each axis by a whole factor, repeating values or interpolating between them. Nothing is flipped.

    ::

        q[n, i, y] = Σ_x  M_1[y_1, x_1] · … · M_N[y_N, x_N] · p[n, i, x]

    The gradient is the transpose of the same matrices: exact, at the borders too.

    Parameters
    ----------
    factor
        An int of at least 1, or one per axis.
    mode
        "nearest", or "linear": bilinear in two dimensions, trilinear in three; samples lie at the centres of their
        cells and the edge value is repeated outside (PyTorch's align_corners=False).

    Notes
    -----
    The lecture of Šegvić, "Stride: backward summary": the alternative to upsampling by transposed convolution.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Upsample
    >>> Upsample(2, mode="linear").forward(np.array([[[0.0, 4.0]]]))
    array([[[0., 1., 3., 4.]]])
    """

    def __init__(self, factor: int | Sequence[int], *, mode: Literal["nearest", "linear"] = "nearest") -> None:
        super().__init__()
        if mode not in ("nearest", "linear"):
            raise ValueError(f'mode={mode!r}: expected "nearest" or "linear"')
        per_axis("factor", factor, axes_in(factor))
        self.factor, self.mode = factor, mode

    def forward(self, x: Array) -> Array:
        factors = per_axis("factor", self.factor, x.ndim - 2)
        matrices = [interpolation(size, f, self.mode, x.dtype) for size, f in zip(x.shape[2:], factors, strict=True)]
        self.remember(matrices)
        return _along_axes(matrices, x)

    def backward(self, gradient: Array) -> Array:
        return _along_axes([matrix.T for matrix in self.recall()], gradient)


def interpolation(size: int, factor: int, mode: str, dtype: Any) -> Array:
    """The matrix (size·factor, size) that enlarges one axis."""
    matrix = np.zeros((size * factor, size), dtype)
    rows = np.arange(size * factor)
    if mode == "nearest":
        matrix[rows, rows // factor] = 1
        return matrix
    centre = np.clip((rows + 0.5) / factor - 0.5, 0, size - 1)
    low = centre.astype(np.intp)
    high = np.minimum(low + 1, size - 1)
    np.add.at(matrix, (rows, low), 1 - (centre - low))
    np.add.at(matrix, (rows, high), centre - low)
    return matrix


def _along_axes(matrices: Sequence[Array], x: Array) -> Array:
    for axis, matrix in enumerate(matrices, start=2):
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


class Flatten(Layer):
    """Put all axes but the first in one: (N, …) to (N, D).

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Flatten
    >>> Flatten().forward(np.zeros((2, 3, 4))).shape
    (2, 12)
    """

    def forward(self, x: Array) -> Array:
        self.remember(x.shape)
        return x.reshape(len(x), prod(x.shape[1:]))

    def backward(self, gradient: Array) -> Array:
        return gradient.reshape(self.recall())
